"""Learning-rate schedules per step."""

import math

import keras
from keras import ops

FLOOR = 1e-8  # the paper's first and last learning rate


class _Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """Arguments and checks of the schedules below."""

    def __init__(self, peak_learning_rate, total_steps, warmup_fraction=0.3):
        super().__init__()
        if total_steps < 1:
            raise ValueError(
                f"`total_steps` must be >= 1. Received: {total_steps}."
            )
        if not 0 <= warmup_fraction < 1:
            raise ValueError(
                "`warmup_fraction` must be in [0, 1). "
                f"Received: {warmup_fraction}."
            )
        self.peak_learning_rate = peak_learning_rate
        self.total_steps = total_steps
        self.warmup_fraction = warmup_fraction

    def get_config(self):
        """Returns the arguments of `__init__`."""
        return {
            "peak_learning_rate": self.peak_learning_rate,
            "total_steps": self.total_steps,
            "warmup_fraction": self.warmup_fraction,
        }


@keras.saving.register_keras_serializable("gnsmall_keras")
class WarmupCosine(_Warmup):
    """Linear warm-up from 1e-8 to the peak, then half a cosine back to 1e-8.

    This is the paper's schedule (`parity/schedule_1000_steps.npz`); it is a
    function of the step alone.

    Args:
        peak_learning_rate: reached after the warm-up.
        total_steps: length of the whole schedule.
        warmup_fraction: part of `total_steps` spent rising; 0.3 in the paper.

    Raises:
        ValueError: if `total_steps` < 1 or `warmup_fraction` is not in [0, 1).
    """

    def __call__(self, step):
        step = ops.cast(step, "float32")
        warmup_steps = int(self.total_steps * self.warmup_fraction)
        span = self.peak_learning_rate - FLOOR
        # The peak is reached by the warm-up's last step and held for one more.
        rising = FLOOR + span * step / max(warmup_steps - 1, 1)
        progress = (step - warmup_steps) / (self.total_steps - warmup_steps)
        progress = ops.clip(progress, 0.0, 1.0)
        falling = FLOOR + span * 0.5 * (1.0 + ops.cos(math.pi * progress))
        return ops.where(step < warmup_steps, rising, falling)


@keras.saving.register_keras_serializable("gnsmall_keras")
class WarmupLinear(_Warmup):
    """Linear warm-up to the peak, then linearly down to zero ("triangular").

    Args:
        peak_learning_rate: reached after the warm-up.
        total_steps: length of the whole schedule.
        warmup_fraction: part of `total_steps` spent rising.

    Raises:
        ValueError: if `total_steps` < 1 or `warmup_fraction` is not in [0, 1).
    """

    def __call__(self, step):
        # The first step is not lost at a rate of zero.
        step = ops.cast(step, "float32") + 1.0
        warmup_steps = max(self.total_steps * self.warmup_fraction, 1.0)
        rising = step / warmup_steps
        falling = (self.total_steps + 1.0 - step) / (
            self.total_steps + 1.0 - warmup_steps
        )
        height = ops.maximum(ops.minimum(rising, falling), 0.0)
        return self.peak_learning_rate * height
