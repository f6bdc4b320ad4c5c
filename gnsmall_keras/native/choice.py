"""Which kernels compute a network: the engine's, or those of Keras's backend.

That is a way of running. `using` names it for all that is called inside.
"""

import contextlib
import contextvars
import functools
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import keras

from gnsmall_keras.config import KERNELS, KERNELS_VARIABLE
from gnsmall_keras.lines import one_line, say
from gnsmall_keras.native.build import library
from gnsmall_keras.native.compiler import NativeUnavailable
from gnsmall_keras.native.match import Mismatch, match

if TYPE_CHECKING:
    from gnsmall_keras.native.network import NativeNetwork

_chosen: contextvars.ContextVar[str] = contextvars.ContextVar(
    "kernels", default="auto"
)


class NoNativeKernels(ValueError):
    """Native kernels were asked for where there are none.

    Attributes:
        reason: why there are none, in one line without its stop.
    """

    def __init__(self, reason: Exception | str):
        self.reason = str(reason).rstrip(".")
        super().__init__(
            f"kernels='native' is not possible: {self.reason}. Set kernels to "
            "'auto' or 'keras'."
        )


def check_kernels(kernels: str) -> str:
    """Returns which kernels are asked for.

    "auto" is what an enclosing `using` says, or else the environment variable
    GNSMALL_KERNELS.

    Raises:
        ValueError: if there are none of that name.
    """
    for name, value in (
        ("kernels", kernels),
        ("kernels", _chosen.get()),
        (KERNELS_VARIABLE, os.environ.get(KERNELS_VARIABLE) or "auto"),
    ):
        if value not in KERNELS:
            raise ValueError(
                f"`{name}` must be one of {KERNELS}. Received: {value!r}."
            )
        if value != "auto":
            return value
    return "auto"


@contextlib.contextmanager
def using(kernels: str) -> Iterator[None]:
    """Makes all "auto" inside mean `kernels`.

    Raises:
        ValueError: if there are none of that name.
    """
    token = _chosen.set(check_kernels(kernels))
    try:
        yield
    finally:
        _chosen.reset(token)


def network_for_training(
    model: keras.Model, kernels: str, *, why_not: str = ""
) -> "NativeNetwork | None":
    """Returns the native form of a model that is to be trained, or None.

    Where "auto" finds a GhostNet on a CPU that it has no native form of, a
    line says why.

    Args:
        model: any.
        kernels: "auto", "keras" or "native".
        why_not: what besides the model stands in the way.

    Raises:
        ValueError: if there are none of that name.
        NoNativeKernels: if they have to be native and cannot.
    """
    kernels = check_kernels(kernels)
    if kernels == "keras":
        return None
    try:
        if not is_on_cpu(model):
            raise Mismatch("it is for one CPU", is_ghostnet=False)
        matched = match(model)
        if why_not:
            raise Mismatch(why_not)
        if not _is_usual(kernels):
            raise Mismatch("on JAX it has to be asked for, kernels='native'")
        return _native(matched)
    except (Mismatch, NativeUnavailable) as reason:
        if kernels == "native":
            raise NoNativeKernels(reason) from None
        if getattr(reason, "is_ghostnet", True):
            _say_once(
                f"Keras computes this network, not the native code: {reason}"
            )
    return None


def network_for_inference(
    model: keras.Model, kernels: str = "auto"
) -> "NativeNetwork | None":
    """Returns the native form of a model that only answers, or None."""
    kernels = check_kernels(kernels)
    if kernels == "keras" or not _is_usual(kernels) or not is_on_cpu(model):
        return None
    try:
        return _native(match(model, training=False))
    except (Mismatch, NativeUnavailable):
        return None


def _is_usual(kernels):
    """Whether "auto" is native here: JAX's programs with it compile long."""
    return kernels == "native" or keras.config.backend() != "jax"


def is_on_cpu(model: keras.Model) -> bool:
    """Whether a model is on one CPU, and is not shared between devices."""
    if not model.variables or keras.distribution.distribution() is not None:
        return False
    value = model.variables[0].value
    if keras.config.backend() == "torch":
        return value.device.type == "cpu"
    if keras.config.backend() == "jax":
        from gnsmall_keras.native import on_jax

        return on_jax.is_on_cpu(value)
    import tensorflow as tf

    # The scope that a model was built in need not be the present one.
    own = getattr(value, "distribute_strategy", None)
    strategies = [tf.distribute.get_strategy(), *filter(None, [own])]
    alone = all(one.num_replicas_in_sync == 1 for one in strategies)
    return alone and "CPU" in value.device


def has_hooks(model: keras.Model) -> bool:
    """Whether PyTorch calls hooks with the gradient of a weight."""
    if keras.config.backend() != "torch":
        return False
    from gnsmall_keras.native import on_torch

    variables = model.trainable_variables
    return any(on_torch.has_hooks(variable.value) for variable in variables)


def _native(matched):
    """The native form; what stands in its way is one error, for Keras can."""
    reason = _why_unavailable()
    if reason:
        raise NativeUnavailable(reason)
    try:
        return _kind()(matched)
    except Exception as error:  # of loading, threads or memory
        raise NativeUnavailable(one_line(error)) from error


def _kind():
    backend = keras.config.backend()
    if backend == "tensorflow":
        from gnsmall_keras.native.on_tensorflow import TensorFlowNetwork

        return TensorFlowNetwork
    if backend == "torch":
        from gnsmall_keras.native.on_torch import TorchNetwork

        return TorchNetwork
    from gnsmall_keras.native.on_jax import JaxNetwork

    return JaxNetwork


@functools.cache
def _why_unavailable() -> str:
    """Why there is no library, or nothing; a compiler is tried once."""
    try:
        library()
    except Exception as reason:  # a machine may lack anything
        return one_line(reason)
    return ""


_say_once = functools.cache(say)
