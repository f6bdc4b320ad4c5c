"""What an int8 file computes, as a Keras layer that can learn.

The layer does the file's own operators, in its order, on its own scales; only
what the file keeps as integers is rounded and clipped here. So it needs to
know nothing of how a Keras layer is converted: not what the converter fuses,
nor which tensors share a scale.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from gnsmall_keras.data.augment import moments
from gnsmall_keras.export.graph import Graph, Operator
from gnsmall_keras.quantization.few_values import has_few

_AWAY = ("AVERAGE_POOL_2D",)  # where integers' ties go away from zero
_HALF = 0.5 + 1e-3  # ties, seen through float32's rounding
_ACTIVATIONS = {
    "NONE": lambda values: values,
    "RELU": ops.relu,
    "RELU6": ops.relu6,
}


@keras.saving.register_keras_serializable("gnsmall_keras")
class Int8Simulation(keras.layers.Layer):
    """A network as an int8 file computes it, from normalised images to logits.

    Kernels and biases are weights of the layer and learn as if nothing were
    rounded; values outside of their tensor's range do not learn. What is
    applied to the pixels themselves, the normalisation, stays as it is.

    Args:
        network: the float network; it gives operators and constants.
        quantized: the int8 file made of it; it gives scales.
        compressed: whether kernels of few values keep as few, with one scale
            for all channels as `share_scales` has it, and zeros stay zero.

    Raises:
        ValueError: if an operator is not known here.
    """

    def __init__(
        self,
        network: Graph,
        quantized: Graph,
        *,
        compressed: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        operators = list(network.operators)
        if operators[-1].kind == "SOFTMAX":
            operators.pop()  # training needs the logits
        for operator in operators:
            if operator.kind not in _COMPUTE:
                raise ValueError(
                    f"Quantisation-aware training knows {sorted(_COMPUTE)}. "
                    f"Received: {operator.kind} in layer {operator.layer!r}. "
                    'Use quantization="int8" for this model.'
                )
        self._network, self._operators = network, operators
        self._scales = _match_scales(network, quantized)
        self._learned: dict[int, _Learned] = {}  # by tensor
        for operator in operators:
            if operator.is_linear and operator.inputs[0] not in network.inputs:
                self._add_weights(operator, compressed)

    def _add_weights(self, operator, compressed):
        """Makes kernel and bias weights, in units of their own size.

        So one learning rate suits channels of all ranges.
        """
        for position, kind in enumerate(("kernel", "bias"), 1):
            if position >= len(operator.sources):
                continue
            tensor = self._network.own_input(operator, position)
            values = self._network.constant(tensor)
            places = kept = None
            if compressed and kind == "kernel":
                if operator.kind == "CONV_2D" and has_few(values):
                    shape = values.shape
                    values, places = np.unique(values, return_inverse=True)
                    places = places.reshape(shape)
                elif not values.all():
                    kept = (values != 0).astype(np.float32)
            unit = self._unit(operator, kind, values, places is not None)
            weight = self.add_weight(
                name=f"{kind}_{tensor}",
                shape=values.shape,
                initializer=lambda shape, dtype, start=values / unit: start,
            )
            self._learned[tensor] = _Learned(unit, weight, places, kept)

    def _unit(self, operator, kind, values, shared):
        if kind == "bias":
            scale, _ = self._scales[operator.outputs[0]]
            return np.float32(128 * scale)
        axis, others = None if shared else _channel_axis(operator), None
        if axis is not None:
            axis = axis % values.ndim
            others = tuple(a for a in range(values.ndim) if a != axis)
        largest = np.abs(values).max(axis=others, keepdims=True)
        return np.maximum(largest, 1e-6)

    def call(self, images):
        """Returns logits `(batch, classes)`."""
        mean, std = moments(images.shape[-1])
        pixels = ops.round(images * (255.0 * std) + 255.0 * mean)
        values = {self._network.inputs[0]: pixels}
        for operator in self._operators:
            values[operator.outputs[0]] = self.compute(operator, values)
        return values[self._operators[-1].outputs[0]]

    def compute(self, operator: Operator, values: dict):
        """Returns what one operator makes of its inputs, by their numbers."""
        constants = [
            self._constant(operator, position)
            for position, tensor in enumerate(operator.sources)
            if tensor not in values
        ]
        inputs = [values[t] for t in operator.sources if t in values]
        outputs = _COMPUTE[operator.kind](operator, inputs, constants)
        outputs = _ACTIVATIONS[operator.activation](outputs)
        scale, zero_point = self._scales[operator.outputs[0]]
        return fake_quantize(
            outputs, scale, zero_point, away=operator.kind in _AWAY
        )

    def _constant(self, operator, position):
        tensor = operator.sources[position]
        values = self._values(tensor)
        if operator.is_linear and position == 1:
            learned = self._learned.get(tensor)
            shared = learned is not None and learned.places is not None
            axis = None if shared else _channel_axis(operator)
            return fake_quantize_kernel(values, axis)
        return values

    def _values(self, tensor):
        if tensor not in self._learned:
            return self._network.constant(tensor)
        return self._learned[tensor].values()

    def write_back(self) -> None:
        """Gives the learned kernels and biases to the float network."""
        for tensor in self._learned:
            values = ops.convert_to_numpy(self._values(tensor))
            self._network.set_constant(tensor, values)


class _Learned(NamedTuple):
    """A kernel or a bias that learns."""

    unit: Any  # what the weight is in, one or one a channel
    weight: Any  # the layer's
    places: np.ndarray | None = None  # of few values: where each of them is
    kept: np.ndarray | None = None  # of zeros that stay: 0 there, otherwise 1

    def values(self):
        values = self.weight * self.unit
        if self.places is not None:
            values = ops.take(values, self.places)
        return values if self.kept is None else values * self.kept


def fake_quantize(values, scale: float, zero_point: int, *, away=False):
    """Rounds to the steps of an int8 tensor; the gradient passes inside.

    Args:
        values: float32, of any shape.
        scale: a step.
        zero_point: the integer that stands for zero.
        away: whether ties go away from the integer 0, else to even ones.
    """
    low, high = ((end - zero_point) * scale for end in (-128, 127))
    values = ops.clip(values, low, high)
    steps = values / scale
    if away:
        steps = steps + zero_point
        steps = ops.sign(steps) * ops.floor(ops.abs(steps) + _HALF) - zero_point
    rounded = ops.round(steps) * scale
    return values + ops.stop_gradient(rounded - values)


def fake_quantize_kernel(kernel, axis: int | None):
    """Rounds to 127 steps on both sides of zero.

    Args:
        kernel: float32.
        axis: of its channels, each with a step of its own; None: one for all.
    """
    kernel = ops.convert_to_tensor(kernel)
    others = None
    if axis is not None:
        others = [a for a in range(kernel.ndim) if a != axis % kernel.ndim]
    largest = ops.max(ops.abs(kernel), axis=others, keepdims=True)
    scale = ops.stop_gradient(ops.maximum(largest, 1e-12) / 127.0)
    rounded = ops.round(kernel / scale) * scale
    return kernel + ops.stop_gradient(rounded - kernel)


def _channel_axis(operator):
    """Of a kernel; None where files have one scale for all its channels."""
    if operator.kind == "FULLY_CONNECTED":
        return None  # as `post_training.to_integers` has it
    return -1 if operator.kind == "DEPTHWISE_CONV_2D" else 0


def _match_scales(network, quantized):
    """Scale and zero point of every computed tensor, by its number."""
    kinds = [operator.kind for operator in network.operators]
    found = [operator.kind for operator in quantized.operators]
    if kinds != found:
        extra = sorted(set(found) - set(kinds)) or found
        raise ValueError(
            "Quantisation-aware training needs a file all of whose operators "
            f"are integer. Received one with {extra}. Use layers that int8 "
            "kernels compute, or quantization='int8'."
        )
    return {
        ours.outputs[0]: quantized.quantization(theirs.outputs[0])
        for ours, theirs in zip(
            network.operators, quantized.operators, strict=True
        )
    }


def _strides(options):
    return options.strideH, options.strideW


def _conv(operator, inputs, kernels):
    options = operator.options
    outputs = ops.conv(
        inputs[0],
        ops.transpose(kernels[0], (1, 2, 3, 0)),
        strides=_strides(options),
        padding=operator.padding.lower(),
        dilation_rate=(options.dilationHFactor, options.dilationWFactor),
    )
    return _add_bias(outputs, kernels)


def _depthwise_conv(operator, inputs, kernels):
    options = operator.options
    _, height, width, _ = kernels[0].shape
    channels = inputs[0].shape[-1]
    kernel = ops.reshape(kernels[0], (height, width, channels, -1))
    outputs = ops.depthwise_conv(
        inputs[0],
        kernel,
        strides=_strides(options),
        padding=operator.padding.lower(),
        dilation_rate=(options.dilationHFactor, options.dilationWFactor),
    )
    return _add_bias(outputs, kernels)


def _fully_connected(operator, inputs, kernels):
    outputs = ops.matmul(inputs[0], ops.transpose(kernels[0]))
    return _add_bias(outputs, kernels)


def _add_bias(outputs, kernels):
    return outputs + kernels[1] if len(kernels) > 1 else outputs


def _pool(operator, inputs, constants):
    options = operator.options
    pool = {"AVERAGE_POOL_2D": ops.average_pool, "MAX_POOL_2D": ops.max_pool}
    return pool[operator.kind](
        inputs[0],
        (options.filterHeight, options.filterWidth),
        strides=_strides(options),
        padding=operator.padding.lower(),
    )


def _mean(operator, inputs, constants):
    axes = tuple(map(int, constants[0]))
    return ops.mean(inputs[0], axis=axes, keepdims=operator.options.keepDims)


def _pad(operator, inputs, constants):
    return ops.pad(inputs[0], constants[0].tolist())


def _resize(operator, inputs, constants):
    height, width = map(int, constants[0])
    return ops.image.resize(inputs[0], (height, width), interpolation="nearest")


def _reshape(operator, inputs, constants):
    shape = operator.options.newShape if operator.options else constants[0]
    return ops.reshape(inputs[0], (-1, *map(int, shape[1:])))


def _pair(combine):
    return lambda operator, inputs, constants: combine(*inputs, *constants)


_COMPUTE = {
    "ADD": _pair(ops.add),
    "AVERAGE_POOL_2D": _pool,
    "CONCATENATION": lambda operator, inputs, constants: ops.concatenate(
        inputs, axis=-1
    ),
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise_conv,
    "FULLY_CONNECTED": _fully_connected,
    "LOGISTIC": lambda operator, inputs, constants: ops.sigmoid(inputs[0]),
    "MAX_POOL_2D": _pool,
    "MEAN": _mean,
    "MUL": _pair(ops.multiply),
    "PAD": _pad,
    "RELU": lambda operator, inputs, constants: ops.relu(inputs[0]),
    "RESHAPE": _reshape,
    "RESIZE_NEAREST_NEIGHBOR": _resize,
}
