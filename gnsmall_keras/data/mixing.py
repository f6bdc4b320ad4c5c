"""Cutout, mixup and CutMix of whole batches: vectorised, plain NumPy."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixing:
    """A hole in each image, then images mixed in pairs, with their labels.

    A batch has one share and one permutation for its pairs, as in the authors'
    code. With `mixup` and `cutmix` each batch takes one of them, by a fair
    draw.

    Attributes:
        cutout: pixels of a side of a square at a random place in each image,
            which is set to zero (the mean of normalised pixels); 0: none.
        mixup: alpha of Beta(alpha, alpha), whence the first image's share is
            drawn; 0: none.
        cutmix: the same for a box of the second image in the first; 0: none.

    Sources: DeVries and Taylor, "Improved Regularization of Convolutional
    Neural Networks with Cutout", 2017; Zhang et al., "mixup: Beyond Empirical
    Risk Minimization", ICLR 2018; Yun et al., "CutMix", ICCV 2019.
    """

    cutout: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0

    @property
    def used(self) -> dict[str, float]:
        """What is not left at 0."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if value}

    def __call__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        generator: np.random.Generator,
        classes: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the images, changed in place, and their labels.

        Args:
            images: float32 `(batch, h, w, channels)`, normalised.
            labels: whole numbers `(batch,)`.
            generator: of all that is random.
            classes: of the labels; needed to mix them.

        Returns:
            Images, and labels as they were; mixed ones are float32
            `(batch, classes)`, of which each row adds up to 1.
        """
        drawn = self.draw(images.shape[:3], generator)
        if drawn.middles is not None:
            _cut_out(images, self.cutout, drawn.middles)
        if drawn.partners is None:
            return images, labels
        if drawn.box is None:
            _mix_up(images, drawn.partners, drawn.share)
        else:
            rows, columns = (slice(*side) for side in drawn.box)
            box = images[:, rows, columns]
            box[:] = box[drawn.partners]
        return images, _mixed(labels, drawn.partners, drawn.share, classes)

    def draw(
        self, shape: tuple[int, ...], generator: np.random.Generator
    ) -> "Drawn":
        """Returns what happens to a batch of images, which are not needed.

        Args:
            shape: `(batch, h, w)`.
            generator: of all that is random.
        """
        count, *size = shape
        middles = partners = box = None
        share = 1.0
        if self.cutout:
            middles = generator.integers(size, size=(count, 2))
        alphas = [alpha for alpha in (self.mixup, self.cutmix) if alpha]
        if alphas:
            number = generator.integers(len(alphas))
            partners = generator.permutation(count)
            share = generator.beta(alphas[number], alphas[number])
            if not self.mixup or number == 1:
                part = (1.0 - share) ** 0.5
                box = tuple(_span(side, part, generator) for side in size)
                area = math.prod(end - start for start, end in box)
                share = 1.0 - area / math.prod(size)
        return Drawn(middles, partners, share, box)


class Drawn(NamedTuple):
    """What happens to the images of one batch."""

    middles: np.ndarray | None  # (batch, 2), of the squares of cutout
    partners: np.ndarray | None  # (batch,): whom each is mixed with
    share: float  # that is left of each image
    box: tuple[tuple[int, int], ...] | None  # of CutMix; rows, then columns


def _cut_out(images, side, middles):
    """The square's middle is in the image; what is outside is cut off."""
    count, *size = images.shape[:3]
    square = middles[..., None] - side // 2 + np.arange(side)
    # A pixel beyond the border becomes one on it, which is of the square too.
    rows, columns = (
        np.clip(square[:, axis], 0, size[axis] - 1) for axis in (0, 1)
    )
    each = np.arange(count)[:, None, None]
    images[each, rows[:, :, None], columns[:, None, :]] = 0.0


def _mix_up(images, partners, share):
    others = images[partners]
    others *= 1.0 - share
    images *= share
    images += others


def _span(length, part, generator):
    """A random place for a part of a side; what is outside is cut off."""
    size = int(length * part)
    start = int(generator.integers(length)) - size // 2
    return max(start, 0), min(start + size, length)


def _mixed(labels, partners, share, classes):
    """Rows with the share at an image's class, the rest at its partner's."""
    each = np.arange(len(labels))
    mixed = np.zeros((len(labels), classes), np.float32)
    mixed[each, labels] = share
    mixed[each, labels[partners]] += 1.0 - share
    return mixed
