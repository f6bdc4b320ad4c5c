"""Kernels of few values, with integers of few values.

A scale for each channel would give each channel integers of its own; with one
for all, they are as few as the values are, and pack as well.
"""

import numpy as np

from gnsmall_keras.export.graph import Graph

_CONVERTING = ("QUANTIZE", "DEQUANTIZE")  # between layers of other types
_ENDS = 127  # of weights
_LEAST_SHARED = 8  # weights for each value


def share_scales(network: Graph, data: bytes) -> bytes:
    """Returns an int8 file whose kernels of few values have one scale each.

    Those of layers that stayed float are left as they are.

    Args:
        network: float, of the same operators in the same order.
        data: the file that was made of it.
    """
    graph = Graph(data)
    steps = [op for op in graph.operators if op.kind not in _CONVERTING]
    for given, made in zip(network.operators, steps, strict=True):
        if given.kind != made.kind or given.kind != "CONV_2D":
            continue
        if graph.dtype(made.inputs[1]) != "INT8":
            continue
        values = network.constant(given.inputs[1])
        if values is not None and has_few(values):
            bias = network.constant(given.inputs[2])
            _share(graph, made, values, bias)
    return graph.to_bytes()


def has_few(values: np.ndarray) -> bool:
    """Whether a kernel has eight weights or more for each of its values."""
    return len(np.unique(values)) * _LEAST_SHARED <= values.size


def _share(graph, operator, values, bias):
    largest = np.abs(values).max()
    if not largest:
        return
    scale = np.float32(largest / _ENDS)
    source = np.float32(graph.scale(operator.inputs[0]))
    kernel, offsets = (
        graph.own_input(operator, position) for position in (1, 2)
    )
    for tensor, unit, given in (
        (kernel, scale, values),
        (offsets, source * scale, bias),
    ):
        graph.set_constant(tensor, np.rint(given / unit))
        quantization = graph.tensors[tensor].quantization
        quantization.scale = np.full_like(quantization.scale, unit)
