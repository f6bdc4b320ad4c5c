"""Where an int8 file departs from the float network, operator by operator."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from gnsmall_keras.export.graph import Graph
from gnsmall_keras.quantization.calibration import trace


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerError:
    """How far one operator's output is from the float network's.

    Attributes:
        layer: of the fused Keras model.
        op: the operator.
        shape: of its output.
        scale: a step of its output; 0 where it stays float.
        error: root mean square of the difference, all errors of earlier
            operators included.
        error_steps: `error` in steps; rounding alone gives 0.29. None where
            the output stays float.
        sqnr_db: signal to quantisation noise; 20 dB is an error of a tenth.
            None where nothing differs or all is zero.
        clipped: part of the values at an end of the range, where ReLU's zero
            is not counted.

    Example:
        >>> error = gns.LayerError(
        ...     layer="stem",
        ...     op="CONV_2D",
        ...     shape=(1, 32, 32, 16),
        ...     scale=0.1,
        ...     error=0.029,
        ...     error_steps=0.29,
        ...     sqnr_db=38.0,
        ...     clipped=0.0,
        ... )
        >>> error.error_steps < 1
        True
    """

    layer: str
    op: str
    shape: tuple[int, ...]
    scale: float
    error: float
    error_steps: float | None
    sqnr_db: float | None
    clipped: float


def find_layer_errors(
    floats: bytes, integers: bytes, layers: Sequence[str], images: np.ndarray
) -> list[LayerError]:
    """Compares two files, whose operators are the same, on the same images.

    Args:
        floats: a float .tflite file.
        integers: the int8 file made of it, before operators are merged.
        layers: the Keras layer of each operator.
        images: raw pixels, uint8 `(n, height, width, 3)`.

    Returns:
        One entry for each operator, in the file's order.
    """
    ours, theirs = Graph(floats), Graph(integers)
    pairs = list(_pairs(ours, theirs))
    sums = np.zeros((len(pairs), 4))  # squared error and signal, clipped, count
    for exact, found in zip(
        trace(floats, images),
        trace(integers, images, reference=True),
        strict=True,
    ):
        for row, (_, one, other) in enumerate(pairs):
            sums[row] += _compare(exact[one], found[other], theirs, other)
    return [
        _layer_error(layers[number], ours, theirs, number, other, totals)
        for (number, _, other), totals in zip(pairs, sums, strict=True)
    ]


def _pairs(ours, theirs):
    """Operators of both files; the int8 one may convert in between."""
    rest = iter(theirs.operators)
    for number, operator in enumerate(ours.operators):
        for other in rest:
            if other.kind == operator.kind:
                yield number, operator.outputs[0], other.outputs[0]
                break


def _compare(exact, found, network, tensor):
    scale, zero_point = network.quantization(tensor)
    values, clipped = found.astype(np.float64), 0
    if scale:
        limits = np.iinfo(found.dtype)
        clipped = np.sum(found == limits.max)
        if zero_point != limits.min:
            clipped += np.sum(found == limits.min)
        values = (values - zero_point) * scale
    error = np.sum((values - exact) ** 2)
    return error, np.sum(exact.astype(np.float64) ** 2), clipped, exact.size


def _layer_error(layer, ours, theirs, number, tensor, totals):
    squares, signal, clipped, count = totals
    operator = ours.operators[number]
    scale, _ = theirs.quantization(tensor)
    error = math.sqrt(squares / count)
    return LayerError(
        layer=layer,
        op=operator.kind,
        shape=ours.shape(operator.outputs[0]),
        scale=scale,
        error=error,
        error_steps=error / scale if scale else None,
        sqnr_db=10 * math.log10(signal / squares)
        if squares and signal
        else None,
        clipped=float(clipped / count),
    )
