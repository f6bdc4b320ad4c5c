"""MLPerf Tiny's image classifier as an int8 .tflite file, for its latency.

The published architecture (mlcommons/tiny, benchmark/training/
image_classification/keras_model.py) with random weights, written without a
converter: 9 CONV_2D, 3 ADD, AVERAGE_POOL_2D, RESHAPE, FULLY_CONNECTED and
SOFTMAX, as the published file has. Latency does not depend on weights.
"""

import math

import numpy as np

LARGE = "resnet8-40-80-160"
# Channels of the three stages: of version 0.5, and of 1.4's larger network.
RESNET8 = {
    "resnet8-16-32-64": (16, 32, 64),
    LARGE: (40, 80, 160),
}
_CLASSES = 10
_SIDE = 32
_SCALE = 0.05  # of all activations; their integers then fill int8
_VERSIONS = {
    "CONV_2D": 3,
    "ADD": 2,
    "AVERAGE_POOL_2D": 2,
    "RESHAPE": 1,
    "FULLY_CONNECTED": 4,
    "SOFTMAX": 2,
}


def resnet8(channels: tuple[int, int, int], *, softmax: bool = True) -> bytes:
    """Returns the .tflite file of a ResNet-8, from int8 pixels to softmax.

    Args:
        channels: of the three stages.
        softmax: False ends in logits.
    """
    write = _Writer()
    x = image = write.activation((1, _SIDE, _SIDE, 3), scale=1.0)
    x = write.conv(x, channels[0], 3)
    for stage, filters in enumerate(channels):
        stride = 2 if stage else 1
        y = write.conv(x, filters, 3, stride=stride)
        y = write.conv(y, filters, 3, relu=False)
        if stage:
            x = write.conv(x, filters, 1, stride=stride, relu=False)
        x = write.add(x, y)
    x = write.pool(x)
    x = write.reshape(x, (1, channels[-1]))
    x = write.dense(x, _CLASSES)
    if softmax:
        x = write.softmax(x)
    return write.finish(image, x)


class _Writer:
    """Collects tensors and operators of one graph."""

    def __init__(self):
        from ai_edge_litert import schema_py_generated as schema

        self._schema = schema
        self._random = np.random.default_rng(0)
        self._model = schema.ModelT()
        self._model.version = 3
        self._model.operatorCodes = []
        self._model.buffers = [schema.BufferT()]
        self._graph = schema.SubGraphT()
        self._graph.tensors, self._graph.operators = [], []
        self._model.subgraphs = [self._graph]

    def activation(self, shape, scale=_SCALE, zero_point=-128):
        return self._tensor(shape, "INT8", [scale], [zero_point])

    def conv(self, x, filters, side, *, stride=1, relu=True):
        _, height, width, channels = self._shape(x)
        shape = (1, height // stride, width // stride, filters)
        options = self._schema.Conv2DOptionsT()
        options.strideH = options.strideW = stride
        options.fusedActivationFunction = int(relu)
        weights = self._weights(x, (filters, side, side, channels))
        y = self.activation(shape, zero_point=-128 if relu else 0)
        return self._operator("CONV_2D", [x, *weights], y, options)

    def add(self, x, y):
        options = self._schema.AddOptionsT()
        options.fusedActivationFunction = 1
        return self._operator(
            "ADD", [x, y], self.activation(self._shape(x)), options
        )

    def pool(self, x):
        _, height, width, channels = self._shape(x)
        options = self._schema.Pool2DOptionsT()
        options.padding = self._schema.Padding.VALID
        options.filterHeight = options.strideH = height
        options.filterWidth = options.strideW = width
        y = self.activation((1, 1, 1, channels))
        return self._operator("AVERAGE_POOL_2D", [x], y, options)

    def reshape(self, x, shape):
        options = self._schema.ReshapeOptionsT()
        options.newShape = list(shape)
        y = self.activation(shape)
        sides = self._constant(np.array(shape, np.int32))
        return self._operator("RESHAPE", [x, sides], y, options)

    def dense(self, x, units):
        weights = self._weights(x, (units, self._shape(x)[-1]))
        y = self.activation((1, units), zero_point=0)
        options = self._schema.FullyConnectedOptionsT()
        return self._operator("FULLY_CONNECTED", [x, *weights], y, options)

    def softmax(self, x):
        options = self._schema.SoftmaxOptionsT()
        options.beta = 1.0
        y = self.activation(self._shape(x), scale=1 / 256)
        return self._operator("SOFTMAX", [x], y, options)

    def finish(self, image, scores):
        import flatbuffers

        self._graph.inputs, self._graph.outputs = [image], [scores]
        builder = flatbuffers.Builder(2**20)
        builder.Finish(self._model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _shape(self, tensor):
        return self._graph.tensors[tensor].shape

    def _weights(self, x, shape):
        """A kernel that keeps the deviation, and a bias of zeros."""
        (scale_of_x,) = self._graph.tensors[x].quantization.scale
        gain = _SCALE / scale_of_x / 127 * (6 / math.prod(shape[1:])) ** 0.5
        scales, zeros = [gain] * shape[0], [0] * shape[0]
        kernel = self._random.integers(-127, 128, shape, np.int8)
        bias = np.zeros(shape[0], np.int32)
        return (
            self._constant(kernel, scales, zeros),
            self._constant(bias, [gain * scale_of_x] * shape[0], zeros),
        )

    def _constant(self, values, scales=None, zero_points=None):
        buffer = self._schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self._model.buffers.append(buffer)
        dtype = values.dtype.name.upper()
        tensor = self._tensor(values.shape, dtype, scales, zero_points)
        self._graph.tensors[tensor].buffer = len(self._model.buffers) - 1
        return tensor

    def _tensor(self, shape, dtype, scales, zero_points):
        tensor = self._schema.TensorT()
        tensor.shape = list(shape)
        tensor.type = getattr(self._schema.TensorType, dtype)
        if scales:
            tensor.quantization = self._schema.QuantizationParametersT()
            tensor.quantization.scale = scales
            tensor.quantization.zeroPoint = zero_points
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _operator(self, name, inputs, output, options):
        operator = self._schema.OperatorT()
        operator.opcodeIndex = self._code(name)
        operator.inputs, operator.outputs = inputs, [output]
        kind = type(options).__name__.removesuffix("T")
        operator.builtinOptionsType = getattr(self._schema.BuiltinOptions, kind)
        operator.builtinOptions = options
        self._graph.operators.append(operator)
        return output

    def _code(self, name):
        number = getattr(self._schema.BuiltinOperator, name)
        for index, code in enumerate(self._model.operatorCodes):
            if code.builtinCode == number:
                return index
        code = self._schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = number
        code.version = _VERSIONS[name]
        self._model.operatorCodes.append(code)
        return len(self._model.operatorCodes) - 1
