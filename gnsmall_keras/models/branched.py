"""What layers of several convolution-BatchNorm branches have in common."""

import math
import random

import keras
import numpy as np
from keras import ops

from gnsmall_keras.models import kernels

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
        self.seed = seed  # as given: a layer of the same config draws its own
        self._drawn_seed = random.randint(1, 2**31) if seed is None else seed

    def __call__(self, shape, dtype=None):
        generator = np.random.default_rng(self._drawn_seed)
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


class Branched(keras.layers.Layer):
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
