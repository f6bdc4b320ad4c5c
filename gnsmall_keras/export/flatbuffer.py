"""A .tflite file as operators, tensors and constants that can be changed."""

import copy
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gnsmall_keras.export.graph import TYPES, names_of, pack, unpack

_LINEAR = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


class Operator(NamedTuple):
    """One operator; inputs and outputs are numbers of tensors."""

    kind: str
    inputs: list[int]
    outputs: list[int]
    options: Any  # the schema's object, such as Conv2DOptionsT
    layer: str  # of the Keras model, where its name is known

    @property
    def is_linear(self) -> bool:
        """Whether it has a kernel and a bias."""
        return self.kind in _LINEAR

    @property
    def activation(self) -> str:
        """What is fused into it: "NONE", "RELU" or another."""
        code = getattr(self.options, "fusedActivationFunction", 0)
        return names_of("ActivationFunctionType")[code]


class Network:
    """The one subgraph of a .tflite file.

    Args:
        data: the file.
        layers: names of the Keras model's layers, to find them in the names
            that the converter gives to tensors.

    Raises:
        ValueError: if `data` is no such file or has more than one subgraph.
    """

    def __init__(self, data: bytes, layers: Sequence[str] = ()):
        from ai_edge_litert import schema_py_generated as schema

        self._schema = schema
        self._model = unpack(data)
        self._graph = self._model.subgraphs[0]
        self._layers = frozenset(layers)
        for op in self._graph.operators:
            op.inputs = op.inputs.copy()  # to be written to
        self.inputs = list(self._graph.inputs)
        self.outputs = list(self._graph.outputs)
        self.operators = [self._operator(op) for op in self._graph.operators]

    def _operator(self, op):
        code = self._model.operatorCodes[op.opcodeIndex]
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        outputs = list(op.outputs)
        return Operator(
            names_of("BuiltinOperator")[number],
            [tensor for tensor in op.inputs if tensor >= 0],
            outputs,
            op.builtinOptions,
            find_layer(self.name(outputs[0]), self._layers),
        )

    def __len__(self) -> int:
        """The number of tensors."""
        return len(self._graph.tensors)

    def name(self, tensor: int) -> str:
        """Returns the name that the converter has given to a tensor."""
        return (self._graph.tensors[tensor].name or b"").decode()

    def dtype(self, tensor: int) -> str:
        """Returns "FLOAT32", "INT8" or another type of the schema."""
        return names_of("TensorType")[self._graph.tensors[tensor].type]

    def dtypes(self) -> Iterable[str]:
        """Yields the type of every tensor, constants included."""
        return map(self.dtype, range(len(self)))

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Returns a tensor's shape."""
        shape = self._graph.tensors[tensor].shape
        return tuple(map(int, () if shape is None else shape))

    def is_dynamic(self, tensor: int) -> bool:
        """Returns whether a side of it is not fixed."""
        signature = self._graph.tensors[tensor].shapeSignature
        return signature is not None and -1 in signature

    def constant(self, tensor: int) -> np.ndarray | None:
        """Returns a copy of a constant's values; None if it is computed."""
        entry = self._graph.tensors[tensor]
        data = self._model.buffers[entry.buffer].data
        dtype = TYPES.get(entry.type)
        if data is None or not len(data) or dtype is None:
            return None
        values = np.frombuffer(bytes(bytearray(data)), dtype)
        return values.reshape(self.shape(tensor)).copy()

    def set_constant(self, tensor: int, values: np.ndarray) -> None:
        """Gives a constant new values of the same shape.

        Tensors that had the same bytes keep the old ones.
        """
        dtype = TYPES[self._graph.tensors[tensor].type]
        buffer = self._schema.BufferT()
        buffer.data = np.frombuffer(
            np.ascontiguousarray(values, dtype).tobytes(), np.uint8
        )
        self._model.buffers.append(buffer)
        self._graph.tensors[tensor].buffer = len(self._model.buffers) - 1

    def own_input(self, operator: int, position: int) -> int:
        """Returns an operator's constant, first copied if others use it."""
        entry = self._graph.operators[operator]
        tensor = int(entry.inputs[position])
        users = sum(list(op.inputs).count(tensor) for op in self.operators)
        if users == 1:
            return tensor
        self._graph.tensors.append(copy.copy(self._graph.tensors[tensor]))
        entry.inputs[position] = len(self) - 1
        self.operators[operator].inputs[position] = len(self) - 1
        return len(self) - 1

    def quantization(self, tensor: int) -> tuple[float, int]:
        """Returns scale and zero point; (0, 0) of a float tensor."""
        found = self._graph.tensors[tensor].quantization
        if found is None or found.scale is None or not len(found.scale):
            return 0.0, 0
        return float(found.scale[0]), int(found.zeroPoint[0])

    def set_range(self, tensor: int, low: float, high: float) -> None:
        """Says between what values a float tensor is to be quantised."""
        found = self._schema.QuantizationParametersT()
        found.min = np.array([low], np.float32)
        found.max = np.array([high], np.float32)
        self._graph.tensors[tensor].quantization = found

    def to_bytes(self) -> bytes:
        """Returns the file."""
        return pack(self._model)


def find_layer(name: str, layers: Iterable[str]) -> str:
    """Returns the layer that a tensor's name speaks of.

    The converter joins the names of what it fuses with ";", the last of them
    first, each a path like "model_1/stem_1/convolution"; Keras adds the
    numbers. Without a layer it is the name itself.
    """
    for part in reversed(name.split(";")):
        for step in reversed(part.split("/")):
            for candidate in (step, re.sub(r"_\d+$", "", step)):
                if candidate in layers:
                    return candidate
    return name
