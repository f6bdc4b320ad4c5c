"""Gates that answer all images alike, folded into the kernels behind them.

Weight decay can take a squeeze-and-excite module or a gate of a ghost module
to zero: its sigmoid is then a constant for each channel. The product with it
is a factor of the next kernels' channels, and the operators before it go.
"""

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np

from gnsmall_keras.models.keras_private import (
    clone_model,
    is_called_once,
    operation_of,
    readers_of,
    set_weights,
)

# By how much the answers of a gate that is folded may differ; sigmoids are
# in [0, 1].
_TOLERANCE = 1e-6
# The largest magnitude that a gate is tried with; in normalised networks
# values are of some tens, and integer files have none beyond their ranges.
_LARGEST = 1e6
_POOLS = (keras.layers.AveragePooling2D, keras.layers.GlobalAveragePooling2D)
# Of an image by itself: a factor of a channel goes through.
_PASSING = (
    *(*_POOLS, keras.layers.MaxPooling2D),
    *(keras.layers.ReLU, keras.layers.ZeroPadding2D, keras.layers.Multiply),
)


class _Gate(NamedTuple):
    product: keras.layers.Multiply
    open_input: int  # position of what is gated
    channels: int  # of what the gate is computed from
    steps: list[keras.Layer]  # from the pool to the gate


class _Span(NamedTuple):
    """Between what values each channel is, float64 `(channels,)`."""

    low: np.ndarray
    high: np.ndarray


_UNKNOWN = _Span(np.array(-np.inf), np.array(np.inf))


def fold_gates(model: keras.Model) -> tuple[keras.Model, list[str]]:
    """Returns a fused model without the gates that are constant.

    A gate is constant if no input of a magnitude up to 10^6 changes its answer
    by more than 1e-6, by interval arithmetic. Gates stay where a layer that
    computes, gates or reads them is called more than once, or is a convolution
    of groups.

    Args:
        model: fused, of `keras.layers` alone.

    Returns:
        A model of the same outputs, to some 1e-6 of a factor, and the names of
        the products that it does without; the given one where there are none.
    """
    gates = [gate for layer in model.layers if (gate := _read_gate(layer))]
    folded = {}
    for gate in gates:
        factor = _constant(gate)
        if factor is not None and _readers(model, gate.product) is not None:
            folded[gate.product.name] = gate, factor
    if not folded:
        return model, []
    return _without(model, folded), [*folded]


def _read_gate(layer):
    """A product of an image and a gate that is computed from a pool of it."""
    if not isinstance(layer, keras.layers.Multiply):
        return None
    if not is_called_once(layer):
        return None
    inputs = layer.input
    for position, tensor in enumerate(inputs):
        steps = []
        step = operation_of(tensor)
        while isinstance(step, (*_SPANS, *_POOLS)) and is_called_once(step):
            steps.insert(0, step)
            if isinstance(step, _POOLS):
                if len(inputs) != 2 or not _has_sigmoid(steps):
                    return None
                channels = step.input.shape[-1]
                return _Gate(layer, 1 - position, channels, steps)
            step = operation_of(step.input)
    return None


def _has_sigmoid(steps):
    names = [getattr(step, "activation", None) for step in steps]
    return any(
        one in (keras.activations.sigmoid, keras.activations.hard_sigmoid)
        for one in names
    )


def _constant(gate):
    """The gate's factor of each channel, or None if it has no such."""
    bound = np.full(gate.channels, _LARGEST)
    span = _Span(-bound, bound)
    for step in gate.steps:
        if not isinstance(step, _POOLS):
            span = _SPANS[type(step)](step, span)
        if span is _UNKNOWN:
            return None
    if not np.all(span.high - span.low <= _TOLERANCE):
        return None
    factor = (span.low + span.high) / 2.0
    return factor if np.all(factor > 0.0) else None


