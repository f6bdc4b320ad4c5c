"""A .tflite file as objects that can be changed and written again."""

import functools

import numpy as np

# By their numbers in the schema's TensorType.
TYPES = {
    0: np.float32,
    1: np.float16,
    2: np.int32,
    3: np.uint8,
    4: np.int64,
    6: np.bool_,
    7: np.int16,
    9: np.int8,
}


class Graph:
    """The operators and tensors of a file.

    Args:
        data: a .tflite file.

    Raises:
        ValueError: if it is no such file or has more than one subgraph.
    """

    def __init__(self, data: bytes):
        from ai_edge_litert import schema_py_generated as schema

        self.schema = schema
        self.model = unpack(data)
        self.main = self.model.subgraphs[0]
        self.tensors = self.main.tensors
        for each in [self.main, *self.main.operators]:  # to be written to
            each.inputs, each.outputs = each.inputs.copy(), each.outputs.copy()

    def kind(self, operator) -> str:
        """Returns an operator's name, such as "CONV_2D"."""
        code = self.model.operatorCodes[operator.opcodeIndex]
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        return names_of("BuiltinOperator")[number]

    def of_kind(self, *kinds: str) -> list:
        """Returns the operators of some kinds, in the file's order."""
        return [op for op in self.main.operators if self.kind(op) in kinds]

    def producer(self, tensor: int):
        """Returns the operator that makes a tensor, or None."""
        for operator in self.main.operators:
            if tensor in operator.outputs:
                return operator
        return None

    def consumers(self, tensor: int) -> list:
        """Returns the operators that read a tensor."""
        return [op for op in self.main.operators if tensor in op.inputs]

    def constant(self, tensor: int) -> np.ndarray | None:
        """Returns the values of a constant tensor, None for another one."""
        facts = self.tensors[tensor]
        data = self.model.buffers[facts.buffer].data
        if data is None or not len(data):
            return None
        shape = [] if facts.shape is None else list(facts.shape)
        return np.asarray(data).view(TYPES[facts.type]).reshape(shape)

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
        """Returns the one zero point of a tensor."""
        return int(self.tensors[tensor].quantization.zeroPoint[0])

    def quantize(self, tensor: int, scale: float, zero_point: int = 0) -> None:
        """Gives a tensor one scale and zero point of its own."""
        quantization = self.schema.QuantizationParametersT()
        quantization.scale = np.array([scale], np.float32)
        quantization.zeroPoint = np.array([zero_point], np.int64)
        self.tensors[tensor].quantization = quantization

    def add_tensor(self, like: int, *, values=None, shape=None) -> int:
        """Adds a tensor with the type and quantisation of another."""
        given = self.tensors[like]
        tensor = self.schema.TensorT()
        for name, value in vars(given).items():
            setattr(tensor, name, value)
        tensor.buffer, tensor.shape = 0, shape
        if values is not None:
            buffer = self.schema.BufferT()
            buffer.data = np.ascontiguousarray(values).view(np.uint8).ravel()
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
            tensor.shape = values.shape
        tensor.shape = np.asarray(tensor.shape, np.int32)
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def add_operator(self, before, kind, inputs, outputs, options):
        """Puts a new operator in front of another."""
        operator = self.schema.OperatorT()
        operator.opcodeIndex = self._code(kind)
        operator.inputs = np.asarray(inputs, np.int32)
        operator.outputs = np.asarray(outputs, np.int32)
        name = type(options).__name__.removesuffix("T")
        operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, name)
        operator.builtinOptions = options
        self.main.operators.insert(self.main.operators.index(before), operator)

    def remove(self, operator) -> None:
        """Takes an operator out."""
        self.main.operators.remove(operator)

    def _code(self, kind):
        number = getattr(self.schema.BuiltinOperator, kind)
        for index, code in enumerate(self.model.operatorCodes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == number:
                return index
        code = self.schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = number
        code.version = 1
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1

    def pack(self) -> bytes:
        """Returns the file, as `pack`."""
        return pack(self.model)


def unpack(data: bytes):
    """Returns the schema's ModelT of a .tflite file.

    Raises:
        ValueError: if it is no such file or has more than one subgraph.
    """
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
    """Returns the file of a ModelT; equal arrays are stored once."""
    builder = _sharing_builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _sharing_builder():
    """Returns a writer that stores equal arrays once, aligned for runtimes."""
    import flatbuffers

    places = {}

    class Builder(flatbuffers.Builder):
        def CreateNumpyVector(self, x):
            key = (x.dtype.str, x.tobytes())
            if key not in places:
                if x.dtype == np.uint8:  # a buffer; else aligned to 1
                    self.Prep(16, x.size)
                places[key] = super().CreateNumpyVector(x)
            return places[key]

    return Builder(1 << 20)


@functools.cache
def names_of(enumeration: str) -> dict[int, str]:
    """Returns number -> name of one of the schema's enumerations."""
    from ai_edge_litert import schema_py_generated as schema

    return {
        value: name
        for name, value in vars(getattr(schema, enumeration)).items()
        if not name.startswith("_")
    }
