"""Networks that take pixels, among images that are normalised."""

import warnings
from collections.abc import Iterator

import keras
import numpy as np

from gnsmall_keras.models.spec import pixel_moments

# Keras's layers for images that leave pixels what they are.
_BEFORE = ("InputLayer", "Random", "Resizing", "CenterCrop", "Cropping", "Zero")
_LARGEST_SCALE = 1 / 32  # of a Rescaling of pixels; 1/255 and 1/127.5 are usual
_LEAST_MEAN = 10.0  # of pixels; of normalised images it is near 0


def denormalization(channels: int = 3) -> keras.layers.Layer:
    """Returns a layer that undoes `gns.normalize`.

    Put it before a network that was trained on pixels: commands, exported
    files and teachers here give normalised images to every network.

    Args:
        channels: 3 for RGB, 1 for grey.

    Returns:
        A `keras.layers.Rescaling` of float images, to 0 to 255.

    Raises:
        ValueError: if there are other channels.

    Example:
        >>> rescaling = keras.layers.Rescaling(1 / 255)
        >>> layers = [rescaling, keras.layers.Flatten(), keras.layers.Dense(10)]
        >>> inputs = keras.Input((32, 32, 3))
        >>> own = keras.Sequential([inputs, *layers])
        >>> model = keras.Sequential([inputs, gns.denormalization(), own])
        >>> pixels = np.full((1, 32, 32, 3), 200, np.uint8)
        >>> found = model.predict(gns.normalize(pixels), verbose=0)
        >>> np.allclose(found, own.predict(pixels, verbose=0), atol=1e-4)
        True
    """
    mean, std = pixel_moments(channels)
    return keras.layers.Rescaling(
        [255.0 * value for value in std],
        [255.0 * value for value in mean],
        name="denormalization",
    )


def warn_of_pixels(model: keras.Model, origin: str) -> None:
    """Warns of a network whose first layer is made for pixels of 0 to 255.

    Args:
        model: which is given normalised images.
        origin: what the warning calls it.
    """
    first = next(_layers_of(model), None)
    if first is None or not _is_for_pixels(first):
        return
    channels = "" if model.input_shape[-1] == 3 else f"{model.input_shape[-1]}"
    warnings.warn(
        f"{origin} begins with {first.name!r}, a {type(first).__name__} made "
        "for pixels of 0 to 255, and is given normalised images, as of "
        "gns.normalize. If it was trained on pixels, put a layer before it: "
        f"keras.Sequential([keras.Input({model.input_shape[1:]}), "
        f"gns.denormalization({channels}), model]).",
        stacklevel=3,
    )


def _layers_of(model) -> Iterator[keras.layers.Layer]:
    """Those that change pixels, those of models inside in their place."""
    for layer in model.layers:
        if isinstance(layer, keras.Model) and hasattr(layer, "layers"):
            yield from _layers_of(layer)
        elif not type(layer).__name__.startswith(_BEFORE):
            yield layer


def _is_for_pixels(layer):
    if isinstance(layer, keras.layers.Rescaling):
        return 0 < np.abs(layer.scale).max() <= _LARGEST_SCALE
    if isinstance(layer, keras.layers.Normalization):
        mean = getattr(layer, "mean", None)
        if mean is None:
            return False
        return np.abs(keras.ops.convert_to_numpy(mean)).max() > _LEAST_MEAN
    return False