def _span_of_conv(layer, span):
    if layer.groups != 1:
        return _UNKNOWN
    kernel, bias = _weights(layer)
    kernel = kernel.reshape(-1, *kernel.shape[2:])  # taps, inputs, outputs
    span = _padded(layer, span)
    low = np.minimum(kernel * span.low[:, None], kernel * span.high[:, None])
    high = np.maximum(kernel * span.low[:, None], kernel * span.high[:, None])
    return _activated(layer, low.sum((0, 1)) + bias, high.sum((0, 1)) + bias)


def _span_of_depthwise(layer, span):
    kernel, bias = _weights(layer)
    if layer.depth_multiplier != 1:
        return _UNKNOWN
    kernel = kernel.reshape(-1, kernel.shape[2])  # taps, channels
    span = _padded(layer, span)
    low = np.minimum(kernel * span.low, kernel * span.high)
    high = np.maximum(kernel * span.low, kernel * span.high)
    return _activated(layer, low.sum(0) + bias, high.sum(0) + bias)


def _weights(layer):
    kernel, *bias = (
        np.asarray(each, np.float64) for each in layer.get_weights()
    )
    return kernel, bias[0] if bias else 0.0


def _padded(layer, span):
    """With the zeros that surround an image."""
    if layer.padding != "same" or max(layer.kernel_size) == 1:
        return span
    return _Span(np.minimum(span.low, 0.0), np.maximum(span.high, 0.0))


def _activated(layer, low, high):
    """Through a function that never falls."""
    function = layer.activation
    if function not in _RISING:
        return _UNKNOWN
    return _Span(_RISING[function](low), _RISING[function](high))


def _sigmoid(x):
    return 0.5 * (1.0 + np.tanh(0.5 * x))


_RISING = {
    keras.activations.linear: lambda x: x,
    keras.activations.relu: lambda x: np.maximum(x, 0.0),
    keras.activations.sigmoid: _sigmoid,
    keras.activations.hard_sigmoid: lambda x: np.clip(x / 6.0 + 0.5, 0.0, 1.0),
}
_SPANS: dict[type, Callable] = {
    keras.layers.Conv2D: _span_of_conv,
    keras.layers.DepthwiseConv2D: _span_of_depthwise,
    keras.layers.Activation: lambda layer, span: _activated(layer, *span),
    keras.layers.ReLU: lambda _, span: _Span(*np.maximum(span, 0.0)),
    keras.layers.Resizing: lambda _, span: span,
}


def _readers(model, product):
    """The convolutions that read a product's channels; None if others do."""
    found, passed, open_layers = [], [], [product]
    while open_layers:
        layer = open_layers.pop()
        readers = [r for r in readers_of(layer) if r in model.operations]
        if not readers or layer in passed:
            return None  # an output; or a product with itself
        passed.append(layer)
        for reader in readers:
            if not is_called_once(reader) or getattr(reader, "groups", 1) != 1:
                return None
            if type(reader) in (
                keras.layers.Conv2D,
                keras.layers.DepthwiseConv2D,
            ):
                found.append(reader)
            elif isinstance(reader, _PASSING) and _is_linear(reader):
                open_layers.append(reader)
            else:
                return None
    return list(dict.fromkeys(found))


def _is_linear(layer):
    """Whether a positive factor of a channel goes through."""
    if isinstance(layer, keras.layers.ReLU):
        return layer.max_value is None and not layer.threshold
    return True


def _without(model, folded):
    """The model without some gates, their factors in the kernels behind."""
    factors = {}
    for gate, factor in folded.values():
        for reader in _readers(model, gate.product) or ():
            factors[reader.name] = factors.get(reader.name, 1.0) * factor

    def call(layer, *args, **kwargs):
        if layer.name not in folded:
            return layer(*args, **kwargs)
        return args[0][folded[layer.name][0].open_input]

    found = clone_model(model, call_function=call)
    for layer in found.layers:
        if not layer.weights:
            continue
        kernel, *bias = model.get_layer(layer.name).get_weights()
        if layer.name in factors:
            kernel = kernel * factors[layer.name][:, None].astype(np.float32)
        set_weights(layer, [kernel, *bias])
    return found
