"""The branched layers against the branches one by one.

The oracle is made of `keras.layers`: a convolution and a BatchNormalization
for every branch, added. Each case is one kind of sum in the networks.
"""

import keras
import numpy as np
import pytest
from support import randomize

from gnsmall_keras.models.layers import (
    BranchedConv2D,
    BranchedDepthwiseConv2D,
    KaimingNormal,
)

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
SHAPE = (4, 9, 7, 8)


@pytest.fixture(params=CASES)
def layer(request):
    kind, options = CASES[request.param]
    layer = kind(**options)
    layer.build(SHAPE)
    randomize(layer, seed=3)
    return layer


@pytest.fixture
def inputs():
    values = np.random.default_rng(5).normal(0.7, 1.3, SHAPE)
    return values.astype("float32")


def _oracle(layer, inputs, *, training):
    """Output, and each branch's BatchNormalization, branch by branch."""
    depthwise = isinstance(layer, BranchedDepthwiseConv2D)
    weights = {
        w.name: keras.ops.convert_to_numpy(w.value) for w in layer.weights
    }
    padding = layer.padding if depthwise else "same"
    strides = layer.strides if depthwise else 1
    branches = [("conv", b) for b in range(layer.branches)]
    branches += [(group, None) for group in layer.groups[1:]]
    total, norms = 0.0, []
    for group, branch in branches:
        y = inputs
        if group == "conv" and depthwise:
            kernel = weights["kernel"][branch][..., None]
            y = keras.ops.depthwise_conv(y, kernel, strides, padding)
        elif group == "conv":
            y = keras.ops.conv(y, weights["kernel"][branch], strides, padding)
        elif padding == "valid":
            top, left = (size // 2 for size in layer.kernel_size)
            y = y[:, top:-top:strides, left:-left:strides]
        if group == "scale":
            y = y * weights["scale_kernel"]
        norm = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
        norm.build(y.shape)
        norm.set_weights(
            [
                weights[f"{group}_{name}"]
                if branch is None
                else weights[f"{group}_{name}"][branch]
                for name in ("gamma", "beta", "moving_mean", "moving_variance")
            ]
        )
        total = total + norm(y, training=training)
        norms.append((group, branch, norm, int(np.prod(y.shape[:-1]))))
    return keras.ops.convert_to_numpy(total), norms


@pytest.mark.backend
@pytest.mark.parametrize("training", [False, True])
def test_output_is_the_sum_of_the_branches(layer, inputs, training):
    expected, _ = _oracle(layer, inputs, training=training)
    found = keras.ops.convert_to_numpy(layer(inputs, training=training))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.backend
def test_moving_statistics_are_pytorchs(layer, inputs):
    """As Keras's, but with the unbiased variance."""
    _, norms = _oracle(layer, inputs, training=True)
    old = {w.name: keras.ops.convert_to_numpy(w.value) for w in layer.weights}
    layer(inputs, training=True)
    for group, branch, norm, count in norms:
        for name in ("moving_mean", "moving_variance"):
            found = keras.ops.convert_to_numpy(
                getattr(layer, f"{group}_{name}").value
            )
            before = old[f"{group}_{name}"]
            if branch is not None:
                found, before = found[branch], before[branch]
            expected = keras.ops.convert_to_numpy(getattr(norm, name).value)
            if name == "moving_variance":
                biased = (expected - 0.9 * before) / 0.1
                expected = 0.9 * before + 0.1 * biased * count / (count - 1)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_frozen_layer_uses_and_keeps_its_moving_statistics(layer, inputs):
    layer.trainable = False
    before = [keras.ops.convert_to_numpy(w.value) for w in layer.weights]
    found = keras.ops.convert_to_numpy(layer(inputs, training=True))
    expected, _ = _oracle(layer, inputs, training=False)
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
    expected, _ = _oracle(layer, inputs, training=False)
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
