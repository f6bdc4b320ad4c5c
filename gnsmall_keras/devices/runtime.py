"""One way to run a .tflite file on every runtime."""

import importlib
import importlib.util
import os
from typing import Literal, get_args

import numpy as np

from gnsmall_keras.devices.engines import (
    ARENA_BYTES,
    CompiledEngine,
    InterpreterEngine,
    MicroEngine,
    read_file,
    tflite_runtime,
)
from gnsmall_keras.devices.trial import try_file
from gnsmall_keras.lines import one_line

Runtime = Literal[
    "litert",
    "litert-reference",
    "litert-compiled",
    "tflite-runtime",
    "tflite-runtime-reference",
    "tflite-micro",
]
RUNTIMES = get_args(Runtime)
# What to install, by the beginning of a runtime's name.
_INSTALL = {
    "litert": "ai-edge-litert",
    "tflite-runtime": "tflite-runtime 'numpy<2' (Python 3.11, no newer)",
    "tflite-micro": "'gnsmall-keras[export]' (Linux, x86-64)",
}


class TFLiteModel:
    """A .tflite classifier of raw images.

    Args:
        path: the file.
        runtime: "litert" (XNNPACK kernels, as on phones), "litert-reference"
            (LiteRT's reference kernels), "litert-compiled" (its CompiledModel,
            which replaces the interpreter), "tflite-runtime" and
            "tflite-runtime-reference" (its predecessor, as on many a Raspberry
            Pi) or "tflite-micro" (TensorFlow Lite for Microcontrollers).
        num_threads: of all runtimes but TensorFlow Lite Micro, which has one.
        arena_bytes: working memory for TensorFlow Lite Micro, to learn whether
            it is enough; by default more than any file here needs.
        trial: whether another process runs the file once before this one
            loads it, which a damaged file may end.

    Raises:
        ValueError: if the runtime is unknown or not installed, or the file is
            not one it can run.

    Example:
        >>> model = gns.TFLiteModel("tflite/gns-w0.5-cifar10-micro.tflite")
        >>> model.predict(np.zeros((2, 32, 32, 3), np.uint8)).shape
        (2, 10)
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        runtime: str = "litert",
        num_threads: int = 1,
        arena_bytes: int = ARENA_BYTES,
        trial: bool = True,
    ):
        if runtime not in RUNTIMES:
            raise ValueError(
                f"`runtime` must be one of {RUNTIMES}. Received: {runtime!r}."
            )
        data = read_file(path)
        self.runtime = runtime
        self._path = os.fspath(path)
        try:
            _check_installed(runtime)
            if trial:
                try_file(path, data, runtime)
            if runtime == "tflite-micro":
                self._engine = MicroEngine(data, arena_bytes)
            elif runtime == "litert-compiled":
                self._engine = CompiledEngine(path, data, num_threads)
            else:
                self._engine = InterpreterEngine(path, runtime, num_threads)
        except ImportError as error:
            raise ValueError(
                f"Runtime {runtime!r} is not installed ({error}). Install it "
                f"with: pip install {_to_install(runtime)}."
            ) from None
        except Exception as error:  # a damaged file leads to any
            raise self._refusal(error) from None

    def _refusal(self, error):
        told = one_line(error)
        return ValueError(
            f"{self._path} does not run on {self.runtime}: {told}"
        )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """`(1, height, width, channels)`."""
        return self._engine.input.shape

    @property
    def classes(self) -> int:
        """Number of values that it returns for an image."""
        return self._engine.output.shape[-1]

    @property
    def dtypes(self) -> tuple[str, str]:
        """Element types of input and output."""
        return self._engine.input.dtype.name, self._engine.output.dtype.name

    @property
    def arena_bytes(self) -> int | None:
        """The least arena that TensorFlow Lite Micro runs it in; else None.

        Of this machine, to 16 bytes: 32-bit pointers need less.
        """
        return getattr(self._engine, "arena_bytes", None)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Classifies images.

        Args:
            images: raw pixels, uint8 `(n, height, width, 3)`, or 1 for grey.

        Returns:
            What the file's output means, float32 `(n, classes)`: logits or
            probabilities.

        Raises:
            ValueError: if the images do not fit the file.
        """
        scale, zero_point = self._engine.output.quantization
        raw = self.predict_raw(images).astype(np.float32)
        return (raw - zero_point) * scale if scale else raw

    def predict_raw(self, images: np.ndarray) -> np.ndarray:
        """Like `predict`, but returns the file's own output values."""
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != self.input_shape[1:]:
            raise ValueError(
                "`images` must be uint8 pixels of shape (n, "
                f"{', '.join(map(str, self.input_shape[1:]))}). Received: "
                f"{images.dtype} {images.shape}."
            )
        try:
            rows = [self._run(image) for image in images]
        except (RuntimeError, TypeError, IndexError) as error:
            raise self._refusal(error) from None
        if not rows:
            return np.zeros((0, self.classes), self._engine.output.dtype)
        return np.concatenate(rows)

    def _run(self, image):
        self.set_image(image)
        self.invoke()
        return self._engine.get_output().reshape(1, -1)

    def run_black_image(self) -> None:
        """Computes once, of an image of zeros."""
        self._run(np.zeros(self.input_shape[1:], np.uint8))

    def set_image(self, image: np.ndarray) -> None:
        """Gives the runtime one image, uint8, for `invoke` alone."""
        self._engine.set_input(self._engine.input.encode(image[None]))

    def invoke(self) -> None:
        """Computes, as often as called, what a latency is measured of."""
        self._engine.invoke()


def installed_runtimes() -> list[str]:
    """Returns the runtimes that this environment has."""
    modules = {"litert": "ai_edge_litert"}
    for name in ("tflite-runtime", "tflite-micro"):
        modules[name] = name.replace("-", "_")
    return [
        name
        for name in RUNTIMES
        if importlib.util.find_spec(modules[_package(name)])
    ]


def _check_installed(runtime):
    if runtime.startswith("tflite-runtime"):
        tflite_runtime()
    elif runtime.startswith("litert"):
        importlib.import_module("ai_edge_litert.interpreter")
    else:
        importlib.import_module("tflite_micro")


def _to_install(runtime):
    return _INSTALL[_package(runtime)]


def _package(runtime):
    return runtime.removesuffix("-reference").removesuffix("-compiled")
