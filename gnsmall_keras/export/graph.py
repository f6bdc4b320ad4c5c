"""A .tflite file as operators and tensors that can be changed and written."""

import copy
import dataclasses
import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

_LINEAR = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
# Types of the schema that NumPy has, under the same name.
_NUMERIC = (
    *("BOOL", "FLOAT16", "FLOAT32"),
    *("INT8", "INT16", "INT32", "INT64", "UINT8"),
)


@dataclasses.dataclass(eq=False)
class Operator:
    """One operator; inputs and outputs are numbers of tensors.

    Attributes:
        kind: builtin operator, such as "CONV_2D".
        inputs: -1 in place of an optional one that is absent.
        outputs: what it computes.
        options: the schema's object, such as Conv2DOptionsT.
        layer: of the Keras model, where its name is known.
        entry: the schema's OperatorT that it is written as.
    """

    kind: str
    inputs: list[int]
    outputs: list[int]
    options: Any
    layer: str
    entry: Any = dataclasses.field(repr=False)

    @property
    def sources(self) -> list[int]:
        """The inputs that are there."""
        return [tensor for tensor in self.inputs if tensor >= 0]

    @property
    def is_linear(self) -> bool:
        """Whether it has a kernel and a bias."""
        return self.kind in _LINEAR

    @property
    def activation(self) -> str:
        """What is fused into it: "NONE", "RELU" or another."""
        code = getattr(self.options, "fusedActivationFunction", 0)
        return _names("ActivationFunctionType")[code]

    @property
    def padding(self) -> str:
        """What a convolution or pooling pads for: "SAME" or "VALID"."""
        return _names("Padding")[self.options.padding]


