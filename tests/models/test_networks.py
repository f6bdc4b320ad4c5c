"""Sizes and fusion of every published network, and networks between them."""

import keras
import numpy as np
import pytest
from support import contract_but_on_jax, randomize, relative_error, run

from gnsmall_keras.distill.losses import LabelCrossEntropy
from gnsmall_keras.models.counting import (
    count_blocks,
    count_macs,
    count_parameters,
)
from gnsmall_keras.models.deploy import to_deploy
from gnsmall_keras.models.ghostnet import ghostnetv3, ghostnetv3_small
from gnsmall_keras.models.keras_private import parts_of
from gnsmall_keras.models.layers import BranchedConv2D
from gnsmall_keras.models.registry import create_model
from gnsmall_keras.models.spec import COUNTS, PAPER_WIDTHS

pytestmark = pytest.mark.any_backend

# GN-S counted with the original code, fused by hand: parameters, deployed
# parameters, deployed multiply-accumulates in millions.
PUBLISHED = {
    0.25: (91_494, 79_336, 0.98),
    0.5: (195_038, 160_850, 2.82),
    0.75: (327_150, 260_200, 5.49),
    1.0: (483_554, 374_174, 8.96),
    1.3: (712_198, 536_712, 14.31),
    1.6: (973_606, 719_316, 20.83),
    1.9: (1_277_070, 927_000, 29.02),
    2.2: (1_617_674, 1_159_656, 38.01),
    2.8: (2_426_850, 1_701_424, 59.47),
    3.4: (3_380_066, 2_331_712, 86.63),
}


# The others are between these.
QUICK = {
    *(("gns", width) for width in (0.25, 1.0, 2.8)),
    ("gns_nogate", 0.5),
    ("gnd", 1.0),
}


@pytest.fixture(scope="module")
def small():
    return ghostnetv3_small(0.25)


@pytest.fixture(scope="module")
def small_deployed(small):
    return to_deploy(small)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(key, marks=[] if key in QUICK else pytest.mark.slow)
        for key in COUNTS
    ],
    ids=str,
)
def network(request):
    name, width = request.param
    model = create_model(name, width=width)
    randomize(model, seed=1)
    return COUNTS[request.param], model, to_deploy(model)


def test_every_published_width_is_pinned():
    widths = {width for name, width in COUNTS if name == "gns"}
    assert widths == set(PUBLISHED)
    assert set(PAPER_WIDTHS) <= widths
    assert COUNTS["gnd", 1.0].parameters == 6_860_838


def test_a_network_without_gates_lacks_these_alone():
    with_gates, without = (
        {layer.name for layer in create_model(name, width=0.25).layers}
        for name in ("gns", "gns_nogate")
    )
    assert without < with_gates
    left_out = {name for name in with_gates if "_gate_" in name}
    products = {name for name in with_gates if "_ghost1_multiply" in name}
    assert with_gates - without == left_out | products
    assert len(products) == 8


@pytest.mark.parametrize("width", PUBLISHED)
def test_pins_are_the_published_numbers(width):
    counts = COUNTS["gns", width]
    macs = round(counts.deployed_macs / 1e6, 2)
    found = (counts.parameters, counts.deployed_parameters, macs)
    assert found == PUBLISHED[width]


def test_sizes_are_the_pinned_ones(network):
    counts, model, deployed = network
    assert count_parameters(model) == counts.parameters
    assert count_parameters(deployed) == counts.deployed_parameters
    assert count_macs(deployed) == counts.deployed_macs


def test_blocks_add_up_to_the_network(network):
    counts, model, deployed = network
    blocks, fused = count_blocks(model), count_blocks(deployed)
    assert sum(block.parameters for block in blocks) == counts.parameters
    assert (
        sum(block.parameters for block in fused) == counts.deployed_parameters
    )
    assert sum(block.macs for block in fused) == counts.deployed_macs
    assert [block[:2] for block in fused] == [block[:2] for block in blocks]


def test_blocks_are_in_the_network_s_order_with_their_shapes():
    blocks = count_blocks(to_deploy(ghostnetv3_small(1.0)))
    names = [block.name for block in blocks]
    assert names[:4] == ["images", "stem", "blocks_0_0", "blocks_1_0"]
    assert names[-4:] == ["blocks_7_0", "head", "classifier", "logits"]
    found = {block.name: block for block in blocks}
    # By hand: a 3 x 3 convolution of 3 channels to 16, with a bias.
    assert found["stem"] == ("stem", (32, 32, 16), 448, 32 * 32 * 432)
    # The last of its stage, 64 channels in the paper's table.
    assert found["blocks_5_2"].output_shape == (8, 8, 64)
    assert found["logits"] == ("logits", (10,), 0, 0)


def test_fused_equals_branched(network):
    _, model, deployed = network
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3))
    images = images.astype("float32")
    expected = run(model, images, training=False)
    found = run(deployed, images, training=False)
    assert relative_error(found, expected) <= 1e-5


