"""The branched layers against the branches one by one.

The oracle, `PlainBranches`, is made of `keras.layers`: a convolution and a
BatchNormalization for every branch, added. Each case is one kind of sum in the
networks.
"""

import keras
import numpy as np
import pytest
from support import randomize, training_step

from gnsmall_keras.models import kernels
from gnsmall_keras.models.branched import KaimingNormal
from gnsmall_keras.models.layers import (
    BranchedConv2D,
    BranchedDepthwiseConv2D,
)
from gnsmall_keras.models.plain import PlainBranches

CASES = {
    "primary": (BranchedConv2D, {"filters": 6}),
    "primary with identity": (BranchedConv2D, {"filters": 8, "identity": True}),
    "stem": (BranchedConv2D, {"filters": 5, "kernel_size": 3, "branches": 1}),
    "wide with identity": (
        BranchedConv2D,
        {"filters": 8, "kernel_size": 3, "branches": 2, "identity": True},
    ),
    "cheap": (
        BranchedDepthwiseConv2D,
        {"kernel_size": (3, 3), "scale": True, "identity": True},
    ),
    "strided": (
        BranchedDepthwiseConv2D,
        {
            "kernel_size": (3, 3),
            "strides": 2,
            "padding": "valid",
            "scale": True,
        },
    ),
    "strided 5x5": (
        BranchedDepthwiseConv2D,
        {
            "kernel_size": (5, 5),
            "strides": 2,
            "padding": "valid",
            "branches": 1,
        },
    ),
    "gate row": (
        BranchedDepthwiseConv2D,
        {"kernel_size": (1, 5), "branches": 1},
    ),
}
# Odd sides and even ones take different ways.
SHAPES = {"odd": (4, 9, 7, 8), "even": (3, 6, 8, 8), "column": (5, 4, 1, 8)}
SHAPE = SHAPES["odd"]
# On JAX, one by one is the other backends' way, and compiled for long.
ON_JAX = keras.config.backend() == "jax"
AT_ONCE = [
    pytest.param(False, marks=[pytest.mark.slow] if ON_JAX else []),
    True,
]


def _layer(case, shape):
    kind, options = CASES[case]
    layer = kind(**options)
    layer.build(shape)
    randomize(layer, seed=3)
    return layer


def _inputs(shape):
    values = np.random.default_rng(5).normal(0.7, 1.3, shape)
    return values.astype("float32")


@pytest.fixture(params=CASES)
def layer(request):
    return _layer(request.param, SHAPE)


@pytest.fixture
def inputs():
    return _inputs(SHAPE)


def _plain(layer, shape):
    plain = PlainBranches(layer)
    plain.build(shape)
    plain.take_weights(layer)
    return plain


def _oracle(layer, inputs, *, training):
    outputs = _plain(layer, inputs.shape)(inputs, training=training)
    return keras.ops.convert_to_numpy(outputs)


def _by_fast_name(plain, values):
    """Gathers what belongs to the plain branches in the fast layer's shapes.

    Args:
        plain: `PlainBranches`.
        values: of a variable, by its path.
    """
    gathered = {}
    for group, branch in plain.keys:
        for name, variable in plain.variables_of(group, branch).items():
            if variable.path in values:
                gathered.setdefault(name, []).append(values[variable.path])
    return gathered


@pytest.mark.contract
def test_output_in_inference_is_the_sum_of_the_branches(layer, inputs):
    expected = _oracle(layer, inputs, training=False)
    found = keras.ops.convert_to_numpy(layer(inputs))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.contract
