"""Multiply-accumulates of layers that the package's networks do not have."""

import keras
import pytest
from keras import layers

from gnsmall_keras.models.counting import (
    count_blocks,
    count_macs,
    count_parameters,
)
from gnsmall_keras.models.deploy import to_deploy
from gnsmall_keras.models.ghostnet import ghostnetv3_small

pytestmark = pytest.mark.any_backend


def _counted(layer, shape):
    inputs = keras.Input(shape)
    return count_macs(keras.Model(inputs, layer(inputs)))


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (lambda: layers.Dense(5), (4,), 4 * 5),
        (lambda: layers.Dense(5), (7, 4), 7 * 4 * 5),
        (lambda: layers.Conv1D(5, 3, padding="same"), (8, 4), 8 * 3 * 4 * 5),
        (lambda: layers.Conv2D(6, 3, groups=2), (8, 8, 4), 6 * 6 * 9 * 2 * 6),
        (lambda: layers.Conv3D(2, 2), (3, 3, 3, 4), 8 * 8 * 4 * 2),
        (lambda: layers.DepthwiseConv1D(3), (8, 4), 6 * 3 * 4),
        (lambda: layers.DepthwiseConv2D(3), (8, 8, 4), 6 * 6 * 9 * 4),
        (
            lambda: layers.SeparableConv2D(5, 3, strides=2, padding="same"),
            (8, 8, 4),
            16 * 9 * 4 + 16 * 4 * 5,
        ),
        (
            lambda: layers.Conv2DTranspose(5, 3, strides=2),
            (8, 8, 4),
            64 * 9 * 4 * 5,
        ),
        (layers.PReLU, (8, 8, 4), 0),
        (layers.BatchNormalization, (8, 8, 4), 0),
    ],
)
def test_each_kernel_is_counted_where_it_is_applied(layer, shape, macs):
    assert _counted(layer(), shape) == macs


@pytest.mark.skipif(
    keras.config.backend() == "tensorflow",
    reason="its CPU kernels know channels last alone",
)
def test_channels_may_be_first():
    layer = layers.Conv2D(5, 3, data_format="channels_first")
    assert _counted(layer, (4, 8, 6)) == 6 * 4 * 9 * 4 * 5


def test_a_layer_counts_as_often_as_it_is_called():
    inputs, layer = keras.Input((8, 8, 4)), layers.Conv2D(4, 1, name="shared")
    model = keras.Model(inputs, layer(layer(inputs)))
    assert count_macs(model) == 2 * 64 * 16
    assert count_blocks(model)[-1].macs == 2 * 64 * 16
    assert _counted(model, (8, 8, 4)) == 2 * 64 * 16


def test_only_the_layers_of_a_model_are_counted():
    inputs = keras.Input((8, 8, 4))
    first = layers.Conv2D(4, 1)(inputs)
    layers.Conv2D(4, 1)(first)
    assert count_macs(keras.Model(inputs, first)) == 64 * 16


def test_a_sequential_model_is_counted():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(5)])
    assert count_macs(model) == 20


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.LSTM(3, name="other"),
        lambda: layers.TimeDistributed(layers.Dense(3), name="other"),
    ],
    ids=["LSTM", "TimeDistributed"],
)
def test_kernels_of_another_kind_are_named(layer):
    with pytest.raises(ValueError, match="'other', a .* of another kind"):
        _counted(layer(), (8, 4))


def test_images_have_to_have_a_size():
    with pytest.raises(ValueError, match="fixed size"):
        _counted(layers.Conv2D(4, 1), (None, 8, 4))


def test_frozen_layers_are_counted():
    network = ghostnetv3_small(0.25)
    parameters = count_parameters(network)
    deployed = count_parameters(to_deploy(network))
    inputs = keras.Input((32, 32, 3))
    outer = keras.Model(inputs, layers.Dense(2)(network(inputs)))
    network.trainable = False
    assert count_parameters(network) == parameters
    assert count_parameters(outer) == parameters + 22
    assert count_parameters(to_deploy(outer)) == deployed + 22


def test_a_shared_layer_counts_its_parameters_once():
    inputs, layer = keras.Input((8, 8, 4)), layers.Conv2D(4, 1, name="shared")
    model = keras.Model(inputs, layer(layer(inputs)))
    assert count_parameters(model) == 20
