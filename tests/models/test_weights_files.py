"""`create_model(weights=)`: a file of the same network, or a clear refusal."""

import keras
import numpy as np
import pytest

import gnsmall_keras as gns
from gnsmall_keras.models import registry
from gnsmall_keras.models.catalogue import NETWORKS
from gnsmall_keras.models.saving.files import load_weights, save_model

pytestmark = pytest.mark.backend


def _small(*, classes=10, units=4):
    layers = [
        keras.Input((8, 8, 3)),
        keras.layers.Flatten(),
        keras.layers.Dense(units),
        keras.layers.Dense(classes),
    ]
    return keras.Sequential(layers)


@pytest.fixture(autouse=True)
def _small_resnet(monkeypatch):
    monkeypatch.setitem(registry.BUILDERS, "resnet18", _small)


@pytest.fixture(params=["model.keras", "model.weights.h5"])
def file(request, tmp_path):
    model = _small()
    path = tmp_path / request.param
    if path.suffix == ".keras":
        save_model(model, path)
    else:
        model.save_weights(path)
    return path, model.get_weights()


def test_a_teacher_gets_the_weights_of_a_file(file):
    path, expected = file
    for place in (path, str(path)):
        found = gns.create_model("resnet18", weights=place).get_weights()
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("options", [{"classes": 5}, {"units": 3}])
def test_a_file_of_another_network_is_refused(file, options):
    path, _ = file
    with pytest.raises(ValueError, match=path.name):
        gns.create_model("resnet18", weights=path, **options)


def test_a_refused_file_leaves_the_model_as_it_was(file):
    model = _small(units=3)
    before = model.get_weights()
    with pytest.raises(ValueError, match="model"):
        load_weights(model, file[0])
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_none_is_random_weights():
    assert gns.create_model("resnet18", weights=None).count_params()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("imagenet", "None or a file.*Received: 'imagenet'"),
        ("cifar10", "of GhostNetV3-Small alone"),
        ("teacher.pth", "load_torch_weights"),
        ("none.keras", "must be a file that exists"),
        ("none.weights.h5", "must be a file that exists"),
    ],
)
def test_other_weights_are_refused_with_the_cure(weights, message):
    with pytest.raises(ValueError, match=message):
        gns.create_model("resnet18", weights=weights)


def test_damaged_files_are_refused(tmp_path):
    for name in ("a.keras", "a.weights.h5"):
        (tmp_path / name).write_bytes(b"not weights")
        with pytest.raises(ValueError, match=name):
            gns.create_model("resnet18", weights=tmp_path / name)


def test_networks_are_listed_with_their_facts():
    listed = gns.list_models()
    assert [*listed] == [*registry.BUILDERS]
    assert listed["wrn_16_4"].parameters == 2_748_890
    listed.clear()
    assert NETWORKS, "a copy"
