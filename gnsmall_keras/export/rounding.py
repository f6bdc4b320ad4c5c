"""Products and sigmoids that all runtimes round alike."""

import math

import numpy as np
from scipy.special import expit

from gnsmall_keras.export.graph import Graph

_REQUANTISING = ("CONV_2D", "DEPTHWISE_CONV_2D", "MEAN", "MUL", "ADD")
_SETTLING_STEPS = 100
_TIE = 1e-5  # of an output's step; the kernels' error is some 1e-6 of one


def settle_products(graph: Graph) -> None:
    """Gives products scales with which all runtimes round alike.

    LiteRT multiplies and divides the three scales as float32, TensorFlow Lite
    Micro as float64; of all 65,536 pairs of integers a few may round another
    way. The output's scale then grows by steps of float32 until none does.
    """
    for product in graph.of_kind("MUL"):
        made = product.outputs[0]
        tensors = (*product.inputs, made)
        readers = graph.consumers(made)
        if (
            None in [graph.scale(tensor) for tensor in tensors]
            or any(graph.dtype(tensor) != "INT8" for tensor in tensors)
            or any(each.kind not in _REQUANTISING for each in readers)
        ):
            continue
        scale = settled_scale(
            [graph.scale(tensor) for tensor in tensors],
            [graph.zero_point(tensor) for tensor in product.inputs],
        )
        if scale == graph.scale(made):
            continue
        graph.quantize(made, scale, graph.zero_point(made))
        for reader in readers:
            if reader.kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
                kernel, bias = (
                    graph.tensors[t].quantization for t in reader.inputs[1:]
                )
                bias.scale = np.float32(scale) * kernel.scale


def settle_sigmoids(graph: Graph) -> None:
    """Gives sigmoids scales with which all runtimes round alike.

    Each runtime approximates the function in its own way, and a value in the
    middle of two integers may become either. The input's scale then grows by
    steps of float32 until none of the 256 is.
    """
    makers = {
        tensor: operator.kind
        for operator in graph.operators
        for tensor in operator.outputs
    }
    for sigmoid in graph.of_kind("LOGISTIC"):
        tensor = sigmoid.inputs[0]
        if (
            graph.dtype(tensor) != "INT8"
            or makers.get(tensor) not in _REQUANTISING
            or any(r.kind != "LOGISTIC" for r in graph.consumers(tensor))
        ):
            continue
        scale, point = graph.scale(tensor), graph.zero_point(tensor)
        settled = settled_sigmoid(scale, point)
        if settled != scale:
            graph.quantize(tensor, settled, point)


def settled_sigmoid(scale: float, zero_point: int) -> float:
    """Returns the first input scale, a float32, without a value at a tie."""
    inputs = np.arange(-128, 128) - zero_point
    found = np.float32(scale)
    for _ in range(_SETTLING_STEPS):
        outputs = 256 * expit(inputs * float(found))
        if np.abs(outputs % 1 - 0.5).min() > _TIE:
            return float(found)
        found = np.nextafter(found, np.float32(np.inf))
    return scale


def settled_scale(scales, zero_points) -> float:
    """Returns the first output scale that rounds alike on all runtimes.

    Args:
        scales: of the two factors and of the output, float32 values.
        zero_points: of the two factors.
    """
    first, second = (np.arange(-128, 128) - point for point in zero_points)
    products = np.unique(np.multiply.outer(first, second))
    single = np.float32(scales[0]) * np.float32(scales[1])
    scale = np.float32(scales[2])
    for _ in range(_SETTLING_STEPS):
        ratios = (
            float(single / scale),  # in float32
            scales[0] * scales[1] / float(scale),
        )
        values = [_requantised(products, ratio) for ratio in ratios]
        if np.array_equal(*values):
            return float(scale)
        scale = np.nextafter(scale, np.float32(np.inf))
    return scales[2]


def _requantised(products, ratio):
    """Integers times `ratio` as the kernels' fixed-point numbers round it."""
    fraction, exponent = math.frexp(ratio)
    wide = products.astype(np.int64) << max(exponent, 0)
    wide = wide * round(fraction * 2**31)
    nudge = np.where(wide >= 0, 1 << 30, 1 - (1 << 30))
    high = np.trunc((wide + nudge) / 2**31).astype(np.int64)
    shift = max(-exponent, 0)
    half = (1 << shift) >> 1
    return np.sign(high) * ((np.abs(high) + half) >> shift)
