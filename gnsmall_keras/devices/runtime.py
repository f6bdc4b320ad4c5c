"""One way to run a .tflite file on every runtime."""

import contextlib
import importlib.util
import math
import os
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import numpy as np

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
_EDGE_TPU_OP = b"edgetpu-custom-op"  # all that a compiled file has in it
# Runs a file once, as a process of its own.
_TRIAL = """
import sys
from tflite_runtime.interpreter import Interpreter
interpreter = Interpreter(sys.argv[1])
interpreter.allocate_tensors()
interpreter.invoke()
"""


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
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        runtime: str = "litert",
        num_threads: int = 1,
        arena_bytes: int = _ARENA_BYTES,
    ):
        if runtime not in RUNTIMES:
            raise ValueError(
                f"`runtime` must be one of {RUNTIMES}. Received: {runtime!r}."
            )
        data = read_file(path)
        self.runtime = runtime
        try:
            if runtime == "tflite-micro":
                self._engine = _Micro(data, arena_bytes)
            else:
                self._engine = _Interpreter(path, runtime, num_threads)
        except ImportError as error:
            raise ValueError(
                f"Runtime {runtime!r} is not installed ({error}). Install it "
                f"with: pip install {_to_install(runtime)}."
            ) from None
        except (RuntimeError, ValueError, struct.error) as error:
            told = " ".join(str(error).split())
            raise ValueError(
                f"{os.fspath(path)} does not run on {runtime}: {told}"
            ) from None

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
        """Working memory that TensorFlow Lite Micro took; None elsewhere."""
        return getattr(self._engine, "arena_bytes", None)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Classifies images.

        Args:
            images: raw pixels, uint8 `(n, height, width, 3)`.

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
        rows = [self._run(image) for image in images]
        if not rows:
            return np.zeros((0, self.classes), np.float32)
        return np.concatenate(rows)

    def _run(self, image):
        self.set_image(image)
        self.invoke()
        return self._engine.get_output().reshape(1, -1)

    def set_image(self, image: np.ndarray) -> None:
        """Gives the runtime one image, uint8, for `invoke` alone."""
        self._engine.set_input(self._engine.input.encode(image[None]))

    def invoke(self) -> None:
        """Computes, as often as called, what a latency is measured of."""
        self._engine.invoke()


def read_file(path: str | os.PathLike) -> bytes:
    """Returns the bytes of a .tflite file that is no delegate's own.

    Raises:
        ValueError: if there is no file or not such a one.
    """
    if not Path(path).is_file():
        raise ValueError(f"No file at {os.fspath(path)}. Check the path.")
    data = Path(path).read_bytes()
    if data[4:8] != b"TFL3":
        raise ValueError(
            f"{os.fspath(path)} is not a .tflite file: its identifier is "
            f"{data[4:8]!r}, not b'TFL3'. It may be truncated."
        )
    if _EDGE_TPU_OP in data:
        raise ValueError(
            f"{os.fspath(path)} is compiled for the Edge TPU and runs only "
            "there. Give the file it was compiled from, or run it with "
            "tflite/run_model.py --delegate libedgetpu.so.1."
        )
    return data


def installed_runtimes() -> list[str]:
    """Returns the runtimes that this environment has."""
    modules = {
        "litert": "ai_edge_litert",
        "tflite-runtime": "tflite_runtime",
        "tflite-micro": "tflite_micro",
    }
    return [
        name
        for name in RUNTIMES
        if importlib.util.find_spec(modules[name.removesuffix("-reference")])
    ]


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
            interpreter = _tflite_runtime(path)
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


def _tflite_runtime(path):
    """Returns its module, once a child has run the file.

    tflite-runtime does not check files and crashes on damaged ones.
    """
    if int(np.__version__.split(".")[0]) > 1:
        raise ImportError(f"it needs numpy<2, not {np.__version__}")
    from tflite_runtime import interpreter

    done = subprocess.run(
        [sys.executable, "-c", _TRIAL, os.fspath(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        told = lines[-1] if lines else f"signal {-done.returncode}"
        raise ValueError(
            f"a trial ended with: {told}. The file may be truncated; compare "
            "its size or sha256."
        )
    return interpreter


def _check_classifier(inputs, outputs):
    """Checks the shapes of a file's inputs and outputs.

    Raises:
        ValueError: unless they are one RGB image and one value a class.
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
        and (inputs[0][0], inputs[0][-1]) == (1, 3)
        and len(outputs[0]) > 1
        and math.prod(outputs[0][:-1]) == 1
    ):
        raise ValueError(
            "a classifier takes one image (1, height, width, 3) and returns "
            f"one vector (1, classes). {received} Give a classifier's file."
        )


class _Micro:
    def __init__(self, data, arena_bytes):
        import tflite_micro

        make = tflite_micro.runtime.Interpreter.from_bytes
        with _captured_stderr() as captured:
            try:
                self._interpreter = make(data, arena_size=arena_bytes)
            except RuntimeError as error:
                if arena_bytes < _ARENA_BYTES:
                    needed = _Micro(data, _ARENA_BYTES).arena_bytes
                    raise ValueError(
                        f"the arena must have {needed:,} bytes. Received: "
                        f"{arena_bytes:,}. Give it more, or take a smaller "
                        "network."
                    ) from None
                raise RuntimeError(f"{error} {captured()}") from None
            self._interpreter.print_allocations()
            allocations = captured()
        found = re.search(r"Arena allocation total (\d+)", allocations)
        if not found:
            raise RuntimeError(f"No arena size in {allocations!r}.")
        self.arena_bytes = int(found.group(1))
        self.input = _micro_tensor(self._interpreter.get_input_details(0))
        self.output = _micro_tensor(self._interpreter.get_output_details(0))
        _check_classifier([self.input.shape], [self.output.shape])

    def set_input(self, values):
        self._interpreter.set_input(values, 0)

    def invoke(self):
        self._interpreter.invoke()

    def get_output(self):
        return np.array(self._interpreter.get_output(0))


def _micro_tensor(details):
    parameters = details["quantization_parameters"]
    scales, zero_points = parameters["scales"], parameters["zero_points"]
    quantization = (scales[0], zero_points[0]) if len(scales) else (0.0, 0)
    return _Tensor(details["shape"], details["dtype"], quantization)


@contextlib.contextmanager
def _captured_stderr() -> Iterator:
    """Catches what C++ writes to stdout and stderr; yields a reader of it."""
    with tempfile.TemporaryFile() as file:
        saved = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
        for descriptor in saved:
            os.dup2(file.fileno(), descriptor)

        def read():
            file.seek(0)
            return file.read().decode(errors="replace").strip()

        try:
            yield read
        finally:
            for descriptor, copy in saved.items():
                os.dup2(copy, descriptor)
                os.close(copy)
