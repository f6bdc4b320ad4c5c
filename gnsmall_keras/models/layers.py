"""GhostNetV3's building blocks: sums of convolution-BatchNorm branches.

Both layers compute a sum of branches that all see the same input, each linear
before its BatchNorm. `call` therefore takes three steps: find the statistics
(of the batch in training, moving otherwise), merge all branches into one
kernel and bias, convolve once. The result, the gradient and the moving
statistics are those of the separate branches. In training that takes the
statistics of all branches from the input (docs/adr/0011); where this does not
pay, for one branch and for strides, the branches are computed one by one. On
JAX with a GPU all branches are computed, side by side in one tensor.

The statistics are raw moments: where a channel's mean is more than some 30 of
its deviations, float32 leaves less than four digits of them. In the networks
all inputs are normalised.
"""

import keras
from keras import ops

from gnsmall_keras.models import fusion, kernels
from gnsmall_keras.models import statistics as statistics_of
from gnsmall_keras.models.branched import Branched


@keras.saving.register_keras_serializable("gnsmall_keras")
class BranchedConv2D(Branched):
    """Sum of stride-1 convolutions, each with BatchNorm, and a BatchNorm.

    `y = sum_b BN_b(conv_b(x)) + BN_identity(x)`, without activation.

    Args:
        filters: output channels.
        kernel_size: side of the square kernel, odd; zeros are padded to keep
            the size of the image.
        branches: number of convolutions, at least 1.
        identity: whether to add `BN(x)`; needs as many filters as inputs.

    Input shape:
        `(batch, height, width, channels)`.

    Output shape:
        `(batch, height, width, filters)`.

    Raises:
        ValueError: in `build`, if `identity` and the channels differ.
    """

    def __init__(
        self, filters, *, kernel_size=1, branches=3, identity=False, **kwargs
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.branches = branches
        self.identity = identity
        self.groups = ("conv", "identity") if identity else ("conv",)

    def build(self, input_shape):
        channels, size = input_shape[-1], self.kernel_size
        if self.identity and channels != self.filters:
            raise ValueError(
                "An identity branch needs as many filters as input channels. "
                f"Received: filters={self.filters}, input channels={channels}."
            )
        shape = (self.branches, size, size, channels, self.filters)
        fan_out = size * size * self.filters
        self.kernel = self._add_kernel("kernel", shape, fan_out)
        self._add_group("conv", (self.branches, self.filters))
        if self.identity:
            self._add_group("identity", (channels,))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.filters)

    def _has_statistics_of_input(self):
        return self.kernel_size == 1

    def _pixels(self, inputs, group):
        return inputs

    def _values_at_once(self, inputs):
        """Before BatchNorm, `(batch, height, width, all, filters)`."""
        kernel = ops.cast(self.kernel, self.compute_dtype)
        kernel = ops.moveaxis(kernel, 0, -2)  # (k, k, in, branches, filters)
        kernel = ops.reshape(kernel, (*kernel.shape[:3], -1))
        if self.kernel_size == 1:
            values = ops.matmul(inputs, kernel[0, 0])
        else:
            values = self._convolve(inputs, kernel)
        values = ops.reshape(
            values, (*values.shape[:3], self.branches, self.filters)
        )
        if self.identity:
            values = ops.concatenate([values, inputs[..., None, :]], axis=-2)
        return values

    def _batch_statistics(self, inputs):
        mean, covariance, count = statistics_of.pointwise_moments(inputs)
        weights = self.kernel[:, 0, 0]  # (branches, in, filters)
        variance = ops.sum(weights * ops.matmul(covariance, weights), axis=1)
        statistics = {
            "conv": (ops.matmul(mean, weights), ops.maximum(variance, 0.0))
        }
        if self.identity:
            variance = ops.maximum(ops.diagonal(covariance), 0.0)
            statistics["identity"] = (mean, variance)
        return statistics, count

    def _merge(self, weights, statistics, *, xp):
        affine = _affines(weights, statistics, xp=xp)
        kernel, bias = fusion.merge_conv(
            weights["kernel"], *affine["conv"], xp=xp
        )
        if self.identity:
            scale, offset = affine["identity"]
            kernel = fusion.add_at_center(kernel, xp.diag(scale), xp=xp)
            bias = bias + offset
        return kernel, bias

    def _convolve(self, inputs, kernel):
        return kernels.conv(inputs, kernel)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "branches": self.branches,
            "identity": self.identity,
        }


