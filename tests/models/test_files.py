"""Networks written to and read from files."""

import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from support import randomize, run

from gnsmall_keras.models.files import load_model, save_model
from gnsmall_keras.models.ghostnet import ghostnetv3_small

READ_IN_A_FRESH_PROCESS = """
import sys
import numpy as np
import gnsmall_keras
model = gnsmall_keras.load_model(sys.argv[1])
images = np.load(sys.argv[2])
np.save(sys.argv[3], model(images, training=False))
"""


@pytest.fixture(scope="module")
def model():
    model = ghostnetv3_small(0.25)
    randomize(model, seed=2)
    return model


def test_round_trip_in_a_fresh_process(model, tmp_path):
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3))
    images = images.astype("float32")
    np.save(tmp_path / "images.npy", images)
    save_model(model, tmp_path / "model.keras")
    subprocess.run(
        [
            sys.executable,
            "-c",
            READ_IN_A_FRESH_PROCESS,
            tmp_path / "model.keras",
            tmp_path / "images.npy",
            tmp_path / "logits.npy",
        ],
        check=True,
        capture_output=True,
    )
    found = np.load(tmp_path / "logits.npy")
    np.testing.assert_allclose(
        found, run(model, images, training=False), rtol=1e-5, atol=1e-5
    )


def test_saving_keeps_the_old_file_until_the_new_is_whole(
    model, tmp_path, monkeypatch
):
    path = tmp_path / "model.keras"
    path.write_bytes(b"old")

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(keras.Model, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_model(model, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        load_model(tmp_path / "none.keras")


def test_other_suffix_is_refused(tmp_path):
    (tmp_path / "model.h5").write_bytes(b"")
    with pytest.raises(ValueError, match=r"ends in \.keras"):
        load_model(tmp_path / "model.h5")


def test_truncated_file_is_refused(model, tmp_path):
    path = tmp_path / "model.keras"
    save_model(model, path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="truncated"):
        load_model(path)


def test_archive_of_something_else_is_refused(tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match="cannot be loaded by Keras"):
        load_model(path)


def test_model_of_another_task_is_refused(tmp_path):
    path = tmp_path / "model.keras"
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(path)
    with pytest.raises(ValueError, match="not a classifier of RGB images"):
        load_model(path)
