"""A head with fewer units."""

import keras
import numpy as np
import pytest

from gnsmall_keras.models.counting import count_parameters
from gnsmall_keras.quantization.head import narrow_head
from gnsmall_keras.training.evaluation import predict_logits

UNITS, CLASSES = 6, 3


@pytest.fixture(scope="module")
def images():
    drawn = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3))
    return drawn.astype(np.uint8)


def _network(end="pool", **options):
    """A head of six units, whose third and fifth never answer."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D(keepdims=True)(inputs)
    if end == "pixels":
        x = inputs
    x = keras.layers.Conv2D(UNITS, 1, name="head", **options)(x)
    x = head = keras.layers.ReLU()(x)
    if end == "dense" or end == "pixels":
        x = keras.layers.Flatten()(x)
        x = keras.layers.Dense(CLASSES, name="classifier")(x)
    else:
        x = keras.layers.Conv2D(CLASSES, 1, name="classifier")(x)
        x = keras.layers.Flatten()(x)
    if end == "two readers":
        others = keras.layers.Flatten()(head)
        x = keras.layers.Add()([x, others[:, :CLASSES]])
    model = keras.Model(inputs, x)
    kernel, *bias = model.get_layer("head").get_weights()
    if bias:
        bias = [np.array([1, 1, -99, 1, -99, 1], np.float32)]
    model.get_layer("head").set_weights([kernel, *bias])
    return model


def test_an_adapted_normalization_stays(images):
    """As weights alone it computes with the mean that it was made with."""
    network = _network()
    normalize = keras.layers.Normalization(axis=None)
    normalize.adapt(images.astype(np.float32))
    inputs = keras.Input((8, 8, 3))
    whole = keras.Model(inputs, inputs)
    x = normalize(inputs)
    for layer in network.layers[1:]:
        x = layer(x)
    whole = keras.Model(inputs, x)
    np.testing.assert_allclose(
        predict_logits(narrow_head(whole, 5, images), images),
        predict_logits(whole, images),
        atol=1e-5,
    )


@pytest.mark.parametrize("end", ["pool", "dense"])
def test_units_that_never_answer_go_first(images, end):
    model = _network(end)
    narrow = narrow_head(model, UNITS - 2, images)
    np.testing.assert_allclose(
        predict_logits(narrow, images), predict_logits(model, images), atol=1e-6
    )
    np.testing.assert_array_equal(
        narrow.get_layer("head").get_weights()[0],
        np.delete(model.get_layer("head").get_weights()[0], [2, 4], axis=-1),
    )
    assert count_parameters(model) - count_parameters(narrow) == 2 * (3 + 1 + 3)


def test_the_mean_of_what_goes_stays(images):
    model = _network()
    narrow = narrow_head(model, 1, images)
    expected = predict_logits(model, images)
    found = predict_logits(narrow, images)
    assert np.abs(found - expected).max() > 1e-3
    np.testing.assert_allclose(found.mean(0), expected.mean(0), atol=1e-5)


def test_equal_parts_in_all_logits_are_nothing(images):
    model = _network()
    kernel, bias = model.get_layer("classifier").get_weights()
    kernel[0, 0, 0] = 100.0  # of the first unit, for each class
    model.get_layer("classifier").set_weights([kernel, bias])
    narrow = narrow_head(model, UNITS - 3, images)
    left = narrow.get_layer("classifier").get_weights()[0]
    assert np.abs(left).max() < 100.0
    np.testing.assert_array_equal(
        predict_logits(narrow, images).argmax(-1),
        predict_logits(model, images).argmax(-1),
    )


def test_as_many_as_there_are_change_nothing(images):
    model = _network()
    np.testing.assert_array_equal(
        predict_logits(narrow_head(model, UNITS, images), images),
        predict_logits(model, images),
    )


@pytest.mark.parametrize(
    ("network", "units", "message"),
    [
        ({}, 7, "at most the units of the model's head. Received: 7 .* 6"),
        ({"end": "pixels"}, 4, "needs a model that ends in a convolution"),
        ({"end": "two readers"}, 4, "needs a model that ends in"),
        ({"use_bias": False}, 4, "layer with biases"),
        ({"activation": "softmax"}, 4, "function of each of its units"),
    ],
)
def test_other_heads_are_refused(images, network, units, message):
    with pytest.raises(ValueError, match=message):
        narrow_head(_network(**network), units, images)
