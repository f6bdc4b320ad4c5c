"""Batches for `model.fit`, the same on every backend."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from gnsmall_keras.data.augment import (
    Augmentation,
    Crops,
    Views,
    check_pixels,
    first_flips,
    normalize,
)
from gnsmall_keras.data.mixing import Drawn, Mixing

# Parts of a batch that brings its targets along.
IMAGES = "images"
TEACHER_LOGITS = "teacher_logits"
_VIEWS, _UNMIXED = Views(), Mixing()


class TrainingBatches(keras.utils.PyDataset):
    """Shuffled, augmented, normalised batches.

    Order and augmentation are functions of `(seed, epoch, batch)` alone, the
    epoch being Keras's in `Distiller.fit`; in other loops `on_epoch_begin`
    counts it, or `start_at` sets it. A batch is `(images, labels)`: float32
    `(batch, h, w, 3)` and `(batch,)`; labels that `mixup` or `cutmix` has mixed
    are float32 `(batch, classes)`.

    With `teacher_logits` every image has as many fixed views as there are
    logits for it, epoch e shows view `e % views`, and a batch is
    `({"images": images, "teacher_logits": float32 (batch, classes)}, labels)`.

    Args:
        images, labels: uint8 `(n, h, w, 3)` and whole numbers `(n,)`.
        batch_size: images per batch.
        seed: whole number.
        shuffle: whether each epoch has its own order.
        views: how images are seen.
        mixing: what is then done to them; not with `teacher_logits`.
        classes: of the labels, if they are to be mixed.
        drop_remainder: whether the last, short batch is left out.
        teacher_logits: `(views, images, classes)`, or one `(images, classes)`
            for each view; view v is `Augmentation.view(seed=view_seed,
            view=v)`, the plain image where nothing is augmented.
        view_seed: names the fixed views; `seed` where it is left out.

    Attributes:
        images, labels, batch_size, views, mixing, classes: the arguments.

    Raises:
        ValueError: if not one batch can be made, images are not uint8, labels
            more or fewer than they, `teacher_logits` does not fit them, or they
            are to be mixed with it or without `classes`.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        views: Views = _VIEWS,
        mixing: Mixing = _UNMIXED,
        classes: int | None = None,
        drop_remainder: bool = False,
        teacher_logits: np.ndarray | Sequence[np.ndarray] | None = None,
        view_seed: int | None = None,
    ):
        super().__init__()
        check_pixels(images)
        if len(labels) != len(images):
            raise ValueError(
                "`labels` must be one for each image. Received: "
                f"labels={len(labels)}, images={len(images)}. Take both of "
                "one split."
            )
        if len(images) < batch_size:
            raise ValueError(
                "`batch_size` must not exceed the number of training images. "
                f"Received: batch_size={batch_size}, images={len(images)}."
            )
        if teacher_logits is not None:
            _check_teacher_logits(teacher_logits, len(images), views.augment)
        _check_mixing(mixing, classes, teacher_logits)
        self.images = images
        self.labels = labels
        self.batch_size = batch_size
        self._seed = seed
        self._teacher_logits = teacher_logits
        self._view_seed = seed if view_seed is None else view_seed
        self._shuffle = shuffle
        self.views = views
        self._augmentation = (
            Augmentation(images, views) if views.augment else None
        )
        self.mixing = mixing
        self.classes = classes
        self._drop_remainder = drop_remainder
        self._epoch = -1  # Keras calls on_epoch_begin before the first

    def __len__(self):
        full, rest = divmod(len(self.images), self.batch_size)
        return full + (rest > 0 and not self._drop_remainder)

    def __getitem__(self, batch):
        epoch = max(self._epoch, 0)
        indices, crops, generator = self._draw(epoch, batch)
        images = self.images[indices]
        if self._augmentation and crops:
            images = self._augmentation.cut(indices, crops)
        images = normalize(images)
        labels = self.labels[indices]
        if self.views.augment:  # drawn last: what was before stays as it was
            images, labels = self.mixing(
                images, labels, generator, self.classes
            )
        logits = self.teacher_logits(epoch)
        if logits is None:
            return images, labels
        logits = np.asarray(logits[indices], np.float32)
        return {IMAGES: images, TEACHER_LOGITS: logits}, labels

    def draw(self, epoch: int, batch: int) -> "Draw":
        """Returns which images a batch has and what happens to them."""
        indices, crops, generator = self._draw(epoch, batch)
        mixed = None
        if self.views.augment:
            shape = (len(indices), *self.images.shape[1:3])
            mixed = self.mixing.draw(shape, generator)
        return Draw(indices, crops, mixed)

    def teacher_logits(self, epoch: int) -> np.ndarray | None:
        """Returns what a teacher says of an epoch's views of all images."""
        if self._teacher_logits is None:
            return None
        return self._teacher_logits[self._view(epoch)]

    def on_epoch_begin(self):
        """Moves on to the next epoch's order and views."""
        self._epoch += 1

    def start_at(self, epoch: int) -> None:
        """Makes the next epoch number `epoch`, counted from 0."""
        self._epoch = epoch - 1

    def indices(self, epoch: int, batch: int) -> np.ndarray:
        """Returns which images are in a batch; both are counted from 0."""
        start = batch * self.batch_size
        return self._order(epoch)[start : start + self.batch_size]

    def _order(self, epoch):
        if not self._shuffle:
            return np.arange(len(self.images))
        return _shuffled(len(self.images), self._seed, epoch)

    def _draw(self, epoch, batch):
        """Which images, how they are cut, and the generator of the rest."""
        indices = self.indices(epoch, batch)
        generator = np.random.default_rng((self._seed, epoch, batch + 1))
        return indices, self._crops(indices, epoch, generator), generator

    def _crops(self, indices, epoch, generator):
        if not self._augmentation:
            return None
        if self._teacher_logits is not None:
            return self._augmentation.draw_view(
                indices, seed=self._view_seed, view=self._view(epoch)
            )
        mirrored = None
        if self.views.alternate:
            first = first_flips(len(self.images), self._seed)
            mirrored = first[indices] ^ bool(epoch % 2)
        return self._augmentation.draw(len(indices), generator, mirrored)

    def _view(self, epoch):
        return epoch % len(self._teacher_logits)


