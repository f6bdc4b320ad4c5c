"""A dataset in memory, its seeded, stratified split, and a part of it."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Images and labels in memory.

    Attributes:
        name: what it is, "cifar10" for example.
        train_images: uint8 `(n, size, size, channels)`, RGB or grey.
        train_labels: int32 `(n,)`, indices into `class_names`.
        test_images, test_labels: likewise; of length 0 where there is no test
            split.
        class_names: one name per class.
        flippable: whether a mirrored image keeps its class; digits do not.
        validation_images, validation_labels: a validation split that the data
            came with; None: there was none.
        aspect: what was done to images that are not square: "crop", "pad" or
            "squash".
        test_fraction: the part of the given training images that the test
            images were split off from; None: they came with the data.
        notes: lines about what was left out, split off or is mirrored.
        reading: how it was read: from a cache, or why there is none.
        origin: "known" (CIFAR, digits), "files" or "arrays".

    Example:
        >>> data = gns.load_data("digits")
        >>> data.train_images.shape, data.classes
        ((1437, 32, 32, 3), 10)
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    flippable: bool = True
    validation_images: np.ndarray | None = None
    validation_labels: np.ndarray | None = None
    aspect: str = "crop"
    test_fraction: float | None = None
    notes: tuple[str, ...] = ()
    reading: str = ""
    origin: str = "known"

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_size(self) -> int:
        """Pixels of a side."""
        return self.train_images.shape[1]

    @property
    def channels(self) -> int:
        """3 for RGB, 1 for grey."""
        return self.train_images.shape[3]

    @functools.cached_property
    def digest(self) -> str:
        """First 16 characters of the SHA-256 of all images and labels.

        Of data of your own it has the shape of images and the classes' names
        too. It has no path: the same images have the same digest anywhere.
        """
        sha = hashlib.sha256()
        arrays = [
            self.train_images,
            self.train_labels,
            self.test_images,
            self.test_labels,
        ]
        if self.validation_images is not None:
            arrays += [self.validation_images, self.validation_labels]
        for array in arrays:
            sha.update(np.ascontiguousarray(array))
        if self.origin != "known":  # records rest on those of known data
            shapes = [array.shape for array in arrays]
            sha.update(json.dumps([shapes, self.class_names]).encode())
        return sha.hexdigest()[:16]

    def lines(self) -> list[str]:
        """Returns what was left out, and how it was read, for people."""
        return [*self.notes, *filter(None, [self.reading])]

    def describe(self) -> dict[str, Any]:
        """Returns what a record says of the images, as plain JSON values."""
        return {
            "name": self.name,
            "image_size": self.image_size,
            "channels": self.channels,
            "aspect": self.aspect,
            "flippable": self.flippable,
            "test_fraction": self.test_fraction,
            "validation_given": self.validation_images is not None,
            "notes": list(self.notes),
            "class_names": list(self.class_names),
        }

    def check_classes(
        self, model: str, classes: int, names: Sequence[str] = ()
    ) -> None:
        """Checks that a model has one output for each class, of its name.

        Args:
            model: what the message calls it.
            classes: its outputs.
            names: of its classes; empty: not known.

        Raises:
            ValueError: if they differ.
        """
        if names and tuple(names) != self.class_names:
            raise ValueError(
                f"{model} has other classes: {some(names)}; "
                f"{self.name!r} has {some(self.class_names)}. Give the data "
                "it was trained on."
            )
        if classes != self.classes:
            raise ValueError(
                f"{model} has {classes} classes, {self.name!r} has "
                f"{self.classes}. Give the data it was trained on."
            )

    def __repr__(self):
        names = ", ".join(self.class_names[:5])
        if self.classes > 5:
            names += ", ..."
        held = 0
        if self.validation_images is not None:
            held = len(self.validation_images)
        validation = f"{held:,} validation, " if held else ""
        return (
            f"<Dataset {self.name!r}: {len(self.train_images):,} training, "
            f"{validation}{len(self.test_images):,} test images of "
            f"{self.image_size} x {self.image_size} x {self.channels}; "
            f"{self.classes} classes: {names}>"
        )


def some(names: Sequence[str]) -> str:
    """Returns at most ten of names, as a list."""
    more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
    return f"{list(names[:10])}{more}"


def split_indices(
    labels: np.ndarray, *, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Splits a training set, stratified by class.

    Args:
        labels: `(n,)` class indices.
        fraction: part that is held out, in (0, 1); of few images at least as
            many as there are classes.
        seed: names the split.

    Returns:
        `(train, validation)`: sorted indices that share no element. Where
        others have many images, a class of few may be in one part alone.

    Raises:
        ValueError: if a class has one image, or a part would have fewer images
            than there are classes.
    """
    # A path is checked before this takes its second.
    from sklearn.model_selection import train_test_split

    least = len(np.unique(labels))
    few = fraction * len(labels) < least
    try:
        train, validation = train_test_split(
            np.arange(len(labels)),
            test_size=least if few else fraction,
            stratify=labels,
            random_state=seed,
        )
    except ValueError as error:
        raise ValueError(
            f"{len(labels)} images of {len(np.unique(labels))} classes cannot "
            f"be split with validation_fraction={fraction}: {error} Add images "
            "or change the fraction."
        ) from None
    return np.sort(train), np.sort(validation)


def stratified_subset(labels: np.ndarray, size: int) -> np.ndarray:
    """Returns the sorted indices of some images, of fewer than `size` all.

    They are the same for the same labels: the first ones of each class in
    turn, so that every class is seen.
    """
    rank = np.zeros(len(labels), np.int64)  # of an image within its class
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        rank[own] = np.arange(len(own))
    return np.sort(np.lexsort((labels, rank))[:size])
