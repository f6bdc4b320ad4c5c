"""Networks of pixels where images are normalised."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers

from gnsmall_keras.data.augment import normalize
from gnsmall_keras.data.pixels import denormalization, warn_of_pixels
from gnsmall_keras.models.ghostnet import ghostnetv3_small

pytestmark = pytest.mark.any_backend


def _network(*first, shape=(32, 32, 3)):
    last = [layers.Flatten(), layers.Dense(2)]
    return keras.Sequential([keras.Input(shape), *first, *last])


@pytest.mark.parametrize("channels", [1, 3])
def test_denormalization_undoes_normalize(channels):
    pixels = np.arange(256, dtype=np.uint8).repeat(channels)
    pixels = pixels.reshape(1, 16, 16, channels)
    found = denormalization(channels)(normalize(pixels))
    found = keras.ops.convert_to_numpy(found)
    np.testing.assert_allclose(found, pixels, atol=1e-4)


def _adapted():
    layer = layers.Normalization()
    layer.adapt(np.random.default_rng(0).uniform(0, 255, (9, 32, 32, 3)))
    return layer


@pytest.mark.parametrize(
    "first",
    [
        lambda: [layers.Rescaling(1 / 255)],
        lambda: [layers.Resizing(32, 32), layers.Rescaling(1 / 127.5, -1)],
        lambda: [keras.Sequential([layers.Rescaling([1 / 255] * 3)])],
        lambda: [_adapted()],
    ],
)
def test_a_network_of_pixels_is_warned_of(first):
    network = _network(*first())
    with pytest.warns(UserWarning, match=r"gns.denormalization\(\), model"):
        warn_of_pixels(network, "it")
    cured = keras.Sequential(
        [keras.Input((32, 32, 3)), denormalization(), network]
    )
    _assert_silent(cured)


def _assert_silent(network):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warn_of_pixels(network, "it")


@pytest.mark.parametrize(
    "make",
    [
        lambda: _network(layers.Rescaling(1.0, 0.5)),
        lambda: _network(layers.Conv2D(2, 3), layers.Rescaling(1 / 255)),
        lambda: _network(layers.Normalization(mean=0.5, variance=0.25)),
        lambda: _network(denormalization()),
        lambda: ghostnetv3_small(0.25),
    ],
)
def test_others_are_not(make):
    _assert_silent(make())
