"""The whole network against itself with every branch computed apart."""

import contextlib

import keras
import numpy as np
import pytest
from support import (
    contract_but_on_jax,
    randomize,
    run,
    slow_on_tensorflow,
    training_step,
)

from gnsmall_keras import ghostnetv3_small
from gnsmall_keras.models.plain import PlainBranches, to_branches

BATCH = 16


def _steps(dtype):
    model = ghostnetv3_small(0.35)
    randomize(model, seed=1)
    plain = to_branches(model)
    before = {
        weight.path: keras.ops.convert_to_numpy(weight)
        for weight in model.non_trainable_variables
    }
    shape = (BATCH, 32, 32, 3)
    images = np.random.default_rng(2).normal(size=shape).astype(dtype)
    found = training_step(model, images)
    with _op_by_op():
        expected = training_step(plain, images)
    return model, plain, found, expected, before


def _op_by_op():
    """On JAX, where a graph of all branches compiles for half an hour."""
    if keras.config.backend() != "jax":
        return contextlib.nullcontext()
    import jax

    return jax.disable_jit()


def _pairs(model, plain, found, expected):
    """Yields layer, name and both values of what the branches have."""
    for layer in model.layers:
        twin = plain.get_layer(layer.name)
        if not isinstance(twin, PlainBranches):
            continue
        branches = [twin.variables_of(*key) for key in twin.keys]
        for weight in layer.weights:
            if weight.path not in found:
                continue
            value = found[weight.path]
            others = [
                expected[variables[weight.name].path]
                for variables in branches
                if weight.name in variables
            ]
            yield layer, weight.name, value, np.reshape(others, value.shape)


def _assert_statistics(model, plain, found, expected, before, tolerance):
    for layer, name, value, other in _pairs(
        model, plain, found.moved, expected.moved
    ):
        if name.endswith("variance"):  # PyTorch's is the unbiased one
            count = BATCH * np.prod(layer.output.shape[1:3])
            kept = 0.9 * before[getattr(layer, name).path]
            other = kept + (other - kept) * count / (count - 1)
        bound = tolerance * np.abs(other).max()
        np.testing.assert_allclose(
            value, other, rtol=0, atol=bound, err_msg=f"{layer.name} {name}"
        )


@slow_on_tensorflow
@contract_but_on_jax
def test_training_step_is_that_of_the_branches():
    """Loss and BatchNorm statistics in float32.

    Gradients are compared layer by layer, and below in float64: in float32
    rounding decides which side of a ReLU's kink some activations are on.
    """
    model, plain, found, expected, before = _steps("float32")
    assert _loss(found.outputs) == pytest.approx(
        _loss(expected.outputs), rel=1e-5
    )
    _assert_statistics(model, plain, found, expected, before, 2e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_training_step_is_that_of_the_branches_in_float64():
    """On TensorFlow: elsewhere Keras normalises batches in float32."""
    model, plain, found, expected, before = _steps("float64")
    np.testing.assert_allclose(found.outputs, expected.outputs, atol=1e-10)
    _assert_statistics(model, plain, found, expected, before, 1e-10)
    for layer, name, value, other in _pairs(
        model, plain, found.gradients, expected.gradients
    ):
        np.testing.assert_allclose(
            value, other, rtol=0, atol=1e-8, err_msg=f"{layer.name} {name}"
        )


@pytest.mark.any_backend
def test_the_plain_network_has_the_same_outputs():
    model = ghostnetv3_small(0.35)
    randomize(model, seed=1)
    images = np.random.default_rng(2).normal(size=(4, 32, 32, 3))
    images = images.astype("float32")
    found = run(model, images, training=False)
    expected = run(to_branches(model), images, training=False)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def _loss(logits):
    """Mean cross-entropy of made-up labels."""
    largest = logits.max(axis=1, keepdims=True)
    normalizer = np.log(np.exp(logits - largest).sum(axis=1)) + largest[:, 0]
    labels = np.arange(len(logits)) % logits.shape[1]
    return (normalizer - logits[np.arange(len(logits)), labels]).mean()
