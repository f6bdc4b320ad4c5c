"""Where a training runs: on one device, or on several that share each step."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import keras

from gnsmall_keras.config import Device
from gnsmall_keras.cores import asked_threads, process_cores, usable_cores
from gnsmall_keras.fields import check
from gnsmall_keras.models.kernels import is_jax_on_gpu
from gnsmall_keras.records import provenance

_STEPS_AT_ONCE = 25
_THREADS = {  # variables that the backends read
    "jax": ("PJRT_NPROC", "NPROC"),
    "tensorflow": ("TF_NUM_INTRAOP_THREADS",),
}


@contextlib.contextmanager
def on_devices(kind: str = "auto", count: int = 1) -> Iterator[list[str]]:
    """Makes and trains networks on the devices asked for.

    Of several, each has the whole network and takes an equal part of every
    batch; statistics and gradients are those of the whole batch. On JAX it is
    `keras.distribution.DataParallel`, on TensorFlow `tf.distribute`.

    Args:
        kind: "cpu", "gpu", or "auto": GPUs if there are any.
        count: how many.

    Yields:
        What they are, such as `["gpu:0 (NVIDIA H100)"]`.

    Raises:
        ValueError: if there are not as many.
    """
    names = _choose(kind, count)
    scope = contextlib.nullcontext()
    if count > 1:
        scope = _shared(names)
    elif kind != "auto":
        scope = keras.device(_scope_name(names[0]))
    with scope, _whole_float32():
        yield [_describe(name) for name in names]


@contextlib.contextmanager
def _whole_float32():
    """Keeps GPUs from rounding factors of float32 products to ten bits.

    Statistics of branches are made of such products (docs/adr/0011). Who wants
    it faster has `precision`.
    """
    backend = keras.config.backend()
    if backend == "jax":
        import jax

        with jax.default_matmul_precision("highest"):
            yield
        return
    if backend == "torch":
        import torch

        switches: tuple[Any, ...] = (
            torch.backends.cudnn,
            torch.backends.cuda.matmul,
        )
        before = [switch.allow_tf32 for switch in switches]
        for switch in switches:
            switch.allow_tf32 = False
        try:
            yield
        finally:
            for switch, value in zip(switches, before, strict=True):
                switch.allow_tf32 = value
        return
    import tensorflow as tf

    switch = tf.config.experimental
    before = switch.tensor_float_32_execution_enabled()
    switch.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        switch.enable_tensor_float_32_execution(before)


def describe_machine(devices: list[str]) -> dict[str, Any]:
    """Returns where a training is, for its record.

    Args:
        devices: that it is on.
    """
    hardware = provenance.describe_hardware()
    return {**hardware, "devices": devices, "threads": count_threads()}


def count_threads() -> dict[str, int]:
    """Returns how many threads compute on the CPU, for the record.

    "backend" are those that share one operation: on another number of them
    its sums may round otherwise. "native" are those of the package's kernels.
    """
    return {
        "backend": _backend_threads(),
        "native": asked_threads() or usable_cores(),
    }


def _backend_threads():
    """What was asked for, or all cores of the process.

    The backends overlook a container's limit.
    """
    if keras.config.backend() == "torch":
        import torch

        return torch.get_num_threads()
    asked = 0
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        asked = tf.config.threading.get_intra_op_parallelism_threads()
    names = _THREADS.get(keras.config.backend(), ())
    found = filter(None, map(asked_threads, names))
    return asked or next(found, process_cores())


def find_gpus() -> list[str]:
    """Returns the GPUs that the backend sees, with their models."""
    return [_describe(name) for name in _list("gpu")]


def steps_at_once() -> int:
    """Steps between two looks at a training, by its callbacks.

    Each waits for all that was computed before, and a GPU with steps of
    milliseconds would then wait in turn until the next one is prepared.
    """
    return _STEPS_AT_ONCE if is_jax_on_gpu() else 1


def on_one_gpu() -> bool:
    """Whether TensorFlow computes on a GPU here, and on no other."""
    import tensorflow as tf

    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return replicas == 1 and "GPU" in tf.zeros(()).device


def _scope_name(name):
    """What `keras.device` takes.

    PyTorch's tensors are on "cpu"; to "cpu:0" they would be copied, and a copy
    of a weight has no gradient.
    """
    is_torch = keras.config.backend() == "torch"
    return "cpu" if is_torch and name == "cpu:0" else name


def _choose(kind, count):
    """Names of the first `count` devices of a kind."""
    backend = keras.config.backend()
    check("device", Device, kind)
    if count > 1 and backend == "torch":
        raise ValueError(
            "On PyTorch a training has one device; TensorFlow and JAX can "
            f"share its steps. Received: devices={count}. Set KERAS_BACKEND to "
            "one of them, or start one training for each device."
        )
    kinds = ("gpu", "cpu") if kind == "auto" else (kind,)
    found = next(filter(None, map(_list, kinds)), [])
    if not found:
        raise ValueError(
            f"`device` must be there: {backend} finds no GPU. Received: "
            f"device={kind!r}. Leave `device` out to train on the CPU, or "
            f"install the driver and the build of {backend} for GPUs."
        )
    if len(found) < count:
        raise ValueError(
            "`devices` must not exceed the devices there are. Received: "
            f"devices={count}; {backend} finds {found}."
        )
    return found[:count]


def _list(kind):
    if keras.config.backend() == "torch":
        import torch

        count = torch.cuda.device_count() if kind == "gpu" else 1
        return [f"{kind}:{index}" for index in range(count)]
    try:
        return keras.distribution.list_devices(kind)
    except RuntimeError:  # JAX, where there is none of them
        return []


def _describe(name):
    kind, _, index = name.partition(":")
    if kind != "gpu":
        return name
    return f"{name} ({_gpu_model(int(index))})"


def _gpu_model(index):
    backend = keras.config.backend()
    if backend == "jax":
        import jax

        return jax.devices("gpu")[index].device_kind
    if backend == "torch":
        import torch

        return torch.cuda.get_device_name(index)
    import tensorflow as tf

    device = tf.config.list_physical_devices("GPU")[index]
    details = tf.config.experimental.get_device_details(device)
    return details.get("device_name", "unknown model")


def _shared(names: list[str]) -> Any:
    if keras.config.backend() == "jax":
        return keras.distribution.DataParallel(devices=names).scope()
    return _mirrored(tuple(names)).scope()


@functools.cache  # a second one would number its sums as the first one did
def _mirrored(names):
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(names)
