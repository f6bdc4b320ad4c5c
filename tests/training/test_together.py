"""Several runs as one program: each as it would be alone, to rounding."""

import keras
import numpy as np
import pytest
from support import tiny_network

from gnsmall_keras.config import RunConfig, check_together
from gnsmall_keras.models.saving.files import save_model
from gnsmall_keras.records.folders import CHECKPOINT_FILE
from gnsmall_keras.training import checkpoint
from gnsmall_keras.training import fit as learn
from gnsmall_keras.training import run as fit
from gnsmall_keras.training.interruption import TrainingInterrupted
from gnsmall_keras.training.scan import together

on_jax = pytest.mark.skipif(keras.config.backend() != "jax", reason="JAX alone")
pytestmark = pytest.mark.contract
SMOKE = {"width": 0.25, "epochs": 2, "batch_size": 128}
EACH = (
    {"seed": 0},
    {"seed": 1, "peak_learning_rate": 0.05},
    {"seed": 1, "label_smoothing": 0.0},
)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(learn, "create_model", tiny_network)
    monkeypatch.setattr(together, "create_network", learn.create_network)


def _arrays(folder):
    with np.load(folder / CHECKPOINT_FILE) as stored:
        return {n: stored[n] for n in stored if n != "state"}


def _alone(config, out, monkeypatch):
    """The last checkpoint of a run that is trained by itself."""
    with monkeypatch.context() as patch:
        patch.setattr(fit.checkpoint, "remove", lambda path: None)
        record = fit.train(config, out=out, progress=False, loop="chunks")
    return record, _arrays(out / config.slug)


def _assert_close(found, expected):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(
            found[name], values, rtol=1e-5, atol=1e-6, err_msg=name
        )


def _stop_together(configs, out, monkeypatch):
    """Stops runs in their first epoch."""

    class Stop(fit.StopRequest):
        def __init__(self, seconds):
            super().__init__(1.0)

        @property
        def out_of_time(self):
            return self.steps >= 12

    with monkeypatch.context() as patch:
        patch.setattr(together, "StopRequest", Stop)
        with pytest.raises(TrainingInterrupted):
            together.train_together(configs, out=out, progress=False)


@pytest.mark.parametrize(
    "strategy", [pytest.param("baseline", marks=pytest.mark.slow), "kd"]
)
@on_jax
def test_each_is_as_it_would_be_alone(tmp_path, monkeypatch, strategy):
    configs = [RunConfig(**{**SMOKE, **own}) for own in EACH]
    if strategy == "kd":
        names = []
        for seed in (1, 2):
            keras.utils.set_random_seed(seed)
            path = tmp_path / f"teacher-{seed}.keras"
            save_model(tiny_network("gns", classes=10), path)
            names.append((str(path),))
        weights = (0.1, 0.9)
        configs = [
            RunConfig(
                **{**SMOKE, **own},
                strategy="kd",
                teachers=teachers,
                label_weight=weight,
                temperature=1 + 5 * weight,
            )
            for own, teachers, weight in zip(
                EACH[1:], names, weights, strict=True
            )
        ]
    out = tmp_path / "together"
    assert together.train_together(configs, out=out, progress=False) == {}
    for config in configs:
        record, expected = _alone(config, tmp_path / "alone", monkeypatch)
        _assert_close(_arrays(out / config.slug), expected)
        ended = fit.train(config, out=out, progress=False)
        assert ended.hardware["loop"] == f"chunks, {len(configs)} runs"
        assert ended.history["loss"] == pytest.approx(
            record.history["loss"], abs=2e-6
        )


@pytest.mark.slow
@on_jax
def test_what_goes_on_apart_says_so(tmp_path, monkeypatch):
    """To rounding; in a group of another size, or alone."""
    configs = [RunConfig(**{**SMOKE, **own}) for own in EACH]
    together.train_together(configs, out=tmp_path / "a", progress=False)
    out = tmp_path / "b"

    _stop_together(configs, out, monkeypatch)
    far = {checkpoint.how_far(out / c.slug / CHECKPOINT_FILE) for c in configs}
    assert len(far) == 1
    assert far != {(2, 0)}
    last = fit.train(configs[2], out=out, progress=False)
    assert last.hardware["loop"] == "chunks, 3 runs; then steps"
    together.train_together(configs[:2], out=out, progress=False)
    for config in configs[:2]:
        found = _arrays(out / config.slug)
        _assert_close(found, _arrays(tmp_path / "a" / config.slug))


@on_jax
def test_all_of_them_go_on_bit_for_bit(tmp_path, monkeypatch):
    configs = [RunConfig(**{**SMOKE, **own}) for own in EACH[:2]]
    together.train_together(configs, out=tmp_path / "a", progress=False)
    out = tmp_path / "b"
    _stop_together(configs, out, monkeypatch)
    together.train_together(configs, out=out, progress=False)
    for config in configs:
        found = _arrays(out / config.slug)
        for name, values in _arrays(tmp_path / "a" / config.slug).items():
            np.testing.assert_array_equal(found[name], values)


@on_jax
def test_a_run_that_diverges_does_not_stop_the_others(tmp_path):
    configs = [
        RunConfig(**SMOKE, peak_learning_rate=rate) for rate in (0.05, 1e30)
    ]
    errors = together.train_together(configs, out=tmp_path, progress=False)
    assert list(errors) == [configs[1].slug]
    assert "Lower `peak_learning_rate`" in errors[configs[1].slug]
    record = fit.train(configs[0], out=tmp_path, progress=False)
    assert record.hardware["loop"] == "chunks, 2 runs"


@on_jax
def test_fewer_are_taken_where_memory_is_short(tmp_path, monkeypatch, capsys):
    from jax.errors import JaxRuntimeError

    configs = [RunConfig(**SMOKE, seed=seed) for seed in range(3)]
    sizes = []

    def pretend(experiments, group, errors):
        sizes.append(len(experiments))
        if len(experiments) > 1:
            raise JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(together, "_train_all", pretend)
    together.train_together(configs, out=tmp_path, progress=False)
    assert sizes == [3, 1, 2, 1, 1]
    assert "too many for the memory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("one", "other", "field"),
    [
        ({}, {"width": 0.5}, "width=0.25"),
        ({}, {"epochs": 3}, "epochs=2"),
        ({}, {"recipe": "paper"}, "recipe='quick'"),
        ({}, {"strategy": "kd", "cache": "x"}, "strategy='baseline'"),
        (
            {"strategy": "kd", "teachers": ("y",)},
            {"strategy": "kd", "cache": "x"},
            "teachers=1",
        ),
        ({}, {"devices": 2}, "devices=2"),
        (
            {},
            {"strategy": "assistant", "teachers": ("x",)},
            "strategy='assistant'",
        ),
    ],
)
def test_runs_that_do_not_fit_are_refused_by_the_field(one, other, field):
    configs = [RunConfig(**{**SMOKE, **own}) for own in (one, other)]
    with pytest.raises(ValueError, match="ogether") as error:
        check_together(configs)
    assert field in str(error.value)
