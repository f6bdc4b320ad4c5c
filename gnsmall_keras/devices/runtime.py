"""One way to run a .tflite file on every runtime."""

import functools
import importlib
import importlib.util
import math
import os
import re
from typing import Literal, get_args

import numpy as np

from gnsmall_keras.devices.contents import read_file
from gnsmall_keras.devices.trial import try_file
from gnsmall_keras.quiet import LITERT_REMARKS, captured, quiet_stderr

Runtime = Literal[
    "litert",
    "litert-reference",
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
_ARENA_BYTES = 8 * 2**20  # offered to TensorFlow Lite Micro; it reports its use
_ARENA_STEP = 16  # its alignment


class TFLiteModel:
    """A .tflite classifier of raw images.

    Args:
        path: the file.
        runtime: "litert" (XNNPACK kernels, as on phones), "litert-reference"
            (LiteRT's reference kernels), "tflite-runtime" and
            "tflite-runtime-reference" (its predecessor, as on many a Raspberry
            Pi) or "tflite-micro" (TensorFlow Lite for Microcontrollers).
        num_threads: of all runtimes but TensorFlow Lite Micro, which has one.
        arena_bytes: working memory for TensorFlow Lite Micro, to learn whether
            it is enough; by default more than any file here needs.

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
        arena_bytes: int = _ARENA_BYTES,
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
                self._engine = _Micro(data, arena_bytes)
            else:
                self._engine = _Interpreter(path, runtime, num_threads)
        except ImportError as error:
            raise ValueError(
                f"Runtime {runtime!r} is not installed ({error}). Install it "
                f"with: pip install {_to_install(runtime)}."
            ) from None
        except Exception as error:  # a damaged file leads to any
            raise self._refusal(error) from None

    def _refusal(self, error):
        told = " ".join(str(error).split()) or type(error).__name__
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
            return np.zeros((0, self.classes), np.float32)
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
        if importlib.util.find_spec(modules[name.removesuffix("-reference")])
    ]


def _check_installed(runtime):
    if runtime.startswith("tflite-runtime"):
        _tflite_runtime()
    elif runtime.startswith("litert"):
        importlib.import_module("ai_edge_litert.interpreter")
    else:
        importlib.import_module("tflite_micro")


def _to_install(runtime):
    return _INSTALL[runtime.removesuffix("-reference")]


class _Tensor:
    """An input or output: its shape, dtype, and scale and zero point."""

    def __init__(self, shape, dtype, quantization):
        self.shape = tuple(int(side) for side in shape)
        self.dtype = np.dtype(dtype)
        self.quantization = quantization

    def encode(self, pixels):
        if self.dtype == np.float32:
            return pixels.astype(np.float32)
        scale, zero_point = self.quantization
        values = np.rint(pixels / np.float32(scale)) + zero_point
        limits = np.iinfo(self.dtype)
        return np.clip(values, limits.min, limits.max).astype(self.dtype)


class _Interpreter:
    """LiteRT, or tflite-runtime with the same interface."""

    def __init__(self, path, runtime, num_threads):
        if runtime.startswith("litert"):
            from ai_edge_litert import interpreter
        else:
            interpreter = _tflite_runtime()
        resolver = interpreter.OpResolverType
        self._interpreter = interpreter.Interpreter(
            model_path=os.fspath(path),
            num_threads=num_threads,
            experimental_op_resolver_type=(
                resolver.BUILTIN_REF
                if runtime.endswith("-reference")
                else resolver.AUTO
            ),
        )
        inputs = self._interpreter.get_input_details()
        outputs = self._interpreter.get_output_details()
        _check_classifier(
            [tuple(each["shape_signature"]) for each in inputs],
            [tuple(each["shape_signature"]) for each in outputs],
        )
        with quiet_stderr(LITERT_REMARKS):
            self._interpreter.allocate_tensors()
        self.input, self.output = (
            _Tensor(each["shape"], each["dtype"], each["quantization"])
            for each in (inputs[0], outputs[0])
        )
        self._input_index = inputs[0]["index"]
        self._output_index = outputs[0]["index"]

    def set_input(self, values):
        self._interpreter.set_tensor(self._input_index, values)

    def invoke(self):
        self._interpreter.invoke()

    def get_output(self):
        return self._interpreter.get_tensor(self._output_index)


def _tflite_runtime():
    """Returns tflite-runtime's module.

    Raises:
        ImportError: if it is not installed or NumPy is too new for it.
    """
    if int(np.__version__.split(".")[0]) > 1:
        raise ImportError(f"it needs numpy<2, not {np.__version__}")
    from tflite_runtime import interpreter

    return interpreter


def _check_classifier(inputs, outputs):
    """Checks the shapes of a file's inputs and outputs.

    Raises:
        ValueError: unless they are one RGB or grey image and one value a class.
    """
    received = f"Received: inputs {inputs}, outputs {outputs}."
    if any(side < 1 for shape in inputs + outputs for side in shape):
        raise ValueError(
            "every shape must be fixed, batch included. "
            f"{received} Convert with a static batch of 1."
        )
    if not (
        len(inputs) == len(outputs) == 1
        and len(inputs[0]) == 4
        and inputs[0][0] == 1
        and inputs[0][-1] in (1, 3)
        and len(outputs[0]) > 1
        and math.prod(outputs[0][:-1]) == 1
    ):
        raise ValueError(
            "a classifier takes one image (1, height, width, 3), or 1 for "
            "grey, and returns one vector (1, classes). "
            f"{received} Give a classifier's file."
        )


class _Micro:
    def __init__(self, data, arena_bytes):
        self._data = data
        with captured() as told:
            try:
                self._interpreter = _allocate(data, arena_bytes)
            except RuntimeError as error:
                if arena_bytes < _ARENA_BYTES:
                    needed = _Micro(data, _ARENA_BYTES).arena_bytes
                    raise ValueError(
                        f"the arena must have {needed:,} bytes. Received: "
                        f"{arena_bytes:,}. Give it more, or take a smaller "
                        "network."
                    ) from None
                raise RuntimeError(f"{error} {told()}") from None
            self._interpreter.print_allocations()
            allocations = told()
        found = re.search(r"Arena allocation total (\d+)", allocations)
        if not found:
            raise RuntimeError(f"No arena size in {allocations!r}.")
        self._kept_bytes = int(found.group(1))
        self.input = _micro_tensor(self._interpreter.get_input_details(0))
        self.output = _micro_tensor(self._interpreter.get_output_details(0))
        _check_classifier([self.input.shape], [self.output.shape])

    @functools.cached_property
    def arena_bytes(self):
        """Planning may need more than is kept."""
        low, high = self._kept_bytes, 2 * self._kept_bytes
        with captured():
            if _starts(self._data, low):
                return low
            while not _starts(self._data, high):
                low, high = high, 2 * high
            while high - low > _ARENA_STEP:
                middle = (low + high) // 2 // _ARENA_STEP * _ARENA_STEP
                if _starts(self._data, middle):
                    high = middle
                else:
                    low = middle
            return high

    def set_input(self, values):
        self._interpreter.set_input(values, 0)

    def invoke(self):
        self._interpreter.invoke()

    def get_output(self):
        return np.array(self._interpreter.get_output(0))


def _allocate(data, arena_bytes):
    import tflite_micro

    make = tflite_micro.runtime.Interpreter.from_bytes
    return make(data, arena_size=arena_bytes)


def _starts(data, arena_bytes):
    try:
        _allocate(data, arena_bytes)
    except RuntimeError:
        return False
    return True


def _micro_tensor(details):
    parameters = details["quantization_parameters"]
    found = parameters["scales"], parameters["zero_points"]
    quantization = tuple(each[0] if len(each) else 0 for each in found)
    return _Tensor(details["shape"], details["dtype"], quantization)
