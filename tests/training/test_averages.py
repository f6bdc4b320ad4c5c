"""Averages of weights: what is validated, selected and saved."""

import dataclasses

import keras
import numpy as np
import pytest
from support import tiny_network

from gnsmall_keras.config import RunConfig
from gnsmall_keras.models.saving.files import load_model
from gnsmall_keras.recipes import RECIPES
from gnsmall_keras.training import checkpoint
from gnsmall_keras.training import fit as learn
from gnsmall_keras.training import run as fit
from gnsmall_keras.training.optimizers.muon import exchange_averages

CONFIG = RunConfig(epochs=2, batch_size=128)  # 10 steps an epoch
MOMENTUM = 0.75
AVERAGED = dataclasses.replace(RECIPES["quick"], ema_momentum=MOMENTUM)


def _values(variables):
    return [keras.ops.convert_to_numpy(v.value).copy() for v in variables]


@pytest.fixture
def steps(monkeypatch):
    """The trained weights after each step, of runs of a tiny network."""
    found = []
    end = checkpoint.SaveCheckpoints.on_train_batch_end

    def end_and_note(self, batch, logs=None):
        found.append(_values(self.model.student.trainable_variables))
        end(self, batch, logs)

    monkeypatch.setattr(
        checkpoint.SaveCheckpoints, "on_train_batch_end", end_and_note
    )
    monkeypatch.setattr(learn, "create_model", tiny_network)
    return found


@pytest.mark.backend
@pytest.mark.parametrize("select", ["last", "validation"])
def test_the_average_is_kept_and_the_weights_are_trained(
    tmp_path, monkeypatch, steps, select
):
    config = dataclasses.replace(CONFIG, select=select)
    plain = fit.train(config, out=tmp_path / "plain", progress=False)
    expected_steps = steps[:]
    steps.clear()
    monkeypatch.setitem(RECIPES, "quick", AVERAGED)
    record = fit.train(config, out=tmp_path, progress=False)
    # Training is the same, validation is not.
    assert record.history["loss"] == plain.history["loss"]
    assert record.history["val_loss"] != plain.history["val_loss"]
    np.testing.assert_equal(steps, expected_steps)
    averages = [steps[0]]
    for weights in steps[1:]:
        averages.append(
            [
                MOMENTUM * average + (1 - MOMENTUM) * weight
                for average, weight in zip(averages[-1], weights, strict=True)
            ]
        )
    epoch = 1
    if select == "validation":
        epoch = np.argmax(record.history["val_accuracy"])
    model = load_model(tmp_path / record.slug / "model.keras")
    for found, expected in zip(
        _values(model.trainable_variables),
        averages[10 * epoch + 9],
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert record.validation_accuracy == pytest.approx(
        record.history["val_accuracy"][epoch], abs=1e-6
    )


@pytest.mark.backend
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_exchanged_twice_all_is_as_it_was(policy):
    """Also in the optimiser that Keras wraps to scale losses."""
    keras.config.set_dtype_policy(policy)
    try:
        model = tiny_network("gns", classes=10)
        learn.compile_model(model, AVERAGED, steps=9)
    finally:
        keras.config.set_dtype_policy("float32")
    weights = _values(model.trainable_variables)
    exchange_averages(model)
    assert not any(v.any() for v in _values(model.trainable_variables))
    exchange_averages(model)
    np.testing.assert_equal(_values(model.trainable_variables), weights)


def test_runs_without_averages_keep_their_names(monkeypatch):
    before = CONFIG.digest
    monkeypatch.setitem(
        RECIPES, "quick", dataclasses.replace(AVERAGED, ema_momentum=0.0)
    )
    assert CONFIG.digest == before
    monkeypatch.setitem(RECIPES, "quick", AVERAGED)
    assert CONFIG.digest != before