@pytest.mark.parametrize("at_once", AT_ONCE)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("case", CASES)
def test_training_is_that_of_the_branches(case, shape, at_once, monkeypatch):
    """Outputs, gradients and moving statistics against branch by branch."""
    if at_once and not ON_JAX:
        pytest.skip("branches are taken at once on JAX alone")
    monkeypatch.setattr(kernels, "is_jax_on_gpu", lambda: at_once)
    shape = SHAPES[shape]
    if CASES[case][1].get("padding") == "valid" and min(shape[1:3]) < 5:
        pytest.skip("the window does not fit into the image")
    layer, inputs = _layer(case, shape), _inputs(shape)
    plain = _plain(layer, shape)
    before = {v.path: keras.ops.convert_to_numpy(v) for v in plain.variables}
    found = training_step(layer, inputs)
    expected = training_step(plain, inputs)
    np.testing.assert_allclose(
        found.outputs, expected.outputs, rtol=1e-4, atol=1e-4
    )
    _assert_near(found.of_inputs, expected.of_inputs)
    pairs = _by_fast_name(plain, expected.gradients)
    for variable in layer.trainable_variables:
        value = found.gradients[variable.path]
        wanted = np.reshape(pairs[variable.name], value.shape)
        _assert_near(value, wanted)
    count = np.prod(found.outputs.shape[:-1])
    moved = _by_fast_name(plain, expected.moved)
    old = _by_fast_name(plain, before)
    for variable in layer.non_trainable_variables:
        value, name = found.moved[variable.path], variable.name
        wanted = np.reshape(moved[name], value.shape)
        if name.endswith("variance"):  # PyTorch's is the unbiased one
            kept = 0.9 * np.reshape(old[name], value.shape)
            wanted = kept + (wanted - kept) * count / (count - 1)
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-5)


def _assert_near(found, expected):
    # A 1x1 depthwise kernel before a BatchNorm has hardly any gradient, of
    # which rounding is a part: so an absolute bound as well.
    bound = 1e-3 * np.abs(expected).max() + 5e-5
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


def test_frozen_layer_uses_and_keeps_its_moving_statistics(layer, inputs):
    layer.trainable = False
    before = [keras.ops.convert_to_numpy(w.value) for w in layer.weights]
    found = keras.ops.convert_to_numpy(layer(inputs, training=True))
    expected = _oracle(layer, inputs, training=False)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    for old, weight in zip(before, layer.weights, strict=True):
        new = keras.ops.convert_to_numpy(weight.value)
        np.testing.assert_array_equal(old, new)


def test_merged_layer_is_one_convolution(layer, inputs):
    kernel, bias = layer.merged()
    if isinstance(layer, BranchedConv2D):
        found = keras.ops.conv(inputs, kernel, 1, "same") + bias
    else:
        found = bias + keras.ops.depthwise_conv(
            inputs, kernel, layer.strides, layer.padding
        )
    expected = _oracle(layer, inputs, training=False)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(found), expected, rtol=1e-4, atol=1e-4
    )


def test_layer_comes_back_from_its_config(layer, inputs):
    twin = type(layer).from_config(layer.get_config())
    assert twin.get_config() == layer.get_config()
    assert layer(inputs).shape == layer.compute_output_shape(SHAPE)
    assert keras.layers.deserialize(keras.layers.serialize(layer)) is not None


def test_half_precision_keeps_float32_statistics(inputs):
    layer = BranchedConv2D(6, dtype="mixed_float16")
    outputs = layer(inputs, training=True)
    assert keras.backend.standardize_dtype(outputs.dtype) == "float16"
    assert layer.conv_moving_variance.dtype == "float32"


def test_identity_needs_equal_channels():
    with pytest.raises(ValueError, match="as many filters as input channels"):
        BranchedConv2D(6, identity=True).build(SHAPE)


def test_strided_layer_needs_padded_input():
    with pytest.raises(ValueError, match="padded by hand"):
        BranchedDepthwiseConv2D((3, 3), strides=2)


def test_initial_weights_follow_the_seed_and_the_fan_out():
    first, second = (
        keras.ops.convert_to_numpy(KaimingNormal(50, seed=1)((100, 100)))
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
    assert first.std() == pytest.approx((2 / 50) ** 0.5, rel=0.02)


def test_a_layer_of_the_same_config_has_its_own_initial_weights():
    layer = keras.layers.Dense(8, kernel_initializer=KaimingNormal(8))
    first, second = layer, keras.layers.Dense.from_config(layer.get_config())
    for one in (first, second):
        one.build((None, 8))
    assert not np.array_equal(first.get_weights()[0], second.get_weights()[0])
    given = KaimingNormal(8, seed=3)
    again = KaimingNormal.from_config(given.get_config())
    np.testing.assert_array_equal(
        *(keras.ops.convert_to_numpy(one((8, 8))) for one in (given, again))
    )