class Graph:
    """The one subgraph of a .tflite file.

    Args:
        data: the file.
        layers: names of the Keras model's layers, to find them in the names
            that the converter gives to tensors.

    Attributes:
        operators: in the order in which they run.
        inputs: numbers of tensors.
        outputs: numbers of tensors.
        tensors: the schema's TensorT of each.
        model: the schema's ModelT that all is written as.
        schema: the module of the schema's classes.

    Raises:
        ValueError: if `data` is no such file or has more than one subgraph.
    """

    def __init__(self, data: bytes, layers: Sequence[str] = ()):
        from ai_edge_litert import schema_py_generated as schema

        self.schema = schema
        self.model = _unpack(data)
        self._main = self.model.subgraphs[0]
        self._layers = frozenset(layers)
        self.tensors = self._main.tensors
        self.inputs = _numbers(self._main.inputs)
        self.outputs = _numbers(self._main.outputs)
        self.operators = list(map(self._operator, self._main.operators))

    def _operator(self, entry):
        code = self.model.operatorCodes[entry.opcodeIndex]
        outputs = _numbers(entry.outputs)
        return Operator(
            _names("BuiltinOperator")[_number(code)],
            _numbers(entry.inputs),
            outputs,
            entry.builtinOptions,
            find_layer(self.name(outputs[0]), self._layers),
            entry,
        )

    def __len__(self) -> int:
        """The number of tensors."""
        return len(self.tensors)

    def of_kind(self, *kinds: str) -> list[Operator]:
        """Returns the operators of some kinds, in the file's order."""
        return [op for op in self.operators if op.kind in kinds]

    def producer(self, tensor: int) -> Operator | None:
        """Returns the operator that makes a tensor, or None."""
        return next((op for op in self.operators if tensor in op.outputs), None)

    def consumers(self, tensor: int) -> list[Operator]:
        """Returns the operators that read a tensor."""
        return [op for op in self.operators if tensor in op.inputs]

    def name(self, tensor: int) -> str:
        """Returns the name that the converter has given to a tensor."""
        return (self.tensors[tensor].name or b"").decode()

    def dtype(self, tensor: int) -> str:
        """Returns "FLOAT32", "INT8" or another type of the schema."""
        return _names("TensorType")[self.tensors[tensor].type]

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Returns a tensor's shape."""
        shape = self.tensors[tensor].shape
        return () if shape is None else tuple(map(int, shape))

    def is_dynamic(self, tensor: int) -> bool:
        """Returns whether a side of it is not fixed."""
        signature = self.tensors[tensor].shapeSignature
        return signature is not None and -1 in signature

    def constant(self, tensor: int) -> np.ndarray | None:
        """Returns a copy of a constant's values; None if it is computed."""
        data = self.model.buffers[self.tensors[tensor].buffer].data
        dtype = self.dtype(tensor)
        if data is None or not len(data) or dtype not in _NUMERIC:
            return None
        values = np.array(data, np.uint8).view(dtype.lower())
        return values.reshape(self.shape(tensor))

    def set_constant(self, tensor: int, values: np.ndarray) -> None:
        """Gives a constant new values of the same shape.

        Tensors that had the same bytes keep the old ones.
        """
        values = np.asarray(values, self.dtype(tensor).lower())
        buffer = self.schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        self.tensors[tensor].buffer = len(self.model.buffers) - 1

    def own_input(self, operator: Operator, position: int) -> int:
        """Returns an operator's constant, first copied if others use it."""
        tensor = operator.inputs[position]
        if sum(op.inputs.count(tensor) for op in self.operators) > 1:
            tensor = self._append(copy.copy(self.tensors[tensor]))
            operator.inputs[position] = tensor
        return tensor

    def scales(self, tensor: int) -> np.ndarray:
        """Returns the scales of a tensor: none, one, or one a channel."""
        quantization = self.tensors[tensor].quantization
        if quantization is None or quantization.scale is None:
            return np.zeros(0, np.float32)
        return quantization.scale

    def scale(self, tensor: int) -> float | None:
        """Returns the one scale of a tensor; None if it has none or many."""
        scales = self.scales(tensor)
        return float(scales[0]) if len(scales) == 1 else None

    def zero_point(self, tensor: int) -> int:
        """Returns the first zero point of a tensor."""
        return int(self.tensors[tensor].quantization.zeroPoint[0])

    def quantization(self, tensor: int) -> tuple[float, int]:
        """Returns the first scale and zero point; (0, 0) of a float tensor."""
        scales = self.scales(tensor)
        if not len(scales):
            return 0.0, 0
        return float(scales[0]), self.zero_point(tensor)

    def quantize(self, tensor: int, scale: float, zero_point: int = 0) -> None:
        """Gives a tensor one scale and zero point of its own."""
        quantization = self.schema.QuantizationParametersT()
        quantization.scale = np.array([scale], np.float32)
        quantization.zeroPoint = np.array([zero_point], np.int64)
        self.tensors[tensor].quantization = quantization

    def set_range(self, tensor: int, low: float, high: float) -> None:
        """Sets between what values a float tensor is to be quantised."""
        quantization = self.schema.QuantizationParametersT()
        quantization.min = np.array([low], np.float32)
        quantization.max = np.array([high], np.float32)
        self.tensors[tensor].quantization = quantization

    def add_constant(
        self, like: int, values: np.ndarray, dtype: str | None = None
    ) -> int:
        """Adds a constant with the quantisation, and type, of another."""
        tensor = self.add_tensor(like, values.shape)
        if dtype is not None:
            self.tensors[tensor].type = getattr(self.schema.TensorType, dtype)
        self.set_constant(tensor, values)
        return tensor

    def add_tensor(self, like: int, shape: Sequence[int]) -> int:
        """Adds a tensor with the type and quantisation of another."""
        entry = copy.copy(self.tensors[like])
        entry.buffer, entry.shape = 0, np.array(shape, np.int32)
        return self._append(entry)

    def _append(self, entry):
        self.tensors.append(entry)
        return len(self) - 1

    def add_operator(self, before: Operator, kind, inputs, outputs, options):
        """Puts a new operator in front of another."""
        entry = self.schema.OperatorT()
        entry.opcodeIndex = self._code(kind)
        name = type(options).__name__.removesuffix("T")
        entry.builtinOptionsType = getattr(self.schema.BuiltinOptions, name)
        entry.builtinOptions = options
        entry.inputs, entry.outputs = inputs, outputs
        index = self.operators.index(before)
        self.operators.insert(index, self._operator(entry))

    def _code(self, kind):
        number = getattr(self.schema.BuiltinOperator, kind)
        for index, code in enumerate(self.model.operatorCodes):
            if _number(code) == number:
                return index
        code = self.schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = number
        code.version = 1
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1

    def to_bytes(self) -> bytes:
        """Returns the file; equal arrays are stored once."""
        self._main.tensors = self.tensors
        self._main.operators = [op.entry for op in self.operators]
        pairs = [(op, op.entry) for op in self.operators]
        for given, entry in [(self, self._main), *pairs]:
            entry.inputs = np.array(given.inputs, np.int32)
            entry.outputs = np.array(given.outputs, np.int32)
        return pack(self.model)


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