def test_fused_network_has_layers_of_keras_alone(small_deployed):
    assert all(
        type(layer).__module__.startswith("keras.")
        for layer in small_deployed.layers
    )


def test_to_deploy_leaves_its_model_alone(small):
    before = small.get_weights()
    to_deploy(small)
    for old, new in zip(before, small.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_to_deploy_of_a_fused_model_is_a_copy(small_deployed):
    again = to_deploy(small_deployed)
    assert again is not small_deployed
    for old, new in zip(
        small_deployed.get_weights(), again.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(old, new)


@pytest.mark.usefixtures("float64")
def test_fused_equals_branched_in_float64():
    model = ghostnetv3_small(0.25)
    randomize(model, seed=1)
    images = np.random.default_rng(0).normal(0.0, 1.0, (2, 32, 32, 3))
    expected = run(model, images, training=False)
    found = run(to_deploy(model), images, training=False)
    assert relative_error(found, expected) <= 1e-12


def test_batch_of_one_keeps_its_axis(small):
    image = np.zeros((1, 32, 32, 3), "float32")
    assert run(small, image, training=False).shape == (1, 10)


odd_widths = pytest.mark.parametrize(
    "width",
    [0.35, *(pytest.param(w, marks=pytest.mark.slow) for w in (0.9, 1.15))],
)


@pytest.mark.slow  # test_plain.py has every gradient of such a width
@pytest.mark.backend
@odd_widths
def test_odd_widths_train_a_step(width):
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


@contract_but_on_jax
@odd_widths
def test_odd_widths_fuse(width):
    model = ghostnetv3_small(width)
    randomize(model, seed=1)
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3))
    images = images.astype("float32")
    expected = run(model, images, training=False)
    found = run(to_deploy(model), images, training=False)
    assert relative_error(found, expected) <= 1e-5


@pytest.mark.parametrize("width", [0, -1.0, float("nan"), "1.0", True, None])
def test_width_must_be_a_number_above_zero(width):
    with pytest.raises(ValueError, match=r"must be in \(0, 32\]"):
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


def test_options_may_be_of_numpy():
    options = {"width": np.float32(0.25), "head_units": np.int64(64)}
    model = ghostnetv3_small(classes=np.int64(3), **options)
    expected = ghostnetv3_small(0.25, head_units=64, classes=3)
    for one, other in zip(model.layers, expected.layers, strict=True):
        assert one.output.shape == other.output.shape
        filters = one.get_config().get("filters", 0)
        assert type(filters) is int


def test_gnd_needs_sides_its_gates_can_halve():
    assert ghostnetv3(0.25, input_shape=(64, 64, 3)).output_shape == (None, 10)
    with pytest.raises(ValueError, match="divisible by 32"):
        ghostnetv3(0.25, input_shape=(48, 48, 3))


def test_unknown_model_names_the_known_ones():
    with pytest.raises(ValueError, match="gnd.*gns.*Received: 'resnet'"):
        create_model("resnet")


def test_to_deploy_takes_a_sequential_model():
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="conv")]
    )
    images = np.ones((2, 8, 8, 3), "float32")
    np.testing.assert_allclose(
        run(to_deploy(model), images, training=False),
        run(model, images, training=False),
        rtol=1e-6,
    )


def test_to_deploy_says_what_to_give():
    with pytest.raises(ValueError, match=r"Begin it with keras\.Input"):
        to_deploy(keras.Sequential([keras.layers.Dense(2)]))


def test_to_deploy_refuses_what_is_not_functional():
    with pytest.raises(ValueError, match="functional"):
        to_deploy(keras.layers.ReLU())


def _around(network):
    inputs = keras.Input((32, 32, 3))
    return keras.Model(inputs, network(keras.layers.Rescaling(0.5)(inputs)))


def _inside(network):
    return keras.Sequential([keras.Input((32, 32, 3)), network])


@pytest.mark.parametrize(
    "wrap", [_inside, _around, lambda network: _around(_inside(network))]
)
def test_networks_inside_of_a_model_are_fused(small, wrap):
    randomize(small, seed=1)
    model = wrap(small)
    deployed = to_deploy(model)
    assert all(
        type(layer).__module__.startswith("keras.")
        for layer in parts_of(deployed)
    )
    assert count_macs(deployed) == COUNTS["gns", 0.25].deployed_macs
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3))
    images = images.astype("float32")
    expected = run(model, images, training=False)
    found = run(deployed, images, training=False)
    assert relative_error(found, expected) <= 1e-5


def test_branches_that_cannot_be_fused_are_named():
    frames = keras.layers.TimeDistributed(BranchedConv2D(4), name="frames")
    inputs = keras.Input((2, 8, 8, 3))
    with pytest.raises(ValueError, match=r"'frames', a TimeDistributed.*Fuse"):
        to_deploy(keras.Model(inputs, frames(inputs)))


def test_to_deploy_keeps_layers_frozen():
    network = ghostnetv3_small(0.25)
    for layer in network.layers:
        layer.trainable = layer.name == "classifier"
    assert len(to_deploy(network).trainable_weights) == 2
