"""Cutout, mixup and CutMix of whole batches: vectorised, plain NumPy."""

import dataclasses

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
        if self.cutout:
            _cut_out(images, self.cutout, generator)
        given = ((_mix_up, self.mixup), (_cut_mix, self.cutmix))
        ways = [(way, alpha) for way, alpha in given if alpha]
        if not ways:
            return images, labels
        way, alpha = ways[generator.integers(len(ways))]
        partners = generator.permutation(len(images))
        share = way(images, partners, generator.beta(alpha, alpha), generator)
        return images, _mixed(labels, partners, share, classes)


def _cut_out(images, side, generator):
    """The square's middle is in the image; what is outside is cut off."""
    count, *size = images.shape[:3]
    middles = generator.integers(size, size=(count, 2))
    square = middles[..., None] - side // 2 + np.arange(side)
    # A pixel beyond the border becomes one on it, which is of the square too.
    rows, columns = (
        np.clip(square[:, axis], 0, size[axis] - 1) for axis in (0, 1)
    )
    each = np.arange(count)[:, None, None]
    images[each, rows[:, :, None], columns[:, None, :]] = 0.0


def _mix_up(images, partners, share, generator):
    """Returns the share that is left of each image."""
    del generator  # only a box has a place
    others = images[partners]
    others *= 1.0 - share
    images *= share
    images += others
    return share


def _cut_mix(images, partners, share, generator):
    """Returns the share that is left of each image, by the box's area."""
    height, width = images.shape[1:3]
    part = (1.0 - share) ** 0.5
    rows = _span(height, part, generator)
    columns = _span(width, part, generator)
    box = images[:, rows, columns]
    area = box.shape[1] * box.shape[2]
    box[:] = box[partners]
    return 1.0 - area / (height * width)


def _span(length, part, generator):
    """A random place for a part of a side; what is outside is cut off."""
    size = int(length * part)
    start = int(generator.integers(length)) - size // 2
    return slice(max(start, 0), start + size)


def _mixed(labels, partners, share, classes):
    """Rows with the share at an image's class, the rest at its partner's."""
    each = np.arange(len(labels))
    mixed = np.zeros((len(labels), classes), np.float32)
    mixed[each, labels] = share
    mixed[each, labels[partners]] += 1.0 - share
    return mixed
