"""Batches for `model.fit`, the same on every backend."""

import keras
import numpy as np

from gnsmall_keras.data.augment import Augmentation, normalize


class TrainingBatches(keras.utils.PyDataset):
    """Shuffled, augmented, normalised batches.

    Order and augmentation are functions of `(seed, epoch, batch)` alone.

    Args:
        images, labels: uint8 `(n, h, w, 3)` and whole numbers `(n,)`.
        batch_size: images per batch.
        seed: whole number.
        shuffle: whether each epoch has its own order.
        augment: whether images are cropped and, if `flip`, mirrored.
        flip: whether a mirrored image keeps its class.
        drop_remainder: whether the last, short batch is left out.

    Raises:
        ValueError: if not one batch can be made.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        augment: bool = True,
        flip: bool = True,
        drop_remainder: bool = False,
    ):
        super().__init__()
        if len(images) < batch_size:
            raise ValueError(
                "`batch_size` must not exceed the number of training images. "
                f"Received: batch_size={batch_size}, images={len(images)}."
            )
        self._images = images
        self._labels = labels
        self._batch_size = batch_size
        self._seed = seed
        self._shuffle = shuffle
        self._augmentation = (
            Augmentation(images, flip=flip) if augment else None
        )
        self._drop_remainder = drop_remainder
        self._epoch = -1  # Keras calls on_epoch_begin before the first

    def __len__(self):
        full, rest = divmod(len(self._images), self._batch_size)
        return full + (rest > 0 and not self._drop_remainder)

    def __getitem__(self, batch):
        start = batch * self._batch_size
        indices = self._order()[start : start + self._batch_size]
        if self._augmentation:
            seed = (self._seed, max(self._epoch, 0), batch + 1)
            images = self._augmentation(indices, np.random.default_rng(seed))
        else:
            images = self._images[indices]
        return normalize(images), self._labels[indices]

    def on_epoch_begin(self):
        """Moves on to the next epoch's order and views."""
        self._epoch += 1

    def _order(self):
        if not self._shuffle:
            return np.arange(len(self._images))
        seed = (self._seed, max(self._epoch, 0), 0)
        return np.random.default_rng(seed).permutation(len(self._images))


class EvaluationBatches(keras.utils.PyDataset):
    """Normalised batches in the given order.

    Args:
        images, labels: uint8 `(n, h, w, 3)` and whole numbers `(n,)`.
        batch_size: at most so many images per batch.
    """

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, *, batch_size: int = 500
    ):
        super().__init__()
        self._images = images
        self._labels = labels
        self._batch_size = batch_size

    def __len__(self):
        return -(-len(self._images) // self._batch_size)

    def __getitem__(self, batch):
        start = batch * self._batch_size
        part = slice(start, start + self._batch_size)
        return normalize(self._images[part]), self._labels[part]
