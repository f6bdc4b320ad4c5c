"""Normalisation and augmentation: vectorised, seeded, plain NumPy."""

import functools

import numpy as np

from gnsmall_keras.models.spec import PIXEL_MEAN, PIXEL_STD

MEAN = np.array(PIXEL_MEAN, np.float32)
STD = np.array(PIXEL_STD, np.float32)
PADDING = 4  # pixels of black on each side before a crop
_SHIFTS = 2 * PADDING + 1
# Stands where random augmentation has the epoch, so that no seed is shared.
_FIXED_VIEWS = 2**32 - 1


def normalize(images: np.ndarray) -> np.ndarray:
    """Turns uint8 pixels `(..., 3)` into the float32 a model takes."""
    scale = 1.0 / (255.0 * STD)
    return images.astype(np.float32) * scale - MEAN / STD


class Augmentation:
    """Random crops from a black border, and mirror images.

    Args:
        images: uint8 `(n, height, width, 3)`.
        flip: whether to mirror half of the images.
    """

    def __init__(self, images: np.ndarray, *, flip: bool):
        border = (PADDING, PADDING)
        padded = np.pad(images, ((0, 0), border, border, (0, 0)))
        size = images.shape[1:3]
        # (n, shifts, shifts, 3, height, width): views, nothing is copied.
        self._windows = np.lib.stride_tricks.sliding_window_view(
            padded, size, axis=(1, 2)
        )
        self._flip = flip

    def __call__(
        self, indices: np.ndarray, generator: np.random.Generator
    ) -> np.ndarray:
        """Returns one view of each image named by `indices`, uint8 NHWC."""
        shifts = generator.integers(0, _SHIFTS, size=(2, len(indices)))
        mirrored = generator.random(len(indices)) < 0.5
        return self._cut(indices, shifts, mirrored)

    def view(self, indices: np.ndarray, *, seed: int, view: int) -> np.ndarray:
        """Returns the fixed view `view` of each image, uint8 NHWC.

        How an image is cropped and mirrored is a function of `(seed, view)`
        and of its own index alone, whatever else is asked for.
        """
        shifts, mirrored = _draw_view(len(self._windows), seed, view)
        return self._cut(indices, shifts[:, indices], mirrored[indices])

    def _cut(self, indices, shifts, mirrored):
        rows, columns = shifts
        views = self._windows[indices, rows, columns].transpose(0, 2, 3, 1)
        if self._flip:
            views[mirrored] = views[mirrored, :, ::-1]
        return views


@functools.lru_cache(maxsize=2)  # an epoch asks for one view again and again
def _draw_view(count, seed, view):
    """Returns shifts `(2, count)` and whether each image is mirrored."""
    generator = np.random.default_rng((seed, _FIXED_VIEWS, view))
    # One row an image: the first images' draws do not depend on `count`.
    uniform = generator.random((count, 3)).T
    return (uniform[:2] * _SHIFTS).astype(np.uint8), uniform[2] < 0.5
