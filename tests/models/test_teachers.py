"""The teachers: their sizes, and that they are the original networks."""

import keras
import numpy as np
import pytest
from support import find_fixture, load_fixture, randomize, relative_error, run

from gnsmall_keras.models.catalogue import NETWORKS
from gnsmall_keras.models.counting import count_macs, count_parameters
from gnsmall_keras.models.registry import BUILDERS, create_model
from gnsmall_keras.models.torch.weights import (
    load_torch_weights,
    to_torch_state_dict,
)

pytestmark = pytest.mark.any_backend

# As the originals' code counts them.
PUBLISHED = {
    "resnet18": 11_173_962,
    "resnet34": 21_282_122,
    "resnet50": 23_520_842,
    "vgg13_bn": 28_334_410,
    "densenet161": 26_482_570,
    "inception_v3": 21_638_954,
    "efficientnetv2_s": 20_190_298,
    "resnet18_nopool": 11_173_962,
    "wrn_16_4": 2_748_890,
    "wrn_28_10": 36_479_194,
}
# Those with outputs of the original code.
ORIGINALS = (
    "resnet18",
    "resnet34",
    "resnet50",
    "vgg13_bn",
    "densenet161",
    "inception_v3",
)
# Those that are built within a second.
QUICK = {"resnet18", "resnet18_nopool", "vgg13_bn", "wrn_16_4"}


def _quick(names):
    """Marks all others as slow."""
    return [
        pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
        for name in names
    ]


def test_every_network_is_pinned():
    assert list(BUILDERS) == list(NETWORKS)
    ghostnets = {"gns", "gns_nogate", "gnd"}
    assert set(PUBLISHED) | ghostnets == set(NETWORKS)


@pytest.mark.parametrize("name", _quick(PUBLISHED))
def test_sizes_are_the_pinned_ones(name):
    model = create_model(name)
    assert count_parameters(model) == PUBLISHED[name]
    assert NETWORKS[name].parameters == PUBLISHED[name]
    assert NETWORKS[name].macs == count_macs(model)
    assert model.output_shape == (None, 10)


@pytest.mark.backend
@pytest.mark.parametrize("name", _quick(ORIGINALS))
def test_logits_are_the_originals(name):
    path = find_fixture(name)
    if path is None:
        pytest.skip(f"no fixture {name} at hand")
    fixture = load_fixture(path)
    model = create_model(name)
    load_torch_weights(model, fixture.state)
    assert count_parameters(model) == fixture.trainable_parameters
    logits = run(model, fixture.arrays["images"], training=False)
    assert relative_error(logits, fixture.arrays["eval_logits"]) <= 1e-3
    assert set(to_torch_state_dict(model)) == set(fixture.state)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gns", {"width": 0.5}),
        ("resnet18", {}),
        ("wrn_16_4", {"classes": 7}),
        pytest.param(
            "efficientnetv2_s", {"form": "torch"}, marks=pytest.mark.slow
        ),
    ],
)
def test_a_state_dict_of_ours_reads_back_to_the_bit(name, options):
    model = create_model(name, **options)
    randomize(model, seed=3)
    other = create_model(name, **options)
    load_torch_weights(other, to_torch_state_dict(model))
    for saved, read in zip(
        model.get_weights(), other.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(saved, read)


@pytest.mark.slow
def test_both_forms_of_efficientnet_see_the_same_image():
    """Both undo our normalisation before their own."""
    images = np.random.default_rng(0).normal(size=(1, 32, 32, 3))
    pixels = []
    for form in ("keras", "torch"):
        model = create_model("efficientnetv2_s", form=form)
        enlarged = model.get_layer("enlarge").output
        seen = keras.Model(model.input, enlarged).predict_on_batch(images)
        if form == "keras":
            seen = seen / 255.0
        else:
            mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
            seen = seen * std + mean
        pixels.append(seen)
    np.testing.assert_allclose(pixels[0], pixels[1], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet19", {}, "must be one of"),
        ("resnet18", {"width": 2.0}, r"takes the options .*width"),
        ("resnet18", {"classes": 1}, "whole number >= 2"),
        ("vgg13_bn", {"input_shape": (28, 28, 3)}, "sides >= 32"),
        ("resnet18", {"input_shape": (32, 32, 1)}, r"\(height, width, 3\)"),
        ("efficientnetv2_s", {"form": "timm"}, '"keras" or "torch"'),
        (
            "efficientnetv2_s",
            {"form": "torch", "weights": "imagenet"},
            "load_torch_weights",
        ),
        ("efficientnetv2_s", {"weights": "none.h5"}, "cannot be had"),
    ],
)
def test_bad_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, **options)


def test_classes_may_be_of_numpy():
    classes = np.arange(5).max() + 1
    assert create_model("wrn_16_4", classes=classes).output_shape == (None, 5)
