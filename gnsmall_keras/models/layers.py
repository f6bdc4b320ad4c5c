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

import math
import random

import keras
import numpy as np
from keras import ops

from gnsmall_keras.models import fusion, kernels
from gnsmall_keras.models import statistics as statistics_of

MOMENTUM = 0.9  # of the moving statistics; PyTorch writes it as 0.1
_DRAWN = 2**20  # initial values at a time


@keras.saving.register_keras_serializable("gnsmall_keras")
class KaimingNormal(keras.initializers.Initializer):
    """Normal values with variance `2 / fan`, the same on every backend.

    NumPy draws them, so that a seed names one set of initial weights whatever
    the backend.

    Args:
        fan: output channels times kernel taps ("fan-out"). PyTorch's count,
            which this follows, ignores groups: a depthwise kernel has all its
            channels.
        seed: whole number; by default drawn from Python's generator, which
            `keras.utils.set_random_seed` sets.
    """

    def __init__(self, fan, seed=None):
        self.fan = fan
        self.seed = random.randint(1, 2**31) if seed is None else seed

    def __call__(self, shape, dtype=None):
        generator = np.random.default_rng(self.seed)
        dtype = keras.backend.standardize_dtype(dtype)
        kept = "float64" if dtype == "float64" else "float32"
        values = np.empty(math.prod(shape), kept)
        # A part at a time: drawn as float64, large kernels would need much
        # memory. The values are those of one draw.
        for part in np.split(values, range(_DRAWN, len(values), _DRAWN)):
            part[:] = generator.normal(0.0, (2.0 / self.fan) ** 0.5, len(part))
        return ops.convert_to_tensor(values.reshape(shape), dtype=dtype)

    def get_config(self):
        """Returns the arguments of `__init__`."""
        return {"fan": self.fan, "seed": self.seed}


class _Branched(keras.layers.Layer):
    """What both branched layers share: BatchNorm groups and `call`.

    A group is a name with BatchNorm weights `<name>_gamma`, `_beta`,
    `_moving_mean` and `_moving_variance` of one shape: "conv" for the k x k
    branches `(branches, channels)`, "scale" and "identity" `(channels,)`.
    """

    def _add_group(self, group, shape):
        for suffix, initializer, trainable in (
            ("gamma", "ones", True),
            ("beta", "zeros", True),
            ("moving_mean", "zeros", False),
            ("moving_variance", "ones", False),
        ):
            weight = self.add_weight(
                name=f"{group}_{suffix}",
                shape=shape,
                initializer=initializer,
                trainable=trainable,
                autocast=False,
            )
            setattr(self, f"{group}_{suffix}", weight)

    def _add_kernel(self, name, shape, fan_out):
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=KaimingNormal(fan_out),
            autocast=False,  # only the merged kernel is cast
        )

    def _weights(self):
        """Every weight by its name."""
        return {weight.name: weight for weight in self.weights}

    def _moving_statistics(self, weights):
        return {
            group: (
                weights[f"{group}_moving_mean"],
                weights[f"{group}_moving_variance"],
            )
            for group in self.groups
        }

    def _update_moving_statistics(self, statistics, count):
        # PyTorch stores the unbiased variance and normalises with the biased.
        unbias = count / ops.maximum(count - 1.0, 1.0)
        for group, (mean, variance) in statistics.items():
            for suffix, value in (
                ("moving_mean", mean),
                ("moving_variance", variance * unbias),
            ):
                moving = getattr(self, f"{group}_{suffix}")
                moving.assign(MOMENTUM * moving + (1 - MOMENTUM) * value)

    def call(self, inputs, training=False):
        if not (training and self.trainable):
            statistics = self._moving_statistics(self._weights())
        elif kernels.is_jax_on_gpu():
            return self._add_branches_at_once(inputs)
        elif not self._has_statistics_of_input():
            return self._add_branches(inputs)
        else:
            values = ops.cast(inputs, self.variable_dtype)
            statistics, count = self._batch_statistics(values)
            self._update_moving_statistics(statistics, count)
        kernel, bias = self._merge(self._weights(), statistics, xp=ops)
        dtype = self.compute_dtype
        outputs = self._convolve(inputs, ops.cast(kernel, dtype))
        return outputs + ops.cast(bias, dtype)

    def _add_branches(self, inputs):
        """Every branch by itself, in training."""
        total, moments = 0.0, {group: [] for group in self.groups}
        for group, branch, values in self._branch_values(inputs):
            gamma = getattr(self, f"{group}_gamma")
            beta = getattr(self, f"{group}_beta")
            if branch is not None:
                gamma, beta = gamma[branch], beta[branch]
            outputs, *found = kernels.batch_norm(values, gamma, beta)
            total = total + outputs
            moments[group].append(found)
        count = ops.cast(ops.prod(ops.shape(total)[:-1]), self.variable_dtype)
        statistics = {
            group: tuple(map(ops.stack, zip(*found, strict=True)))
            if group == "conv"
            else found[0]
            for group, found in moments.items()
        }
        self._update_moving_statistics(
            statistics, kernels.over_replicas([count])[0]
        )
        return total

    def _add_branches_at_once(self, inputs):
        """Every branch by itself, side by side in one tensor, in training."""
        counts = [self.branches] + [1] * len(self.groups[1:])
        gamma, beta = (
            ops.concatenate(
                [
                    ops.reshape(getattr(self, f"{group}_{suffix}"), (count, -1))
                    for group, count in zip(self.groups, counts, strict=True)
                ]
            )
            for suffix in ("gamma", "beta")
        )
        values = self._values_at_once(inputs)
        outputs, *moments = kernels.batch_norm(values, gamma, beta)
        statistics, first = {}, 0
        for group, count in zip(self.groups, counts, strict=True):
            part = slice(first, first + count) if group == "conv" else first
            statistics[group] = tuple(moment[part] for moment in moments)
            first += count
        total = ops.sum(outputs, axis=-2)
        count = ops.cast(ops.prod(ops.shape(total)[:-1]), self.variable_dtype)
        self._update_moving_statistics(statistics, count)
        return total

    def _branch_values(self, inputs):
        """Yields group, number and values of every branch before BatchNorm."""
        dtype = self.compute_dtype
        for branch in range(self.branches):
            kernel = ops.cast(self.kernel[branch], dtype)
            yield "conv", branch, self._convolve(inputs, kernel)
        for group in self.groups[1:]:
            yield group, None, self._pixels(inputs, group)

    def merged(self):
        """Returns the deployed `(kernel, bias)` as NumPy arrays.

        Shapes are those of the `keras.layers` twin: `(height, width, in, out)`
        or `(height, width, channels, 1)`, and `(channels,)`.
        """
        weights = {
            name: ops.convert_to_numpy(weight.value).astype(np.float64)
            for name, weight in self._weights().items()
        }
        statistics = self._moving_statistics(weights)
        kernel, bias = self._merge(weights, statistics, xp=np)
        dtype = "float64" if self.variable_dtype == "float64" else "float32"
        return kernel.astype(dtype), bias.astype(dtype)


@keras.saving.register_keras_serializable("gnsmall_keras")
class BranchedConv2D(_Branched):
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
class BranchedDepthwiseConv2D(_Branched):
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
