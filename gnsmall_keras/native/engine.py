"""Training steps and inference of a network by compiled kernels."""

import contextlib
import ctypes
import functools
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gnsmall_keras.cores import usable_cores
from gnsmall_keras.native import plan as plans
from gnsmall_keras.native.build import library
from gnsmall_keras.native.plan import NetworkPlan, Weight

_POINTER = ctypes.c_void_p
_SIGNATURES = {
    "gns_error": (ctypes.c_char_p, ()),
    "gns_images_of_a_block": (ctypes.c_int, ()),
    "gns_flush_denormals": (ctypes.c_int, (ctypes.c_int,)),
    "gns_create": (_POINTER, (_POINTER, ctypes.c_int, ctypes.c_int)),
    "gns_destroy": (None, (_POINTER,)),
    "gns_parameters": (ctypes.c_long, (_POINTER,)),
    "gns_statistics": (ctypes.c_long, (_POINTER,)),
    "gns_forward": (_POINTER, (*[_POINTER] * 3, ctypes.c_int, *[_POINTER] * 2)),
    "gns_backward": (ctypes.c_int, (_POINTER,) * 4),
    "gns_free_context": (None, (_POINTER,)),
    "gns_infer": (ctypes.c_int, (*[_POINTER] * 4, ctypes.c_int, _POINTER)),
    "gns_orthogonalize": (
        ctypes.c_int,
        (*[_POINTER] * 3, ctypes.c_int, *[ctypes.c_float] * 3, ctypes.c_int),
    ),
}


class Context:
    """What backward needs of one forward pass. Freed when it is dropped."""

    def __init__(self, engine: "Engine", address: int, images: int):
        self.engine = engine
        self.address: int | None = address
        self.images = images

    def take(self) -> int:
        """Returns the address, once.

        Raises:
            ValueError: if it has been taken.
        """
        if self.address is None:
            raise ValueError(
                "A context serves one backward pass. Received: one that is "
                "used up. Call `forward` again."
            )
        address, self.address = self.address, None
        return address

    def __del__(self):
        # Of a cycle the engine may go first, and its pool with it.
        if self.address is not None and self.engine.is_alive:
            self.engine.library.gns_free_context(self.take())


