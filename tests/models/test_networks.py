"""Sizes and fusion of every published network, and networks between them."""

import keras
import numpy as np
import pytest
from support import (
    randomize,
    relative_error,
    run,
    skip_unless_all_on_jax,
)

from gnsmall_keras.distill.losses import LabelCrossEntropy
from gnsmall_keras.evaluation import count_macs, count_parameters
from gnsmall_keras.models.deploy import to_deploy
from gnsmall_keras.models.ghostnet import ghostnetv3, ghostnetv3_small
from gnsmall_keras.models.registry import create_model
from gnsmall_keras.models.spec import COUNTS, PAPER_WIDTHS

# Deployed MACs as published, in millions; the counts pin the exact numbers.
PUBLISHED_WIDTHS = {0.25, 0.5, 0.75, *PAPER_WIDTHS}


@pytest.fixture(scope="module", params=COUNTS, ids=str)
def network(request):
    name, width = request.param
    model = create_model(name, width=width)
    randomize(model, seed=1)
    return COUNTS[request.param], model, to_deploy(model)


def test_every_published_width_is_pinned():
    assert {
        width for name, width in COUNTS if name == "gns"
    } == PUBLISHED_WIDTHS
    assert ("gnd", 1.0) in COUNTS


def test_sizes_are_the_pinned_ones(network):
    counts, model, deployed = network
    assert count_parameters(model) == counts.parameters
    assert count_parameters(deployed) == counts.deployed_parameters
    assert count_macs(deployed) == counts.deployed_macs


def test_fused_equals_branched(network):
    _, model, deployed = network
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3))
    images = images.astype("float32")
    expected = run(model, images, training=False)
    found = run(deployed, images, training=False)
    assert relative_error(found, expected) <= 1e-5


def test_fused_network_has_layers_of_keras_alone():
    deployed = to_deploy(ghostnetv3_small(0.25))
    assert all(
        type(layer).__module__.startswith("keras.") for layer in deployed.layers
    )


def test_to_deploy_leaves_its_model_alone():
    model = ghostnetv3_small(0.25)
    before = model.get_weights()
    to_deploy(model)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_to_deploy_of_a_fused_model_is_a_copy():
    deployed = to_deploy(ghostnetv3_small(0.25))
    again = to_deploy(deployed)
    assert again is not deployed
    for old, new in zip(
        deployed.get_weights(), again.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(old, new)


def test_batch_of_one_keeps_its_axis():
    image = np.zeros((1, 32, 32, 3), "float32")
    assert run(ghostnetv3_small(0.25), image, training=False).shape == (1, 10)


@pytest.mark.backend
@pytest.mark.parametrize("width", [0.35, 0.9, 1.15])
def test_odd_widths_train_a_step_and_fuse(width):
    if width != 0.35:
        skip_unless_all_on_jax()
    model = ghostnetv3_small(width)
    model.compile(
        optimizer="sgd",
        loss=LabelCrossEntropy(),
        jit_compile=keras.config.backend() == "jax",
        run_eagerly=keras.config.backend() != "jax",
    )
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3))
    images = images.astype("float32")
    before = model.get_layer("stem").get_weights()
    loss = model.train_on_batch(images, np.arange(4))
    assert np.isfinite(loss)
    after = model.get_layer("stem").get_weights()
    for old, new in zip(before, after, strict=True):
        assert not np.array_equal(old, new)
    randomize(model, seed=1)
    expected = run(model, images, training=False)
    found = run(to_deploy(model), images, training=False)
    assert relative_error(found, expected) <= 1e-5


@pytest.mark.parametrize("width", [0, -1.0, float("nan"), "1.0", True, None])
def test_width_must_be_a_number_above_zero(width):
    with pytest.raises(ValueError, match="must be a finite number > 0"):
        ghostnetv3_small(width)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 1}, "classes"),
        ({"classes": 2.5}, "classes"),
        ({"head_units": 0}, "head_units"),
        ({"input_shape": (28, 28, 3)}, "divisible by 8"),
        ({"input_shape": (32, 32)}, "input_shape"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ghostnetv3_small(0.25, **options)


def test_gnd_needs_sides_its_gates_can_halve():
    assert ghostnetv3(0.25, input_shape=(64, 64, 3)).output_shape == (None, 10)
    with pytest.raises(ValueError, match="divisible by 32"):
        ghostnetv3(0.25, input_shape=(48, 48, 3))


def test_unknown_model_names_the_known_ones():
    with pytest.raises(ValueError, match="gnd.*gns.*Received: 'resnet'"):
        create_model("resnet")


def test_to_deploy_refuses_what_is_not_functional():
    with pytest.raises(ValueError, match="functional"):
        to_deploy(keras.layers.ReLU())
