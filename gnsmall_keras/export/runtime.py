"""One way to run a .tflite file on every runtime."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

RUNTIMES = ("litert", "litert-reference", "tflite-micro")
_ARENA_BYTES = 8 * 2**20  # offered to TensorFlow Lite Micro; it reports its use


class TFLiteModel:
    """A .tflite classifier of raw images.

    Args:
        path: the file.
        runtime: "litert" (XNNPACK kernels, as on phones), "litert-reference"
            (LiteRT's reference kernels) or "tflite-micro" (TensorFlow Lite for
            Microcontrollers).
        num_threads: for the LiteRT runtimes.

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
    ):
        if runtime not in RUNTIMES:
            raise ValueError(
                f"`runtime` must be one of {RUNTIMES}. Received: {runtime!r}."
            )
        if not Path(path).is_file():
            raise ValueError(f"No file at {os.fspath(path)}. Check the path.")
        data = Path(path).read_bytes()
        if data[4:8] != b"TFL3":
            raise ValueError(
                f"{os.fspath(path)} is not a .tflite file: its identifier is "
                f"{data[4:8]!r}, not b'TFL3'. It may be truncated."
            )
        self.runtime = runtime
        try:
            if runtime == "tflite-micro":
                self._engine = _Micro(data)
            else:
                self._engine = _LiteRT(data, runtime, num_threads)
        except ImportError as error:
            raise ValueError(
                f"Runtime {runtime!r} is not installed ({error}). Install it "
                "with: pip install 'gnsmall-keras[export]'."
            ) from None
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"{os.fspath(path)} does not run on {runtime}: {error}"
            ) from None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """`(1, height, width, channels)`."""
        return self._engine.input.shape

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
        classes = np.prod(self._engine.output.shape, dtype=int)
        rows = [  # (1, classes), or (1, 1, 1, classes) of one pixel
            self._engine.run(self._engine.input.encode(image[None])).ravel()
            for image in images
        ]
        return np.stack(rows) if rows else np.zeros((0, classes), np.float32)


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


class _LiteRT:
    def __init__(self, data, runtime, num_threads):
        from ai_edge_litert import interpreter

        resolver = interpreter.OpResolverType
        self._interpreter = interpreter.Interpreter(
            model_content=data,
            num_threads=num_threads,
            experimental_op_resolver_type=(
                resolver.BUILTIN_REF
                if runtime == "litert-reference"
                else resolver.AUTO
            ),
        )
        self._interpreter.allocate_tensors()
        (details,) = self._interpreter.get_input_details()
        (output,) = self._interpreter.get_output_details()
        self.input, self.output = (
            _Tensor(each["shape"], each["dtype"], each["quantization"])
            for each in (details, output)
        )
        self._input_index, self._output_index = (
            details["index"],
            output["index"],
        )

    def run(self, values):
        self._interpreter.set_tensor(self._input_index, values)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output_index)


class _Micro:
    def __init__(self, data):
        import tflite_micro

        with _captured_stderr() as captured:
            try:
                self._interpreter = tflite_micro.runtime.Interpreter.from_bytes(
                    data, arena_size=_ARENA_BYTES
                )
            except RuntimeError as error:
                raise RuntimeError(f"{error} {captured()}") from None
            self._interpreter.print_allocations()
            allocations = captured()
        found = re.search(r"Arena allocation total (\d+)", allocations)
        if not found:
            raise RuntimeError(f"No arena size in {allocations!r}.")
        self.arena_bytes = int(found.group(1))
        self.input = _micro_tensor(self._interpreter.get_input_details(0))
        self.output = _micro_tensor(self._interpreter.get_output_details(0))

    def run(self, values):
        self._interpreter.set_input(values, 0)
        self._interpreter.invoke()
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
