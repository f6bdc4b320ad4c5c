"""Gates that answer all images alike."""

import keras
import numpy as np
import pytest
from support import run

import gnsmall_keras as gns
from gnsmall_keras.export.gates import fold_gates
from gnsmall_keras.models.deploy import to_deploy

pytestmark = pytest.mark.backend


@pytest.fixture(scope="module")
def built():
    keras.utils.set_random_seed(0)
    network = to_deploy(gns.ghostnetv3_small(width=0.25))
    return network, network.get_weights()


@pytest.fixture
def network(built):
    """With the weights that it had before any test."""
    network, weights = built
    network.set_weights(weights)
    return network


def _quieten(network, *names, kernel=0.0):
    for name in names:
        layer = network.get_layer(name)
        _, bias = layer.get_weights()
        values = np.full(layer.kernel.shape, kernel, np.float32)
        layer.set_weights([values, np.linspace(-1, 1, len(bias))])


def _outputs(network):
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3))
    return run(network, images.astype(np.float32), training=False)


def test_gates_that_tell_images_apart_stay(network):
    folded, names = fold_gates(network)
    assert folded is network
    assert names == []


def test_constant_gates_go_and_the_outputs_stay(network):
    _quieten(network, "blocks_3_0_se_expand", "blocks_4_0_ghost1_gate_column")
    both = ("blocks_6_1_se_reduce", "blocks_6_1_se_expand")
    _quieten(network, *both, kernel=1e-9)
    folded, names = fold_gates(network)
    assert set(names) == {
        "blocks_3_0_se_multiply",
        "blocks_4_0_ghost1_multiply",
        "blocks_6_1_se_multiply",
    }
    expected = _outputs(network)
    np.testing.assert_allclose(
        _outputs(folded), expected, atol=1e-4 * expected.std()
    )
    left = {layer.name for layer in folded.layers}
    assert not left & {"blocks_3_0_se_pool", "blocks_4_0_ghost1_gate_row"}
    assert len(network.layers) - len(folded.layers) == 2 * 6 + 7


def test_a_gate_that_a_large_input_moves_stays(network):
    _quieten(network, "blocks_3_0_se_expand", kernel=1e-6)
    assert fold_gates(network)[1] == []


def test_a_border_counts(network):
    """The first bias meets padding, so that the second answers it."""
    _quieten(network, "blocks_4_0_ghost1_gate_row")
    assert fold_gates(network)[1] == []


def _constant_gate(x):
    gate = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = keras.layers.Conv2D(4, 1, kernel_initializer="zeros")(gate)
    return keras.layers.Activation("sigmoid")(gate)


@pytest.mark.parametrize("shared", ["kernel", "relu", "product", "sigmoid"])
def test_gates_of_layers_that_are_called_twice_stay(shared):
    """Their other call is of something else."""
    layers = keras.layers
    inputs = keras.Input((8, 8, 4))
    kernel, other = layers.Conv2D(4, 1), layers.Conv2D(4, 1)
    relu, product = layers.ReLU(), layers.Multiply()
    gate = _constant_gate(inputs)
    if shared == "kernel":
        x = layers.Add()([kernel(product([inputs, gate])), kernel(inputs)])
    elif shared == "relu":
        x = kernel(relu(product([inputs, gate])))
        x = layers.Add()([x, other(relu(inputs))])
    elif shared == "product":
        x = kernel(product([inputs, gate]))
        x = product([x, layers.Conv2D(4, 1)(inputs)])
    else:
        sigmoid = layers.Activation("sigmoid")
        pooled = layers.GlobalAveragePooling2D(keepdims=True)(inputs)
        zeros = layers.Conv2D(4, 1, kernel_initializer="zeros")(pooled)
        x = layers.Multiply()([inputs, sigmoid(zeros)])
        moved = sigmoid(layers.Conv2D(4, 1)(pooled))
        x = layers.Conv2D(4, 1)(layers.Multiply()([kernel(x), moved]))
    model = keras.Model(inputs, x)
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 4))
    images = images.astype(np.float32)
    folded, _ = fold_gates(model)
    found, expected = (
        run(each, images, training=False) for each in (folded, model)
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("reader", ["add", "output", "square"])
def test_what_is_no_factor_of_a_kernel_stays(reader):
    inputs = keras.Input((8, 8, 4))
    x = keras.layers.Multiply()([inputs, _constant_gate(inputs)])
    if reader == "square":
        pooled = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
        x = keras.layers.Multiply()([x, pooled])
    if reader == "add":
        x = keras.layers.Add()([x, inputs])
    if reader != "output":
        x = keras.layers.Conv2D(2, 1)(x)
    assert fold_gates(keras.Model(inputs, x))[1] == []


@pytest.mark.parametrize("odd", ["groups", "swish"])
def test_gates_of_no_known_bounds_stay(odd):
    layers, inputs = keras.layers, keras.Input((8, 8, 4))
    gate = layers.GlobalAveragePooling2D(keepdims=True)(inputs)
    if odd == "groups":
        gate = layers.Conv2D(4, 1, groups=2)(gate)
    else:
        gate = layers.Conv2D(4, 1, activation="swish")(gate)
    gate = layers.Conv2D(4, 1, activation="sigmoid")(gate)
    x = layers.Conv2D(2, 1)(layers.Multiply()([inputs, gate]))
    assert fold_gates(keras.Model(inputs, x))[1] == []


def test_gates_that_kernels_of_groups_read_stay():
    inputs = keras.Input((8, 8, 4))
    x = keras.layers.Multiply()([inputs, _constant_gate(inputs)])
    x = keras.layers.Conv2D(4, 1, groups=2)(x)
    assert fold_gates(keras.Model(inputs, x))[1] == []
