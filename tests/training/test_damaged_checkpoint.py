"""A damaged checkpoint gives way to the one before it."""

import io
import json

import keras
import numpy as np
import pytest

from gnsmall_keras.training.checkpoint import (
    Progress,
    previous_of,
    restore_checkpoint,
    save_checkpoint,
)

pytestmark = pytest.mark.any_backend

IDENTITY = {"seed": 0}


@pytest.fixture(scope="module")
def model():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", loss=keras.losses.MeanSquaredError())
    model.optimizer.build(model.trainable_variables)
    return model


def _saved(model, path):
    """Two checkpoints, of one and of two epochs; returns the newer's bytes."""
    for epochs in (1, 2):
        history = {"loss": [0.0] * epochs}
        save_checkpoint(
            model, Progress(epochs, history, 1.0), path, identity=IDENTITY
        )
    return path.read_bytes()


def _npz(**arrays):
    data = io.BytesIO()
    np.savez(data, **arrays)
    return data.getvalue()


def _npy():
    data = io.BytesIO()
    np.save(data, np.zeros(3))
    return data.getvalue()


def _flipped(data, seed):
    generator = np.random.default_rng(seed)
    damaged = np.frombuffer(data, np.uint8).copy()
    damaged[generator.integers(len(damaged), size=40)] ^= 255
    return damaged.tobytes()


DAMAGES = {
    "empty": lambda data: b"",
    "one byte": lambda data: data[:1],
    "half": lambda data: data[: len(data) // 2],
    "cut": lambda data: data[:-30],
    "text": lambda data: b"no zip at all\n" * 9,
    "an array": lambda data: _npy(),
    "a pickle": lambda data: b"\x80\x04N.",
    "no state": lambda data: _npz(a=np.zeros(1)),
    "state of a list": lambda data: _npz(state=np.array("[1, 2]")),
    "deep state": lambda data: _npz(state=np.array("[" * 10**5)),
    "other state": lambda data: _npz(state=np.array(json.dumps({"a": 1}))),
    **{
        f"flipped {seed}": lambda data, seed=seed: _flipped(data, seed)
        for seed in range(20)
    },
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint_gives_way_to_the_one_before(
    model, tmp_path, damage
):
    path = tmp_path / "checkpoint.npz"
    whole = _saved(model, path)
    path.write_bytes(DAMAGES[damage](whole))
    with pytest.warns(UserWarning, match=r"checkpoint\.npz is damaged"):
        progress = restore_checkpoint(model, path, identity=IDENTITY)
    assert progress.epochs == 1


def test_two_damaged_checkpoints_are_named(model, tmp_path):
    path = tmp_path / "checkpoint.npz"
    _saved(model, path)
    for file in (path, previous_of(path)):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="is damaged and .* is damaged"):
        restore_checkpoint(model, path, identity=IDENTITY)


def test_damaged_checkpoint_does_not_take_the_place_of_a_whole_one(
    model, tmp_path
):
    path = tmp_path / "checkpoint.npz"
    _saved(model, path)
    path.write_bytes(b"")
    save_checkpoint(model, Progress(3, {}, 1.0), path, identity=IDENTITY)
    path.write_bytes(b"")
    with pytest.warns(UserWarning, match="damaged"):
        assert restore_checkpoint(model, path, identity=IDENTITY).epochs == 1
