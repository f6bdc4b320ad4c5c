"""What a config takes from the images: a name, and what few of them need."""

import dataclasses
import math
from typing import Any, NamedTuple

from gnsmall_keras.config.run import AUTO, AUTO_IS, RunConfig
from gnsmall_keras.models.catalogue import can_start
from gnsmall_keras.recipes import FEW_IMAGES

FINETUNE = "finetune"
# Of "finetune": few images are seen often, in small batches.
_STEPS = 1000  # at least, if the epochs allow
_LEAST_EPOCHS, _MOST_EPOCHS = 8, 80
_BATCHES = ((128, 8), (600, 16), (2000, 32), (math.inf, 64))  # below images


class Facts(NamedTuple):
    """What is known of images once they are read."""

    digest: str
    own: bool  # neither CIFAR nor digits
    images: int  # to fit on: `count_fitted`, where some of them are held out


def count_fitted(config: RunConfig, images: int, classes: int) -> int:
    """Returns how many training images are left without those held out.

    At least one for each class is held out; none under protocol "paper".
    """
    if config.protocol == "paper":
        return images
    left = int(images * (1 - config.validation_fraction))
    return min(left, images - classes)


def settle_images(config: RunConfig, facts: Facts) -> RunConfig:
    """Returns a config with what the images decide; it is then named by them.

    Args:
        config: of a run.
        facts: of its images.

    Raises:
        ValueError: if the config names other images.
    """
    if config.data_digest and config.data_digest != facts.digest:
        raise ValueError(
            f"The images of {config.data!r} are no longer those the run was "
            f"planned for. Received: digest {facts.digest}, planned: "
            f"{config.data_digest}. Give the command again without it."
        )
    recipe = config.recipe
    if recipe == AUTO:
        few = facts.own and facts.images <= FEW_IMAGES
        recipe = FINETUNE if few and not config.cache else AUTO_IS
    values: dict[str, Any] = {"recipe": recipe}
    if facts.own:
        values["data_digest"] = facts.digest
    if recipe == FINETUNE:
        values |= _finetune(config, facts.images)
    return dataclasses.replace(config, **values)


def _finetune(config: RunConfig, images: int) -> dict[str, Any]:
    batch = config.batch_size or min(
        next(size for below, size in _BATCHES if images < below), images
    )
    steps = max(1, images // batch)
    epochs = min(max(math.ceil(_STEPS / steps), _LEAST_EPOCHS), _MOST_EPOCHS)
    start = config.start
    if start is None and not can_start(config.model, config.width):
        start = "random"
    return {
        "batch_size": batch,
        "epochs": config.epochs or epochs,
        "start": start,
    }
