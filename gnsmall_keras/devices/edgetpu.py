"""Which operators the Edge TPU's compiler takes, predicted from its table.

Source: coral.ai, "TensorFlow models on the Edge TPU", supported operations and
their limits. The compiler is not at hand; it also leaves out operators "due to
some unspecified limitation", which nobody can predict.
"""

import dataclasses

import numpy as np

from gnsmall_keras.devices.targets import (
    EDGETPU_OPERATORS,
    EDGETPU_PARAMETER_BYTES,
)
from gnsmall_keras.export.graph import Graph

_SOFTMAX_ELEMENTS = 16_000


@dataclasses.dataclass(frozen=True)
class Mapping:
    """One operator; `reason` is empty if the Edge TPU takes it."""

    operator: str
    shape: tuple[int, ...]  # of its output
    reason: str


@dataclasses.dataclass(frozen=True)
class EdgeTpuReport:
    """What the compiler is expected to do with a file.

    Attributes:
        operators: in the file's order.
        cut_point: index of the first operator that stays on the CPU, and with
            it all that follow; None if the whole file is mapped.
        parameter_bytes: constants of the operators before it.
        parameters_fit: whether they fit into the memory on the chip; others
            are fetched from the host for every image.
    """

    operators: list[Mapping]
    cut_point: int | None
    parameter_bytes: int
    parameters_fit: bool

    @property
    def faults(self) -> list[str]:
        """Why the whole file is not on the Edge TPU; empty if it is."""
        if self.cut_point is None:
            return []
        first, count = self.operators[self.cut_point], len(self.operators)
        return [
            f"{first.operator}: left to the CPU by the Edge TPU, from operator "
            f"{self.cut_point + 1} of {count} on: {first.reason}"
        ]


def predict_mapping(data: bytes) -> EdgeTpuReport:
    """Predicts what the Edge TPU's compiler does with a .tflite file.

    Raises:
        ValueError: if `data` is no such file or has more than one subgraph.
    """
    graph = Graph(data)
    operators = [
        Mapping(
            operator.kind,
            graph.shape(operator.outputs[0]),
            _reason(graph, operator),
        )
        for operator in graph.operators
    ]
    reasons = [mapping.reason for mapping in operators]
    first = next((i for i, reason in enumerate(reasons) if reason), None)
    read = {
        tensor
        for operator in graph.operators[:first]
        for tensor in operator.sources
    }
    constants = [graph.constant(tensor) for tensor in sorted(read)]
    size = sum(values.nbytes for values in constants if values is not None)
    return EdgeTpuReport(
        operators, first, size, size <= EDGETPU_PARAMETER_BYTES
    )


def _reason(graph, operator):
    """Why an operator would stay on the CPU; "" if it would not."""
    kind = operator.kind
    if kind not in EDGETPU_OPERATORS:
        return "not an operation of the Edge TPU"
    values = [
        tensor
        for tensor in (*operator.sources, *operator.outputs)
        if graph.constant(tensor) is None
    ]
    for tensor in values:
        if graph.dtype(tensor) not in ("INT8", "UINT8"):
            return "a type other than int8 and uint8"
        if graph.is_dynamic(tensor):
            return "a tensor without a fixed shape"
        if any(side > 1 for side in graph.shape(tensor)[:-3]):
            return "a tensor of more than three dimensions"
    limit = _LIMITS.get(kind)
    return limit(graph, operator) if limit else ""


def _no_activation(graph, operator):
    fused = operator.options.fusedActivationFunction
    return "a fused activation" if fused else ""


def _concatenation(graph, operator):
    constants = [graph.constant(tensor) for tensor in operator.inputs]
    given = [values for values in constants if values is not None]
    if given and (len(constants) != 2 or any(map(np.any, given))):
        return "a constant that is not zeros beside one other input"
    return _no_activation(graph, operator)


def _conv(graph, operator):
    options = operator.options
    if options.dilationWFactor != options.dilationHFactor:
        return "unequal dilations"
    kernel = graph.constant(operator.inputs[1])
    if kernel is None:
        return "a kernel that is not constant"
    channels = graph.shape(operator.inputs[0])[-1]
    if operator.kind == "CONV_2D" and kernel.shape[-1] != channels:
        return "a grouped convolution"
    return ""


def _dense(graph, operator):
    scales = graph.scales(operator.inputs[1])
    shape = graph.shape(operator.outputs[0])
    if len(scales) > 1:
        return "a scale for each channel of a dense layer"
    return "more than one row" if np.prod(shape) != shape[-1] else ""


def _reduction(graph, operator):
    shape = graph.shape(operator.inputs[0])
    axes = np.atleast_1d(graph.constant(operator.inputs[1])) % len(shape)
    if 0 in axes:
        return "a reduction over the batch"
    last = len(shape) - 1
    if last in axes and shape[last] % 4:
        return "a reduction of channels that are no multiple of 4"
    return ""


def _pad(graph, operator):
    borders = graph.constant(operator.inputs[1])
    return "a padded batch" if np.any(borders[0]) else ""


def _resize(graph, operator):
    options = operator.options
    if options.halfPixelCenters or options.alignCorners:
        return "half-pixel centres or aligned corners, which came late"
    return ""


def _softmax(graph, operator):
    size = int(np.prod(graph.shape(operator.outputs[0])))
    flat = size == graph.shape(operator.outputs[0])[-1]
    return "" if flat and size <= _SOFTMAX_ELEMENTS else "more than one row"


_LIMITS = {
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D"), _no_activation),
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D"), _conv),
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"), _reduction),
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), _resize),
    "CONCATENATION": _concatenation,
    "FULLY_CONNECTED": _dense,
    "PAD": _pad,
    "SOFTMAX": _softmax,
}
