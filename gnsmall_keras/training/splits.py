"""The images of a run: fitted on, held out, watched, and read at the end."""

import functools
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gnsmall_keras.config import DIGEST_LENGTH, MIXING, TrainConfig
from gnsmall_keras.data.batches import TrainingBatches
from gnsmall_keras.data.dataset import Dataset, split_indices
from gnsmall_keras.distill.cache import (
    CachedTeacher,
    cache_teacher,
    images_digest,
)
from gnsmall_keras.distill.checks import load_teacher
from gnsmall_keras.models.files import run_folder
from gnsmall_keras.records.jsonl import lock
from gnsmall_keras.training.interruption import StopRequest, TrainingInterrupted


class Split(NamedTuple):
    """Images with their classes."""

    images: np.ndarray
    labels: np.ndarray


class Splits(NamedTuple):
    """The parts of the data that a training reads."""

    fitting: Split
    validation: Split  # held out; empty under protocol "paper"
    watched: Split  # evaluated after every epoch


def split(dataset: Dataset, config: TrainConfig) -> Splits:
    """Returns the images to fit on, those held out, and those watched."""
    images, labels = dataset.train_images, dataset.train_labels
    if config.protocol == "paper":
        empty = Split(images[:0], labels[:0])
        return Splits(Split(images, labels), empty, test_split(dataset))
    fitting, held_out = split_indices(
        labels, fraction=config.validation_fraction, seed=config.seed
    )
    validation = Split(images[held_out], labels[held_out])
    return Splits(
        Split(images[fitting], labels[fitting]), validation, validation
    )


def test_split(dataset: Dataset) -> Split:
    """The images that only a finished training may be measured on."""
    return Split(dataset.test_images, dataset.test_labels)


def cached_teacher(
    config: TrainConfig,
    dataset: Dataset,
    fitting: Split,
    runs: Path,
    progress: bool,
    stop: StopRequest,
) -> CachedTeacher | None:
    """Opens the cache that a config names, if it does; a run's is made first.

    Args:
        config: of the student.
        dataset: its data.
        fitting: the images that it is fitted on.
        runs: folder of all runs.
        progress: whether to print a line per view that is made.
        stop: asked after each of these.

    Raises:
        ValueError: if the cache does not belong to the data, or its views are
            others than the config's.
        TrainingInterrupted: if it was stopped between two views.
    """
    path = getattr(config, "cache", "")
    if not path:
        return None
    folder = run_folder(path, runs)
    if folder:
        return _cache_run(folder, config, dataset, fitting, progress, stop)
    cached = CachedTeacher.load(
        path, images=fitting.images, labels=fitting.labels
    )
    wanted = _views(config)
    names = list(wanted) if config.augment else ["augment"]
    other = {
        name: getattr(cached, name)
        for name in names
        if getattr(cached, name) != wanted[name]
    }
    if other:
        raise ValueError(
            f"The cache {path} was made with {other}. Received: "
            f"{ {name: wanted[name] for name in other} }. Make another with "
            f"`gnsmall cache-teacher --recipe {config.recipe}`, or train with "
            "the cache's."
        )
    return cached


def _cache_run(folder, config, dataset, fitting, progress, stop):
    """Caches a run for what `config` fits on, unless that is done.

    Others that want the same wait. Views are named by the seed of the split.
    """
    options = {
        **_views(config),
        "views": config.resolved_recipe.epochs if config.augment else 1,
        "seed": config.seed,
        "flip": dataset.flippable,
    }
    text = json.dumps([options, images_digest(*fitting)], sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]
    path = folder / f"cache-{key}"
    with path.with_suffix(".lock").open("ab") as file:
        lock(file)
        teacher = load_teacher(
            folder,
            classes=dataset.classes,
            input_shape=fitting.images.shape[1:],
        )
        return cache_teacher(
            teacher,
            *fitting,
            path=path,
            progress=progress,
            after_view=functools.partial(_after_view, path, stop),
            **options,
        )


def _after_view(path, stop):
    stop.steps += 1  # for the time was enough for something
    if stop.reason:
        raise TrainingInterrupted(
            f"{stop.reason}. {path} holds the views so far: the same command "
            "goes on there."
        )


def _views(config):
    """What views a config's student sees, in words of caches."""
    recipe = config.resolved_recipe
    return {
        "augment": config.augment,
        "alternate": recipe.alternate_flip,
        "padding": recipe.padding,
        "border": recipe.border,
    }


def batches(
    fitting: Split,
    config: TrainConfig,
    *,
    flip: bool,
    classes: int,
    cached: CachedTeacher | None = None,
) -> TrainingBatches:
    """Returns what a training step is given.

    Args:
        fitting: images to fit on.
        config: batch size, order and augmentation.
        flip: whether a mirrored image keeps its class.
        classes: how many there are.
        cached: if given, whose views and logits the batches are.
    """
    recipe = config.resolved_recipe
    options = {
        "batch_size": config.images_per_step,
        "seed": config.seed,
        "shuffle": config.shuffle,
        # Devices take equal parts.
        "drop_remainder": recipe.drop_remainder or config.devices > 1,
    }
    if cached:
        return cached.batches(fitting.images, fitting.labels, **options)
    return TrainingBatches(
        fitting.images,
        fitting.labels,
        augment=config.augment,
        flip=flip,
        alternate=recipe.alternate_flip,
        padding=recipe.padding,
        border=recipe.border,
        classes=classes,
        **{name: getattr(recipe, name) for name in MIXING},
        **options,
    )
