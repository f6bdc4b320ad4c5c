"""A dataset in memory, and its seeded, stratified split."""

import dataclasses
import functools
import hashlib

import numpy as np
from sklearn.model_selection import train_test_split


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels in memory.

    Attributes:
        name: what it is, "cifar10" for example.
        train_images: uint8 `(n, 32, 32, 3)`, RGB.
        train_labels: int32 `(n,)`, indices into `class_names`.
        test_images, test_labels: likewise; of length 0 where there is no test
            split.
        class_names: one name per class.
        flippable: whether a mirrored image keeps its class; digits do not.

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

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @functools.cached_property
    def digest(self) -> str:
        """First 16 characters of the SHA-256 of all images and labels."""
        sha = hashlib.sha256()
        for array in (
            self.train_images,
            self.train_labels,
            self.test_images,
            self.test_labels,
        ):
            sha.update(np.ascontiguousarray(array))
        return sha.hexdigest()[:16]


def split_indices(
    labels: np.ndarray, *, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Splits a training set, stratified by class.

    Args:
        labels: `(n,)` class indices.
        fraction: part that is held out, in (0, 1).
        seed: names the split.

    Returns:
        `(train, validation)`: sorted indices that share no element.

    Raises:
        ValueError: if a class is too small to be in both parts.
    """
    try:
        train, validation = train_test_split(
            np.arange(len(labels)),
            test_size=fraction,
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
