"""The branched network branch by branch: what the fast layers must equal."""

import keras
import numpy as np

from gnsmall_keras.models import keras_private
from gnsmall_keras.models.branched import MOMENTUM
from gnsmall_keras.models.fusion import EPSILON
from gnsmall_keras.models.layers import BranchedConv2D, BranchedDepthwiseConv2D


class PlainBranches(keras.layers.Layer):
    """A convolution and a BatchNormalization for every branch, added.

    Computes what the branched layer does, with the gradient that follows, but
    each branch by itself: several times slower. Keras's moving variances are
    those of the biased estimate, the branched layer's of the unbiased one.

    Args:
        layer: `BranchedConv2D` or `BranchedDepthwiseConv2D`.
    """

    def __init__(self, layer):
        super().__init__(name=layer.name, dtype=layer.dtype_policy)
        # Not the layer itself, whose weights would count as this one's.
        self._depthwise = isinstance(layer, BranchedDepthwiseConv2D)
        self._output_shape = layer.compute_output_shape
        if self._depthwise:
            self._step = layer.strides
            self._skipped = (
                (0, 0)
                if layer.padding == "same"
                else [size // 2 for size in layer.kernel_size]
            )
        keys = [("conv", branch) for branch in range(layer.branches)]
        self.keys = [*keys, *((group, None) for group in layer.groups[1:])]
        self.convolutions = {}
        for group, branch in self.keys:
            convolution = self._convolution(group, layer)
            if convolution is not None:
                self.convolutions[_name(group, branch)] = convolution
        self.norms = {
            _name(*key): keras.layers.BatchNormalization(
                momentum=MOMENTUM, epsilon=EPSILON, dtype=self.dtype_policy
            )
            for key in self.keys
        }

    def _convolution(self, group, layer):
        options = {"use_bias": False, "dtype": self.dtype_policy}
        if group == "identity":
            return None
        if group == "scale":
            return keras.layers.DepthwiseConv2D(1, **options)
        if self._depthwise:
            return keras.layers.DepthwiseConv2D(
                layer.kernel_size,
                strides=layer.strides,
                padding=layer.padding,
                **options,
            )
        return keras.layers.Conv2D(
            layer.filters, layer.kernel_size, padding="same", **options
        )

    def build(self, input_shape):
        """Creates the branches' weights."""
        for group, branch in self.keys:
            name = _name(group, branch)
            shape = input_shape
            if name in self.convolutions:
                self.convolutions[name].build(input_shape)
                shape = self.convolutions[name].compute_output_shape(shape)
            self.norms[name].build(shape)

    def call(self, inputs, training=False):
        """Adds the branches, each computed by itself."""
        total = 0.0
        for group, branch in self.keys:
            name = _name(group, branch)
            x = inputs
            if group != "conv" and self._depthwise:
                x = self._window_centers(inputs)
            if name in self.convolutions:
                x = self.convolutions[name](x)
            total = total + self.norms[name](x, training=training)
        return total

    def _window_centers(self, inputs):
        below, beside = self._skipped
        height, width = inputs.shape[1] - below, inputs.shape[2] - beside
        return inputs[
            :, below : height : self._step, beside : width : self._step
        ]

    def compute_output_shape(self, input_shape):
        """The branched layer's."""
        return self._output_shape(input_shape)

    def variables_of(self, group, branch):
        """The branch's variables by the names they have in the fast layer."""
        name = _name(group, branch)
        norm = self.norms[name]
        found = {
            f"{group}_{suffix}": getattr(norm, suffix)
            for suffix in ("gamma", "beta", "moving_mean", "moving_variance")
        }
        if name in self.convolutions:
            kernel = "kernel" if group == "conv" else "scale_kernel"
            found[kernel] = self.convolutions[name].kernel
        return found

    def take_weights(self, layer):
        """Copies the values of the branched layer."""
        for group, branch in self.keys:
            for name, variable in self.variables_of(group, branch).items():
                value = keras.ops.convert_to_numpy(getattr(layer, name))
                value = value if branch is None else value[branch]
                variable.assign(np.reshape(value, variable.shape))


def to_branches(model: keras.Model) -> keras.Model:
    """Returns a new model in which every branch is computed by itself.

    For tests, and to measure against; train the model itself.

    Args:
        model: a functional model; it is left untouched.

    Returns:
        A functional model with the same inputs, outputs and gradients, to
        float32 rounding, and weights of its own.
    """

    def twin(layer):
        if isinstance(layer, (BranchedConv2D, BranchedDepthwiseConv2D)):
            return PlainBranches(layer)
        return layer.__class__.from_config(layer.get_config())

    plain = keras_private.clone_model(model, clone_function=twin)
    for layer in model.layers:
        if not layer.weights:
            continue
        copy = plain.get_layer(layer.name)
        if isinstance(copy, PlainBranches):
            copy.take_weights(layer)
        else:
            keras_private.set_weights(copy, layer.get_weights())
    return plain


def _name(group, branch):
    return group if branch is None else f"{group}_{branch}"