class Draw(NamedTuple):
    """One batch, before there are images."""

    indices: np.ndarray  # (batch,)
    crops: Crops | None  # None: images as they are
    mixed: Drawn | None  # None: nothing is done to them


@functools.lru_cache(maxsize=2)  # an epoch asks for it with every batch
def _shuffled(count, seed, epoch):
    order = np.random.default_rng((seed, epoch, 0)).permutation(count)
    order.flags.writeable = False  # all who ask have this one
    return order


def _check_teacher_logits(teacher_logits, images, augment):
    views = len(teacher_logits)
    shapes = sorted({np.shape(view) for view in teacher_logits})
    if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][0] != images:
        raise ValueError(
            "`teacher_logits` must be (views, images, classes), a row for "
            f"each training image. Received: views={views} of shapes {shapes} "
            f"for images={images}. Make them of this very split, with "
            "gnsmall_keras.distill.cache.cache_teacher."
        )
    if not augment and views != 1:
        raise ValueError(
            "Without `augment` an image has one view, so `teacher_logits` "
            f"must have one. Received: views={views}. Set augment=True or "
            "store the logits with views=1."
        )


def _check_mixing(mixing, classes, teacher_logits):
    used = mixing.used
    if teacher_logits is None:
        if classes is None and (mixing.mixup or mixing.cutmix):
            raise ValueError(
                "Mixed labels need the number of classes. Received: "
                f"mixup={mixing.mixup}, cutmix={mixing.cutmix}, classes=None. "
                "Pass `classes`, or leave both at 0."
            )
    elif used:
        raise ValueError(
            "With `teacher_logits` images must stay what the teacher has seen. "
            f"Received with them: {used}. Leave these out, or let the teacher "
            "run."
        )


class RemainingBatches(keras.utils.PyDataset):
    """Those of an epoch that an interrupted training has not seen.

    Args:
        batches: of a whole epoch.
        first: number of the first that is left.
    """

    def __init__(self, batches: TrainingBatches, first: int):
        super().__init__()
        self._batches = batches
        self._first = first

    @property
    def labels(self) -> np.ndarray:
        """Those of all images."""
        return self._batches.labels

    def __len__(self):
        return len(self._batches) - self._first

    def __getitem__(self, batch):
        return self._batches[self._first + batch]

    def on_epoch_begin(self):
        """Moves on to the next epoch's order and views."""
        self._batches.on_epoch_begin()


class EvaluationBatches(keras.utils.PyDataset):
    """Normalised batches in the given order.

    Args:
        images, labels: uint8 `(n, h, w, 3)` and whole numbers `(n,)`.
        batch_size: at most so many images per batch.
        devices: how many share a batch. For several, batches are filled up to
            equal parts, and have weights: 0 for what fills up, otherwise 1.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        batch_size: int = 500,
        devices: int = 1,
    ):
        super().__init__()
        self.images = images
        self.labels = labels
        self.batch_size = batch_size - batch_size % devices
        self._devices = devices

    def __len__(self):
        return -(-len(self.images) // self.batch_size)

    def __getitem__(self, batch):
        start = batch * self.batch_size
        part = slice(start, start + self.batch_size)
        images, labels = normalize(self.images[part]), self.labels[part]
        if self._devices == 1:
            return images, labels
        weights = np.ones(len(labels), np.float32)
        return tuple(
            fill_up(values, -len(labels) % self._devices)
            for values in (images, labels, weights)
        )


def labels_of(data: Any) -> np.ndarray | None:
    """Returns the labels of all images of this package's batches.

    None of other data: what these call `labels` may be anything.
    """
    ours = (TrainingBatches, RemainingBatches, EvaluationBatches)
    return data.labels if isinstance(data, ours) else None


def fill_up(values: np.ndarray, missing: int) -> np.ndarray:
    """Returns an array with `missing` rows of zeros at its end."""
    return np.pad(values, [(0, missing)] + [(0, 0)] * (values.ndim - 1))