@functools.cache
def _names(enumeration):
    """Number -> name of one of the schema's enumerations."""
    from ai_edge_litert import schema_py_generated as schema

    return {
        value: name
        for name, value in vars(getattr(schema, enumeration)).items()
        if not name.startswith("_")
    }


def _unpack(data):
    """The schema's ModelT of a file of one subgraph."""
    from ai_edge_litert import schema_py_generated as schema

    if data[4:8] != b"TFL3":
        raise ValueError(
            "The bytes are not a .tflite file: no TFL3 identifier."
        )
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    if len(model.subgraphs) != 1:
        raise ValueError(
            "A .tflite file needs exactly one subgraph. "
            f"Received: {len(model.subgraphs)}."
        )
    return model


def pack(model) -> bytes:
    """Returns the file of a ModelT; what is equal in it is stored once.

    That is arrays, and operators' options and tensors' quantisation.
    """
    builder, places = _sharing_builder(), {}
    model = copy.copy(model)
    model.subgraphs = [copy.copy(subgraph) for subgraph in model.subgraphs]
    for subgraph in model.subgraphs:
        for name, field in (
            ("operators", "builtinOptions"),
            ("tensors", "quantization"),
        ):
            entries = [copy.copy(entry) for entry in getattr(subgraph, name)]
            for entry in entries:
                if getattr(entry, field) is not None:
                    table = _Once(getattr(entry, field), places)
                    setattr(entry, field, table)
            setattr(subgraph, name, entries)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


class _Once:
    """A table of the schema that is written once, however often it is met."""

    def __init__(self, table, places):
        self._table, self._places = table, places

    def Pack(self, builder):  # the schema's name
        """Returns the table's place in the file."""
        values = sorted(vars(self._table).items())
        key = (type(self._table), *((name, _key(v)) for name, v in values))
        if key not in self._places:
            self._places[key] = self._table.Pack(builder)
        return self._places[key]


def _key(value):
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.tobytes()
    return tuple(value) if isinstance(value, list) else value


def _numbers(tensors):
    return [int(tensor) for tensor in tensors]


def _number(code):
    """An operator's number; older files have it in another place."""
    return max(code.builtinCode, code.deprecatedBuiltinCode)


def _sharing_builder():
    """Returns a writer that stores equal arrays once, aligned for runtimes.

    A table's fields of one byte come together, so that one padding is enough.
    """
    import flatbuffers

    places = {}

    class Builder(flatbuffers.Builder):
        def StartObject(self, numfields):
            self._bytes = []
            super().StartObject(numfields)

        def PrependInt8Slot(self, *field):
            self._bytes.append((super().PrependInt8Slot, field))

        def PrependUint8Slot(self, *field):
            self._bytes.append((super().PrependUint8Slot, field))

        def PrependBoolSlot(self, *field):
            self._bytes.append((super().PrependBoolSlot, field))

        def EndObject(self):
            for write, field in self._bytes:
                write(*field)
            return super().EndObject()

        def CreateNumpyVector(self, x):
            key = (x.dtype.str, x.tobytes())
            if key not in places:
                if x.dtype == np.uint8:  # a buffer; else aligned to 1
                    self.Prep(16, x.size)
                places[key] = super().CreateNumpyVector(x)
            return places[key]

    return Builder(1 << 20)
