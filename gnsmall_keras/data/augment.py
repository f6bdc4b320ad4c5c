"""Normalisation and augmentation: vectorised, seeded, plain NumPy."""

import dataclasses
import functools
import math
from typing import NamedTuple

import numpy as np

from gnsmall_keras.models.spec import pixel_moments

BORDERS = {"zeros": "constant", "reflect": "reflect"}  # NumPy's names
# Stand where random augmentation has the epoch, so that no seed is shared.
_FIXED_VIEWS = 2**32 - 1
_FIRST_FLIPS = 2**32 - 2


def normalize(images: np.ndarray) -> np.ndarray:
    """Turns uint8 pixels `(..., 3)` or `(..., 1)` into what a model takes.

    Args:
        images: RGB or grey, 0 to 255.

    Returns:
        float32 of the same shape: (pixel / 255 - mean) / deviation, of
        CIFAR-10's channels; of grey the averages over these.

    Example:
        >>> gns.normalize(np.zeros((1, 32, 32, 3), np.uint8)).dtype
        dtype('float32')
    """
    shape = (1, *images.shape) if images.ndim == 1 else images.shape
    *outer, pixels, channels = shape
    mean, std = moments(channels)
    # A row of pixels at a time: NumPy is slow along an axis of three.
    rows = images.reshape(math.prod(outer), channels * pixels)
    values = rows.astype(np.float32)
    values *= np.tile(1.0 / (255.0 * std), pixels)
    values -= np.tile(mean / std, pixels)
    return values.reshape(images.shape)


def check_pixels(images: np.ndarray) -> None:
    """Checks that images are pixels, which are still to be normalised.

    Raises:
        ValueError: if they are not uint8.
    """
    dtype = getattr(images, "dtype", type(images).__name__)
    if dtype != np.uint8:
        raise ValueError(
            "Images must be uint8 pixels, 0 to 255, which are normalised here. "
            f"Received: {dtype}. Give them as they were before "
            "gns.normalize."
        )


@functools.cache
def moments(channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and deviation of pixels in [0, 1], float32 `(channels,)`."""
    mean, std = pixel_moments(channels)
    return np.array(mean, np.float32), np.array(std, np.float32)


def normalization_weights(channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns a depthwise 1x1 kernel and biases that normalise pixels."""
    mean, std = moments(channels)
    return (1.0 / (255.0 * std)).reshape(1, 1, -1, 1), -mean / std


MEAN, STD = moments(3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Views:
    """How images are seen in training: as they are, or cropped and mirrored."""

    augment: bool = True
    """Whether images are cropped and, if `flip`, mirrored."""
    flip: bool = True
    """Whether a mirrored image keeps its class."""
    alternate: bool = False
    """Whether an image is mirrored every other epoch, beginning with a random
    half of them; otherwise by chance."""
    padding: int = 4
    """Pixels added on each side before a crop."""
    border: str = "zeros"
    """What they are: "zeros" (black) or "reflect" (the image, mirrored at its
    edge)."""


class Crops(NamedTuple):
    """How each image of a batch is cropped and mirrored."""

    shifts: np.ndarray  # (2, batch): rows and columns of the padded image
    mirrored: np.ndarray  # (batch,) bool


class Augmentation:
    """Random crops from a wider image, and mirror images.

    Args:
        images: uint8 `(n, height, width, 3)`.
        views: how they are seen.
    """

    def __init__(self, images: np.ndarray, views: Views):
        self._images = images
        self._shape = images.shape[1:]
        self._views = views
        self._shifts = 2 * views.padding + 1

    @functools.cached_property
    def _windows(self) -> np.ndarray:
        """All crops of all images: `(n, shifts, shifts, height, width * 3)`."""
        padded = pad(self._images, self._views)
        height, width, channels = self._shape
        # Rows of pixels as rows of bytes, which are copied as a whole. Views,
        # nothing is copied here.
        rows = padded.reshape(*padded.shape[:2], -1)
        return np.lib.stride_tricks.sliding_window_view(
            rows, (height, width * channels), axis=(1, 2)
        )[:, :, ::channels]

    def __call__(
        self,
        indices: np.ndarray,
        generator: np.random.Generator,
        mirrored: np.ndarray | None = None,
    ) -> np.ndarray:
        """Returns one view of each image named by `indices`, uint8 NHWC.

        Args:
            indices: `(batch,)`.
            generator: of the shifts, and of which images are mirrored.
            mirrored: `(batch,)` bool, to say which instead.
        """
        return self.cut(indices, self.draw(len(indices), generator, mirrored))

    def draw(
        self,
        count: int,
        generator: np.random.Generator,
        mirrored: np.ndarray | None = None,
    ) -> Crops:
        """Returns how `count` images are cut; arguments as in a call."""
        shifts = generator.integers(0, self._shifts, size=(2, count))
        if mirrored is None:
            mirrored = generator.random(count) < 0.5
        return Crops(shifts, mirrored & self._views.flip)

    def view(self, indices: np.ndarray, *, seed: int, view: int) -> np.ndarray:
        """Returns the fixed view `view` of each image, uint8 NHWC.

        Where flips alternate an image is mirrored in every other view.

        How an image is cropped and mirrored is a function of `(seed, view)`
        and of its own index alone, whatever else is asked for.
        """
        return self.cut(indices, self.draw_view(indices, seed=seed, view=view))

    def draw_view(self, indices: np.ndarray, *, seed: int, view: int) -> Crops:
        """Returns how the fixed views of images are cut; see `view`."""
        shifts, mirrored = _draw_view(
            len(self._images), self._shifts, seed, view
        )
        if self._views.alternate:
            mirrored = first_flips(len(self._images), seed) ^ bool(view % 2)
        return Crops(shifts[:, indices], mirrored[indices] & self._views.flip)

    def cut(self, indices: np.ndarray, crops: Crops) -> np.ndarray:
        """Returns images `(batch,)` cropped and mirrored, uint8 NHWC."""
        rows, columns = crops.shifts
        views = self._windows[indices, rows, columns]
        views = views.reshape(-1, *self._shape)
        mirrored = crops.mirrored
        if mirrored.any():
            views[mirrored] = views[mirrored, :, ::-1]
        return views


def pad(images: np.ndarray, views: Views) -> np.ndarray:
    """Returns images `(n, h, w, channels)` with the border of their crops."""
    sides = (views.padding, views.padding)
    return np.pad(
        images, ((0, 0), sides, sides, (0, 0)), mode=BORDERS[views.border]
    )


@functools.lru_cache(maxsize=2)
def first_flips(count: int, seed: int) -> np.ndarray:
    """Which of `count` images are mirrored first, where flips alternate."""
    return np.random.default_rng((seed, _FIRST_FLIPS)).random(count) < 0.5


@functools.lru_cache(maxsize=2)  # an epoch asks for one view again and again
def _draw_view(count, choices, seed, view):
    """Returns shifts `(2, count)` and whether each image is mirrored."""
    generator = np.random.default_rng((seed, _FIXED_VIEWS, view))
    # One row an image: the first images' draws do not depend on `count`.
    uniform = generator.random((count, 3)).T
    return (uniform[:2] * choices).astype(np.uint8), uniform[2] < 0.5
