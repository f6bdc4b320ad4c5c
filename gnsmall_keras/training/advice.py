"""What went wrong with a training, and what helps, in one line each."""

import math
from collections.abc import Sequence

import numpy as np

from gnsmall_keras.data.dataset import some
from gnsmall_keras.lines import percent
from gnsmall_keras.training.experiment import Learning

FEW_STEPS = 8  # an epoch: BatchNorm and the schedule need more
_FEW_IN_ALL = 500
_SMALL_BATCH = 16  # images; smaller ones make BatchNorm's statistics noise
_EXPLODED = 10.0  # times the loss of guessing
_SURE = 1.64  # deviations above guessing: one in twenty by chance


def find_warnings(
    learning: Learning,
    *,
    images: int,
    classes: int,
    labels: np.ndarray,
    accuracy: float | None,
    losses: Sequence[float],
    absent: Sequence[str] = (),
) -> list[str]:
    """Returns warnings with their cures; an empty list if all went well.

    Args:
        learning: how it was trained.
        images: that it was fitted on.
        classes: how many there are.
        labels: of the validation images.
        accuracy: on these, in [0, 1]; None without any.
        losses: on the monitored images, after each epoch.
        absent: classes without a validation image, where there are others'.
    """
    found: list[str] = []
    steps = images // learning.batch_size
    total = steps * learning.recipe.epochs
    if steps < FEW_STEPS and total < _FEW_IN_ALL:
        found.append(
            f"an epoch has {steps} steps of {learning.batch_size} images, the "
            f"training {total}; {_more_steps(steps, learning.batch_size)}."
        )
    if accuracy is not None and _is_chance(accuracy, labels):
        found.append(
            f"the validation accuracy, {percent(accuracy)} of "
            f"{len(labels):,} images, is not above guessing. Train longer or "
            "at a lower rate (--recipe finetune, --peak-learning-rate 0.01), "
            "or look at images and labels."
        )
    if absent:
        found.append(
            f"no validation image is of {some(absent)}: the validation "
            "accuracy says nothing of these classes. Add images of them."
        )
    limit = _EXPLODED * math.log(max(classes, 2))
    if losses and not losses[-1] <= limit:
        found.append(
            f"the validation loss ended at {losses[-1]:,.1f}, above "
            f"{limit:.1f}: the training diverged. Lower the rate "
            "(--peak-learning-rate 0.01) or take recipe finetune."
        )
    return found


def _more_steps(steps: int, batch_size: int) -> str:
    """What helps: smaller batches, unless they are as small as they may be."""
    if batch_size > _SMALL_BATCH:
        return (
            "more of smaller batches learn more (--recipe finetune, or "
            f"--batch-size {_SMALL_BATCH})"
        )
    epochs = math.ceil(_FEW_IN_ALL / max(steps, 1))
    return f"add images, or train for more epochs (--epochs {epochs})"


def _is_chance(accuracy: float, labels: np.ndarray) -> bool:
    """Whether always naming the commonest class may be as good."""
    share = np.bincount(labels).max() / len(labels)
    deviation = math.sqrt(share * (1 - share) / len(labels))
    return bool(accuracy <= share + _SURE * deviation)