@keras.saving.register_keras_serializable("gnsmall_keras")
class BranchedDepthwiseConv2D(Branched):
    """Sum of depthwise convolutions, each with BatchNorm, and two more.

    `y = sum_b BN_b(depthwise_b(x)) + BN_scale(w * x) + BN_identity(x)`,
    without activation.

    Args:
        kernel_size: `(height, width)`, both odd.
        strides: 1, or 2 with `padding="valid"`.
        padding: "same" (stride 1 only: Keras's "same" is off by one pixel from
            PyTorch's at stride 2), or "valid" for an input padded by
            `kernel_size // 2` zeros before this layer.
        branches: number of k x k branches, at least 1.
        scale: whether to add a 1x1 depthwise branch; it reads the pixel in the
            middle of each window.
        identity: whether to add `BN(x)` (the same pixel).

    Input shape:
        `(batch, height, width, channels)`.

    Output shape:
        `(batch, new_height, new_width, channels)`.

    Raises:
        ValueError: if "same" padding is asked for at a stride other than 1.
    """

    def __init__(
        self,
        kernel_size,
        *,
        strides=1,
        padding="same",
        branches=3,
        scale=False,
        identity=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if strides != 1 and padding != "valid":
            raise ValueError(
                "A strided depthwise convolution needs an input padded by hand "
                f"and padding='valid'. Received: strides={strides}, "
                f"padding={padding!r}."
            )
        self.kernel_size = tuple(kernel_size)
        self.strides = strides
        self.padding = padding
        self.branches = branches
        self.scale = scale
        self.identity = identity
        optional = (("scale", scale), ("identity", identity))
        self.groups = ("conv", *(name for name, on in optional if on))

    def build(self, input_shape):
        channels = input_shape[-1]
        shape = (self.branches, *self.kernel_size, channels)
        fan_out = self.kernel_size[0] * self.kernel_size[1] * channels
        self.kernel = self._add_kernel("kernel", shape, fan_out)
        if self.scale:
            self.scale_kernel = self._add_kernel(
                "scale_kernel", (channels,), channels
            )
        self._add_group("conv", (self.branches, channels))
        for group in self.groups[1:]:
            self._add_group(group, (channels,))

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        if self.padding == "same":
            return batch, height, width, channels
        sides = (
            None if side is None else (side - size) // self.strides + 1
            for side, size in zip(
                (height, width), self.kernel_size, strict=True
            )
        )
        return (batch, *sides, channels)

    def _has_statistics_of_input(self):
        # With one branch, its own convolution is all that is needed.
        several = self.branches > 1 or self.groups[1:]
        return several and self.kernel_size == (3, 3) and self.strides == 1

    def _batch_statistics(self, inputs):
        moments = statistics_of.window_moments(inputs)
        center = statistics_of.window_center(moments)
        statistics = {
            "conv": statistics_of.through_windows(moments, self.kernel)
        }
        if self.scale:
            mean, variance = center
            weight = self.scale_kernel
            statistics["scale"] = (mean * weight, variance * weight * weight)
        if self.identity:
            statistics["identity"] = center
        return statistics, moments[2]

    def _pixels(self, inputs, group):
        """The branches that read one pixel, by kernels that are zero elsewhere.

        Faster, forward and back, than slices with strides.
        """
        kernel = ops.cast(self._pixel_kernel(group), self.compute_dtype)
        return self._convolve(inputs, kernel)

    def _pixel_kernel(self, group):
        channels = self.kernel.shape[-1]
        ones = ops.ones((channels,), self.variable_dtype)
        tap = self.scale_kernel if group == "scale" else ones
        kernel = ops.zeros((*self.kernel_size, channels), ones.dtype)
        return fusion.add_at_center(kernel, tap, xp=ops)

    def _values_at_once(self, inputs):
        """Before BatchNorm, `(batch, height, width, all, channels)`."""
        kernel = [self.kernel[branch] for branch in range(self.branches)]
        kernel += map(self._pixel_kernel, self.groups[1:])
        kernel = ops.cast(ops.stack(kernel, axis=2), self.compute_dtype)
        return self._convolve(inputs[..., None, :], kernel)

    def _merge(self, weights, statistics, *, xp):
        affine = _affines(weights, statistics, xp=xp)
        kernel, bias = fusion.merge_depthwise(
            weights["kernel"], *affine["conv"], xp=xp
        )
        tap = 0.0
        if self.scale:
            scale, offset = affine["scale"]
            tap, bias = tap + weights["scale_kernel"] * scale, bias + offset
        if self.identity:
            scale, offset = affine["identity"]
            tap, bias = tap + scale, bias + offset
        if self.groups[1:]:
            kernel = fusion.add_at_center(kernel, tap, xp=xp)
        return kernel, bias

    def merged(self):
        kernel, bias = super().merged()
        return kernel[..., None], bias

    def _convolve(self, inputs, kernel):
        return kernels.depthwise_conv(
            inputs, kernel, strides=self.strides, padding=self.padding
        )

    def get_config(self):
        return {
            **super().get_config(),
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "branches": self.branches,
            "scale": self.scale,
            "identity": self.identity,
        }


def _affines(weights, statistics, *, xp):
    """Scale and offset of every group's BatchNorm."""
    return {
        group: fusion.batch_norm_affine(
            weights[f"{group}_gamma"],
            weights[f"{group}_beta"],
            mean,
            variance,
            xp=xp,
        )
        for group, (mean, variance) in statistics.items()
    }
