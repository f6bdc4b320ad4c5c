"""Networks written to and read from files."""

import importlib.util
import os
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from support import randomize, relative_error, run

from gnsmall_keras.distill.checks import check_teacher, load_teacher
from gnsmall_keras.models.deploy import to_deploy
from gnsmall_keras.models.ghostnet import ghostnetv3_small
from gnsmall_keras.models.saving.files import (
    LABELS_FILE,
    class_names_of,
    load_model,
    save_model,
)

pytestmark = pytest.mark.any_backend

READ_IN_A_FRESH_PROCESS = """
import sys
import keras
import numpy as np
import gnsmall_keras
model = gnsmall_keras.load_model(sys.argv[1])
images = np.load(sys.argv[2])
logits = keras.ops.convert_to_numpy(model(images, training=False))
np.save(sys.argv[3], logits)
"""


@pytest.fixture(scope="module")
def model():
    model = ghostnetv3_small(0.25)
    randomize(model, seed=2)
    return model


def _logits_elsewhere(model, images, folder, backend):
    """What a process of its own, on `backend`, makes of the saved model."""
    np.save(folder / "images.npy", images)
    save_model(model, folder / "model.keras")
    arguments = [
        folder / f"{name}" for name in ("model.keras", "images.npy", "out.npy")
    ]
    subprocess.run(
        [sys.executable, "-c", READ_IN_A_FRESH_PROCESS, *arguments],
        check=True,
        capture_output=True,
        env={**os.environ, "KERAS_BACKEND": backend},
    )
    return np.load(folder / "out.npy")


def _images():
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3))
    return images.astype("float32")


@pytest.mark.slow  # below another process reads it on another backend
def test_round_trip_in_a_fresh_process(model, tmp_path):
    backend = keras.config.backend()
    np.testing.assert_allclose(
        _logits_elsewhere(model, _images(), tmp_path, backend),
        run(model, _images(), training=False),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.backend
@pytest.mark.parametrize(
    "backend",
    ["tensorflow", pytest.param("jax", marks=pytest.mark.slow), "torch"],
)
def test_a_network_is_the_same_on_the_other_backends(model, backend, tmp_path):
    if backend == keras.config.backend():
        pytest.skip("the backend that writes")
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    found = _logits_elsewhere(model, _images(), tmp_path, backend)
    expected = run(model, _images(), training=False)
    assert relative_error(found, expected) <= 1e-4


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


def _classifier(shape=(32, 32, 3), *, activation=None):
    return keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10, activation=activation),
        ]
    )


def test_any_classifier_of_the_right_shapes_is_a_teacher(tmp_path):
    teacher = _classifier()
    teacher.save(tmp_path / "model.keras")
    for path in (tmp_path, tmp_path / "model.keras"):  # a run's folder, a file
        loaded = load_teacher(path, classes=10)
        for saved, read in zip(
            teacher.get_weights(), loaded.get_weights(), strict=True
        ):
            np.testing.assert_array_equal(saved, read)


@pytest.mark.backend
@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (_classifier(activation="softmax"), "logits are needed"),
        (
            keras.Sequential([_classifier(), keras.layers.Softmax()]),
            "logits are needed",
        ),
        (_classifier((64, 64, 3)), "Resizing before it"),
    ],
    ids=["softmax", "softmax layer", "size"],
)
def test_teacher_that_does_not_fit_is_refused(teacher, message):
    with pytest.raises(ValueError, match=message):
        check_teacher(teacher, classes=10, input_shape=(32, 32, 3))


def test_teacher_of_other_classes_is_refused():
    with pytest.raises(ValueError, match="has 10 classes, the student 100"):
        check_teacher(_classifier(), classes=100, input_shape=(32, 32, 3))


def test_teacher_may_take_images_of_any_size():
    teacher = _classifier((None, None, 3))
    check_teacher(teacher, classes=10, input_shape=(32, 32, 3))


@pytest.mark.parametrize("what", ["network", "names"])
@pytest.mark.parametrize("member", ["config.json", "model.weights.h5"])
def test_a_changed_byte_is_a_damaged_file(model, tmp_path, member, what):
    """The archive's own sums notice it."""
    path = tmp_path / "model.keras"
    save_model(model, path, ["cat", "dog"])
    data = bytearray(path.read_bytes())
    member = LABELS_FILE if what == "names" else member
    place = data.index(member.encode()) + len(member)
    data[place : place + 40] = bytes(40)
    path.write_bytes(data)
    read = class_names_of if what == "names" else load_model
    with pytest.raises(ValueError, match="is damaged") as error:
        read(path)
    assert "\n" not in str(error.value)


class _Optimizer(keras.optimizers.SGD):
    """Keras does not know it."""


@pytest.mark.parametrize("kind", ["functional", "sequential"])
def test_what_a_model_is_compiled_with_need_not_be_registered(kind, tmp_path):
    def loss(labels, logits):
        return keras.losses.sparse_categorical_crossentropy(
            labels, logits, from_logits=True
        )

    layers = [keras.layers.Flatten(), keras.layers.Dense(2)]
    network = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    if kind != "sequential":
        network = to_deploy(network)  # a functional one
    network.compile(_Optimizer(), loss=loss, metrics=[lambda y, z: 0.0])
    save_model(network, tmp_path / "model.keras")
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 3))
    expected = run(network, images, training=False)
    for found in (load_model(tmp_path / "model.keras"), to_deploy(network)):
        assert not found.compiled
        np.testing.assert_allclose(
            run(found, images, training=False), expected, rtol=1e-6
        )
    assert network.compiled
    assert network.loss is loss
