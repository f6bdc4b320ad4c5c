"""What runs a .tflite file: each runtime as an engine of one interface."""

import atexit
import functools
import math
import os
import re
from pathlib import Path

import numpy as np

from gnsmall_keras.export.graph import Graph
from gnsmall_keras.quiet import (
    LITERT_REMARKS,
    captured,
    quiet_at_exit,
    quiet_stderr,
)

ARENA_BYTES = 8 * 2**20  # offered to TensorFlow Lite Micro; it reports its use
_ARENA_STEP = 16  # its alignment
_EDGE_TPU_OP = b"edgetpu-custom-op"  # all that a compiled file has in it


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


class InterpreterEngine:
    """LiteRT, or tflite-runtime with the same interface."""

    def __init__(self, path, runtime, num_threads):
        if runtime.startswith("litert"):
            from ai_edge_litert import interpreter
        else:
            interpreter = tflite_runtime()
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
        """Gives it the values of an image as the file takes them."""
        self._interpreter.set_tensor(self._input_index, values)

    def invoke(self):
        """Computes."""
        self._interpreter.invoke()

    def get_output(self):
        """Returns a copy of the file's own output values."""
        return self._interpreter.get_tensor(self._output_index)


class CompiledEngine:
    """LiteRT's CompiledModel, on the CPU."""

    def __init__(self, path, data, num_threads):
        from ai_edge_litert import compiled_model, hardware_accelerator, options

        graph = Graph(data)
        shapes = [
            list(map(graph.shape, t)) for t in (graph.inputs, graph.outputs)
        ]
        _check_classifier(*shapes)
        self.input, self.output = (
            _Tensor(
                graph.shape(tensor),
                graph.dtype(tensor).lower(),
                graph.quantization(tensor),
            )
            for tensor in (*graph.inputs, *graph.outputs)
        )
        cpu = hardware_accelerator.HardwareAccelerator.CPU
        choice = options.Options(hardware_accelerators=cpu)
        choice.cpu_options.num_threads = num_threads
        with quiet_stderr():
            self._model = compiled_model.CompiledModel.from_file(
                os.fspath(path), environment=_environment(), options=choice
            )
            self._inputs = self._model.create_input_buffers(0)
            self._outputs = self._model.create_output_buffers(0)

    def set_input(self, values):
        """Gives it the values of an image as the file takes them."""
        self._inputs[0].write(np.ascontiguousarray(values))

    def invoke(self):
        """Computes."""
        self._model.run_by_index(0, self._inputs, self._outputs)

    def get_output(self):
        """Returns a copy of the file's own output values."""
        count = math.prod(self.output.shape)
        return self._outputs[0].read(count, self.output.dtype.type)


@functools.cache
def _environment():
    """One for all of a process's models."""
    from ai_edge_litert.environment import Environment
    from ai_edge_litert.tensor_buffer import TensorBuffer

    # The first buffer begins an environment of its own, that ends last.
    with quiet_at_exit():
        nothing = np.zeros(1, np.int8)
        TensorBuffer.create_from_host_memory(nothing).write(nothing)
    found = Environment.create()
    atexit.register(_close, found)
    return found


def _close(environment):
    with quiet_stderr():  # it tells what it closes
        environment.close()


def tflite_runtime():
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


class MicroEngine:
    """TensorFlow Lite for Microcontrollers, on this machine."""

    def __init__(self, data, arena_bytes):
        self._data = data
        with captured() as told:
            try:
                self._interpreter = _allocate(data, arena_bytes)
            except RuntimeError as error:
                if arena_bytes < ARENA_BYTES:
                    needed = MicroEngine(data, ARENA_BYTES).arena_bytes
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
        """Gives it the values of an image as the file takes them."""
        self._interpreter.set_input(values, 0)

    def invoke(self):
        """Computes."""
        self._interpreter.invoke()

    def get_output(self):
        """Returns a copy of the file's own output values."""
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