class Engine:
    """One network's kernels: forward, backward, and inference.

    Args:
        plan: sizes of the network.
        threads: how many to use; by default all cores of the process. Results
            do not depend on it.

    Raises:
        ValueError: if the engine has no kernels for the plan, or cannot be
            compiled.
    """

    def __init__(
        self,
        plan: NetworkPlan,
        *,
        threads: int | None = None,
    ):
        if threads is None:
            threads = usable_cores()
        if threads < 1:
            raise ValueError(f"`threads` must be >= 1. Received: {threads}.")
        self.plan = plan
        self.parameters: tuple[Weight, ...] = plans.parameters_of(plan)
        self.statistics: tuple[Weight, ...] = plans.statistics_of(plan)
        self.parameter_count = _count(self.parameters)
        self.statistics_count = _count(self.statistics)
        self._network = None
        self.library = _load(library())
        numbers = np.array(plans.numbers_of(plan), np.int32)
        self._network = self.library.gns_create(
            numbers.ctypes.data, len(plan.blocks), threads
        )
        if not self._network:
            raise ValueError(
                f"The native kernels do not fit this network: {self._error()}. "
                f"Received: plan={plan}."
            )
        counts = (
            self.library.gns_parameters(self._network),
            self.library.gns_statistics(self._network),
        )
        expected = self.parameter_count, self.statistics_count
        if counts != expected:
            raise ValueError(
                "native/plan.py and src/network.cc must agree on the sizes "
                f"of the flat vectors. Received: {expected} and {counts}. "
                "Compile the library from these sources."
            )

    def forward(
        self, parameters: np.ndarray, images: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, Context]:
        """Computes logits as in training, with the batch's statistics.

        Args:
            parameters: float32 `(parameter_count,)`.
            images: float32 `(batch, height, width, channels)`.

        Returns:
            logits `(batch, classes)`; the batch's means and unbiased
            variances `(statistics_count,)`, to mix into the moving ones; and
            the context for `backward`.

        Raises:
            ValueError: if an array has another shape or type or is not
                C-contiguous.
        """
        self._check_parameters(parameters)
        self._check_images(images)
        logits = np.empty((len(images), self.plan.classes), np.float32)
        statistics = np.empty(self.statistics_count, np.float32)
        address = self.library.gns_forward(
            self._network,
            parameters.ctypes.data,
            images.ctypes.data,
            len(images),
            logits.ctypes.data,
            statistics.ctypes.data,
        )
        self._check_done(address)
        return logits, statistics, Context(self, address, len(images))

    def backward(self, context: Context, grad_logits: np.ndarray) -> np.ndarray:
        """Computes the gradient of all parameters; uses the context up.

        Args:
            context: of `forward` of this engine.
            grad_logits: float32 `(batch, classes)`.

        Returns:
            float32 `(parameter_count,)`.

        Raises:
            ValueError: as `forward`, and for a context that is used up or of
                another engine.
        """
        if context.engine is not self:
            raise ValueError(
                "`context` must be of this engine's `forward`. Received: one "
                "of another engine."
            )
        shape = (context.images, self.plan.classes)
        _check("grad_logits", grad_logits, shape)
        gradient = np.empty(self.parameter_count, np.float32)
        address = context.take()
        try:
            done = self.library.gns_backward(
                self._network,
                address,
                grad_logits.ctypes.data,
                gradient.ctypes.data,
            )
            self._check_done(done)
        finally:
            self.library.gns_free_context(address)
        return gradient

    def infer(
        self,
        parameters: np.ndarray,
        statistics: np.ndarray,
        images: np.ndarray,
    ) -> np.ndarray:
        """Computes logits with moving statistics, all branches merged.

        Args:
            parameters: float32 `(parameter_count,)`.
            statistics: float32 `(statistics_count,)`, the moving ones.
            images: float32 `(batch, height, width, channels)`.

        Returns:
            logits, float32 `(batch, classes)`.

        Raises:
            ValueError: as `forward`.
        """
        self._check_parameters(parameters)
        _check("statistics", statistics, (self.statistics_count,))
        self._check_images(images)
        logits = np.empty((len(images), self.plan.classes), np.float32)
        self._check_done(
            self.library.gns_infer(
                self._network,
                parameters.ctypes.data,
                statistics.ctypes.data,
                images.ctypes.data,
                len(images),
                logits.ctypes.data,
            )
        )
        return logits

    def orthogonalize(
        self,
        values: np.ndarray,
        shapes: Sequence[tuple[int, ...]],
        polynomial: tuple[float, float, float],
        *,
        steps: int,
    ) -> np.ndarray:
        """Makes the singular values of matrices nearly one, as Muon does.

        Each matrix is divided by its Frobenius norm; then Newton and Schulz's
        iteration is `x = (a + b x x' + c (x x')^2) x`.

        Args:
            values: float32 `(count,)`, all matrices one after another.
            shapes: of the arrays in it, `(..., rows, columns)`; what comes
                before `rows` counts matrices.
            polynomial: a, b and c.
            steps: number of iterations, >= 0.

        Returns:
            float32 `(count,)`, likewise.

        Raises:
            ValueError: as `forward`.
        """
        _check("values", values, (sum(map(math.prod, shapes)),))
        each = [s[-2:] for s in shapes for _ in range(math.prod(s[:-2]))]
        numbers, result = np.array(each, np.int32), values.copy()
        self._check_done(
            self.library.gns_orthogonalize(
                self._network,
                result.ctypes.data,
                numbers.ctypes.data,
                len(each),
                *polynomial,
                steps,
            )
        )
        return result

    @contextlib.contextmanager
    def flushed_denormals(self):
        """Takes numbers below 1e-38 as zero, in this thread's arithmetic.

        NumPy's as well, whose products of them take a hundred times as long:
        velocities of weights that no gradient reaches fade through them.
        """
        before = self.library.gns_flush_denormals(1)
        try:
            yield
        finally:
            self.library.gns_flush_denormals(before)

    def _check_parameters(self, parameters):
        _check("parameters", parameters, (self.parameter_count,))

    def _check_images(self, images):
        shape = (self.plan.height, self.plan.width, self.plan.channels)
        count = len(images) if np.ndim(images) else 0
        _check("images", images, (count, *shape))
        if not count:
            raise ValueError(
                "`images` must have at least one image. Received: none."
            )

    def _check_done(self, result):
        if not result:
            raise ValueError(f"The native kernels failed: {self._error()}.")

    def _error(self):
        return self.library.gns_error().decode()

    @property
    def is_alive(self) -> bool:
        """Whether its network has not been given back."""
        return bool(getattr(self, "_network", None))

    def __del__(self):
        if self.is_alive and not sys.is_finalizing():
            self.library.gns_destroy(self._network)
            self._network = None


def _check(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != np.float32:
        kind = getattr(array, "dtype", type(array).__name__)
        raise ValueError(
            f"`{name}` must be a float32 NumPy array. Received: {kind}. "
            "Convert it with `np.asarray(..., np.float32)`."
        )
    if array.shape != shape:
        raise ValueError(
            f"`{name}` must have shape {shape}. Received: {array.shape}."
        )
    if not array.flags.c_contiguous:
        raise ValueError(
            f"`{name}` must be C-contiguous. Received: strides "
            f"{array.strides}. Copy it with `np.ascontiguousarray`."
        )


def _count(weights: tuple[Weight, ...]) -> int:
    return sum(math.prod(weight.shape) for weight in weights)


@functools.cache
def _load(path: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(path))
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded
