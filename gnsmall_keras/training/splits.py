"""The images of a run: fitted on, held out, monitored, and read at the end."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gnsmall_keras.config import Facts, RunConfig, count_fitted, settle_images
from gnsmall_keras.data.augment import Views
from gnsmall_keras.data.batches import TrainingBatches
from gnsmall_keras.data.dataset import Dataset, split_indices
from gnsmall_keras.distill.stored_teacher import CachedTeacher
from gnsmall_keras.training.experiment import Learning, Partition


class Split(NamedTuple):
    """Images with their classes."""

    images: np.ndarray
    labels: np.ndarray


class Splits(NamedTuple):
    """The parts of the data that a training reads."""

    fitting: Split
    validation: Split  # held out; empty under protocol "paper"
    monitored: Split  # evaluated after every epoch

    def absent_from_validation(self, class_names: Sequence[str]) -> list[str]:
        """Returns the classes without a held out image, if there are any."""
        found = set(self.validation.labels.tolist())
        if not found:
            return []
        return [n for i, n in enumerate(class_names) if i not in found]


def split(dataset: Dataset, partition: Partition) -> Splits:
    """Returns the images to fit on, those held out, and those monitored.

    A validation split that the data came with takes the held-out part's place.
    """
    images, labels = dataset.train_images, dataset.train_labels
    if partition.protocol == "paper":
        empty = Split(images[:0], labels[:0])
        return Splits(Split(images, labels), empty, test_split(dataset))
    held = dataset.validation_images, dataset.validation_labels
    if held[0] is not None and held[1] is not None:
        given = Split(held[0], held[1])
        return Splits(Split(images, labels), given, given)
    fitting, held_out = places(dataset, partition)
    validation = Split(images[held_out], labels[held_out])
    return Splits(
        Split(images[fitting], labels[fitting]), validation, validation
    )


def places(
    dataset: Dataset, partition: Partition
) -> tuple[np.ndarray, np.ndarray]:
    """Returns which training images are fitted on, and which are held out.

    Where none are held out of them, the second is empty.
    """
    given = dataset.validation_images is not None
    if partition.protocol == "paper" or given:
        everything = np.arange(len(dataset.train_images))
        return everything, everything[:0]
    return split_indices(
        dataset.train_labels,
        fraction=partition.validation_fraction,
        seed=partition.seed,
    )


def settled(config: RunConfig, dataset: Dataset) -> RunConfig:
    """Returns a config with what its images decide: `config.settle_images`."""
    count = len(dataset.train_images)
    if dataset.validation_images is None:
        count = count_fitted(config, count, dataset.classes)
    own = dataset.origin != "known"
    return settle_images(config, Facts(dataset.digest, own, count))


def test_split(dataset: Dataset) -> Split:
    """The images that only a finished training may be measured on."""
    return Split(dataset.test_images, dataset.test_labels)


def views_of(learning: Learning, dataset: Dataset) -> Views:
    """Returns how a training cuts its images; some are not mirrored."""
    return dataclasses.replace(learning.views, flip=dataset.flippable)


def batches(
    fitting: Split,
    learning: Learning,
    dataset: Dataset,
    *,
    cached: CachedTeacher | None = None,
) -> TrainingBatches:
    """Returns what a training step is given.

    Args:
        fitting: images to fit on.
        learning: batch size, order and augmentation.
        dataset: that they are of.
        cached: if given, whose views and logits the batches are.
    """
    options = {
        "batch_size": learning.batch_size,
        "seed": learning.seed,
        "shuffle": learning.shuffle,
        "drop_remainder": learning.drop_remainder,
    }
    if cached:
        return cached.batches(*fitting, **options)
    return TrainingBatches(
        *fitting,
        views=views_of(learning, dataset),
        mixing=learning.mixing,
        classes=dataset.classes,
        **options,
    )
