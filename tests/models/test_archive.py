"""Files that declare more than they hold."""

import io
import json
import zipfile

import h5py
import keras
import numpy as np
import pytest

from gnsmall_keras.models.saving import archive
from gnsmall_keras.models.saving.files import load_model


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """The files in the archive of a small classifier."""
    path = tmp_path_factory.mktemp("whole") / "model.keras"
    keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(4, 3),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10, name="dense"),
        ]
    ).save(path)
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def _write(members, path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def _with_units(members, units, *, built=True):
    config = json.loads(members["config.json"])
    for layer in config["config"]["layers"]:
        if layer["class_name"] == "Dense":
            layer["config"]["units"] = units
            if not built:
                del layer["build_config"]
    return {**members, "config.json": json.dumps(config)}


def test_whole_file_loads(members, tmp_path):
    assert load_model(_write(members, tmp_path / "m.keras")).built


@pytest.mark.parametrize("built", [True, False])
def test_layer_larger_than_the_file_is_refused(members, tmp_path, built):
    bomb = _with_units(members, 3 * 10**9, built=built)
    with pytest.raises(ValueError, match=r"at least [\d,]+ parameters"):
        load_model(_write(bomb, tmp_path / "m.keras"))


def test_array_larger_than_the_file_is_refused(members, tmp_path):
    data = io.BytesIO()
    with h5py.File(data, "w") as file:
        file.create_dataset("a", (10**10,), np.float32, chunks=(10**6,))
    bomb = {**members, "model.weights.h5": data.getvalue()}
    with pytest.raises(ValueError, match="arrays of 40,000,000,000 bytes"):
        load_model(_write(bomb, tmp_path / "m.keras"))


def test_archive_that_unpacks_to_too_much_is_refused(
    members, tmp_path, monkeypatch
):
    monkeypatch.setattr(archive, "MAX_BYTES", 10**6)
    bomb = {**members, "assets/zeros": bytes(2 * 10**6)}
    with pytest.raises(ValueError, match="unpacks to"):
        load_model(_write(bomb, tmp_path / "m.keras"))


@pytest.mark.parametrize("text", ["[" * 10**5, "{", "\x00"])
def test_config_that_is_no_json_is_refused(members, tmp_path, text):
    bomb = {**members, "config.json": text}
    with pytest.raises(ValueError, match="cannot be read"):
        load_model(_write(bomb, tmp_path / "m.keras"))


def test_weights_that_are_no_hdf5_are_refused(members, tmp_path):
    bomb = {**members, "model.weights.h5": b"zeros" * 100}
    with pytest.raises(ValueError, match="weights that cannot be read"):
        load_model(_write(bomb, tmp_path / "m.keras"))


@keras.saving.register_keras_serializable("tests")
class _Separable(keras.layers.SeparableConv2D):
    """Of another package, with fewer weights than its config seems to say."""


@pytest.mark.parametrize("layer", [keras.layers.SeparableConv2D, _Separable])
def test_separable_convolutions_of_large_kernels_load(layer, tmp_path):
    network = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            *(layer(192, 5, name=f"s{index}") for index in range(6)),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )
    network.save(tmp_path / "m.keras")
    assert load_model(tmp_path / "m.keras").count_params() == (
        network.count_params()
    )


def test_channels_may_be_first():
    """The last axis is an image's width there, not its channels."""
    config = {"filters": 2, "kernel_size": [3, 3]}
    layer = {"module": "keras.layers", "class_name": "Conv2D"}
    shape = {"input_shape": [None, 3, 8, 5000]}
    for order, channels in (("channels_first", 3), ("channels_last", 5000)):
        found = archive._least_parameters(
            {
                **layer,
                "config": {**config, "data_format": order},
                "build_config": shape,
            }
        )
        assert found == 2 * 9 * channels
