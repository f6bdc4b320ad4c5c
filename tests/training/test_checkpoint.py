"""Trainings that are interrupted, and files that are damaged or others'."""

import dataclasses
import itertools
import json
import os
import resource
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from support import TESTS, tiny_network

from gnsmall_keras import cli
from gnsmall_keras.commands.arguments import seconds
from gnsmall_keras.config import TEACHING, RunConfig
from gnsmall_keras.models.saving.files import load_model
from gnsmall_keras.recipes import RECIPES
from gnsmall_keras.records import provenance
from gnsmall_keras.records.folders import CHECKPOINT_FILE
from gnsmall_keras.training import checkpoint, devices
from gnsmall_keras.training import fit as learn
from gnsmall_keras.training import run as fit
from gnsmall_keras.training.interruption import StopRequest, TrainingInterrupted

pytestmark = pytest.mark.any_backend

CONFIG = RunConfig(epochs=3, batch_size=128)  # 10 steps an epoch
SELECTING = dataclasses.replace(CONFIG, select="validation")
IDENTITY = dataclasses.asdict(CONFIG)
# Epochs and steps after which a run stops. PyTorch, which starts a run within a
# second, stops twice in an epoch, after its end, and in the one after.
STOPS = ((0, 2), (0, 7), (1, 0), (1, 3))
if keras.config.backend() != "torch":
    STOPS = ((0, 2), (1, 0))
STEPS = 10
KILLED = """
import os, signal, sys
sys.path[:0] = [sys.argv[3]]
import support
from gnsmall_keras.config import RunConfig
from gnsmall_keras.training import checkpoint, run as fit, fit as learn

left = int(sys.argv[2])
end = checkpoint.SaveCheckpoints.on_train_batch_end
def end_and_die(self, batch, logs=None):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    end(self, batch, logs)

checkpoint.SaveCheckpoints.on_train_batch_end = end_and_die
learn.create_model = support.tiny_network
fit.train(RunConfig(epochs=3, batch_size=128), out=sys.argv[1])
"""


@pytest.fixture(autouse=True)
def tiny_networks(monkeypatch):
    monkeypatch.setattr(learn, "create_model", tiny_network)


def _weights(out, config=CONFIG):
    record = fit.train(config, out=out, progress=False)
    return record, load_model(out / record.slug / "model.keras").get_weights()


def _assert_same(found, expected):
    for ours, theirs in zip(found[1], expected[1], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert found[0].history == expected[0].history


@pytest.mark.backend
@pytest.mark.parametrize(
    "ema_momentum",
    [
        pytest.param(0.0, marks=pytest.mark.slow),
        pytest.param(0.9, marks=pytest.mark.contract),
    ],
)
def test_a_stopped_run_goes_on_to_the_same_weights(
    tmp_path, monkeypatch, ema_momentum
):
    recipe = dataclasses.replace(RECIPES["quick"], ema_momentum=ema_momentum)
    monkeypatch.setitem(RECIPES, "quick", recipe)
    expected = _weights(tmp_path / "whole", SELECTING)
    # The reason is read after each of an epoch's steps but the last, after
    # the epoch, and again for the message.
    asked = 0

    def reason(self):
        nonlocal asked
        asked += 1
        return "the test says so" if asked >= stop else ""

    monkeypatch.setattr(StopRequest, "reason", property(reason))
    out, before = tmp_path / "parts", 0
    for epochs, steps in STOPS:
        asked, done = 0, epochs * STEPS + steps
        stop, before = done - before, done
        with pytest.raises(
            TrainingInterrupted, match=f"{epochs} epochs and {steps} steps:"
        ):
            fit.train(SELECTING, out=out, progress=False)
        assert not (out / "index.jsonl").exists()
    stop = float("inf")
    _assert_same(_weights(out, SELECTING), expected)
    assert not list(out.rglob("*checkpoint*"))
    assert not list(out.rglob("*.h5"))


def test_a_run_begun_by_an_older_version_is_finished_under_its_name(
    tmp_path, monkeypatch
):
    """When `TrainConfig` named it, and its checkpoint knew no teaching."""
    expected = _weights(tmp_path / "whole")
    out = tmp_path / "parts"
    with monkeypatch.context() as stopped:
        stopped.setattr(StopRequest, "reason", property(lambda _: "stop"))
        with pytest.raises(TrainingInterrupted):
            fit.train(CONFIG, out=out, progress=False)
    (older,) = CONFIG.aliases
    (out / CONFIG.slug).rename(out / older.slug)
    path = out / older.slug / CHECKPOINT_FILE
    with np.load(path) as stored:
        arrays = dict(stored)
    state = json.loads(str(arrays["state"]))
    for name in TEACHING:
        del state["identity"][name]
    np.savez(path, **{**arrays, "state": np.array(json.dumps(state))})
    found = _weights(out)
    assert (found[0].slug, found[0].digest) == older
    _assert_same(found, expected)
    assert [p.name for p in out.iterdir() if p.is_dir()] == [older.slug]


@pytest.mark.contract
def test_steps_at_once_change_nothing(tmp_path, monkeypatch):
    """Four of ten steps, so that the last of an epoch are two; stopped once."""
    if keras.config.backend() != "jax":
        pytest.skip("steps are taken at once on JAX alone")
    expected = _weights(tmp_path / "whole")
    monkeypatch.setattr(devices, "steps_at_once", lambda: 4)
    asked = itertools.count(1)
    monkeypatch.setattr(
        StopRequest,
        "reason",
        # Read twice in the first epoch, after it, and in the second.
        property(lambda _: "the test says so" if next(asked) in (5, 6) else ""),
    )
    out = tmp_path / "parts"
    with pytest.raises(TrainingInterrupted, match="1 epochs and 8 steps:"):
        fit.train(CONFIG, out=out, progress=False)
    _assert_same(_weights(out), expected)


def test_a_run_that_went_on_elsewhere_names_both_machines(
    tmp_path, monkeypatch
):
    """Twice on the first machine, then on this one."""
    for epoch in (1, 2):
        with monkeypatch.context() as elsewhere:
            asked = itertools.count(1)
            elsewhere.setattr(
                StopRequest,
                "reason",
                # Read after nine steps, after the epoch, and for the message.
                property(lambda _, n=asked: "so" if next(n) > 9 else ""),
            )
            elsewhere.setattr(
                provenance,
                "describe_hardware",
                lambda: {"processor": "another"},
            )
            by = {"commit": f"{epoch}", "versions": {}, "started_at": "then"}
            elsewhere.setattr(provenance, "describe_session", lambda by=by: by)
            with pytest.raises(TrainingInterrupted, match=f"{epoch} epochs"):
                fit.train(CONFIG, out=tmp_path, progress=False)
    record = fit.train(CONFIG, out=tmp_path, progress=False)
    hardware = record.hardware
    here = {name: hardware[name] for name in provenance.describe_hardware()}
    assert here == provenance.describe_hardware()
    where = {k: hardware[k] for k in ("devices", "threads")}
    where["processor"] = "another"
    by = {"versions": {}, "started_at": "then"}
    assert hardware["before"] == [
        {**where, **by, "commit": commit} for commit in "12"
    ]
    assert record.commits == ["1", "2", provenance.source_commit()]
    assert record.commit == record.commits[-1]
    assert record.versions == provenance.package_versions()


def _stop_after_steps(out, monkeypatch):
    """Returns the checkpoint and its state."""
    reason = property(lambda self: "so" if self.steps > 8 else "")
    with monkeypatch.context() as stopped:
        stopped.setattr(StopRequest, "reason", reason)
        with pytest.raises(TrainingInterrupted):
            fit.train(CONFIG, out=out, progress=False)
    (path,) = out.glob(f"*/{CHECKPOINT_FILE}")
    with np.load(path) as file:
        return path, json.loads(str(file["state"]))


def _change_state(path, **values):
    with np.load(path) as file:
        arrays = dict(file)
    state = {**json.loads(str(arrays["state"])), **values}
    arrays["state"] = np.array(json.dumps(state))
    np.savez(path, **arrays)


def test_an_older_checkpoint_without_sessions_goes_on(tmp_path, monkeypatch):
    """It names machines alone; of one without commit nothing is said."""
    path, state = _stop_after_steps(tmp_path, monkeypatch)
    (session,) = state["machines"]
    assert session["commit"] == provenance.source_commit()
    machine = {k: session[k] for k in ("processor", "devices")}
    _change_state(path, machines=[machine])
    record = fit.train(CONFIG, out=tmp_path, progress=False)
    assert record.hardware["before"] == [machine]
    assert record.commits == [record.commit]


@pytest.mark.parametrize("kernels", ["auto", "native"])
def test_native_kernels_that_are_not_here_are_named(
    tmp_path, monkeypatch, kernels
):
    path, _ = _stop_after_steps(tmp_path, monkeypatch)
    _change_state(path, kernels="native")
    with pytest.raises(ValueError, match="has to go on with") as caught:
        fit.train(CONFIG, out=tmp_path, progress=False, kernels=kernels)
    assert "Go on where they are, or delete" in str(caught.value)
    assert "is no GhostNet." in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_run_that_dies_at_its_very_end_can_be_finished(tmp_path, monkeypatch):
    """With what `select="validation"` has kept still there."""
    record = fit._record

    def die(*arguments, **circumstances):
        raise MemoryError

    monkeypatch.setattr(fit, "_record", die)
    with pytest.raises(MemoryError):
        fit.train(SELECTING, out=tmp_path, progress=False)
    monkeypatch.setattr(fit, "_record", record)
    done = fit.train(SELECTING, out=tmp_path, progress=False)
    assert len(done.history["loss"]) == 3
    assert done.validation_accuracy == pytest.approx(
        max(done.history["val_accuracy"]), abs=1e-6
    )


@pytest.mark.backend
@pytest.mark.parametrize(
    "steps",
    [(12,), pytest.param((4, 12, 7, 13, 3), marks=pytest.mark.slow)],
    ids=["one", "five"],
)
def test_kills_leave_the_same_weights(tmp_path, steps):
    """SIGKILL in the second epoch; or before, in and after the first two."""
    expected = _weights(tmp_path / "whole")
    out = tmp_path / "parts"
    for step in steps:
        killed = subprocess.run(
            [sys.executable, "-c", KILLED, out, str(step), str(TESTS)],
            check=False,
            capture_output=True,
            env={**os.environ, "KERAS_BACKEND": keras.config.backend()},
        )
        assert killed.returncode == -9, killed.stderr.decode()[-1000:]
    _assert_same(_weights(out), expected)


@pytest.fixture
def _sigterm(monkeypatch):
    """Comes in each step."""
    end = checkpoint.SaveCheckpoints.on_train_batch_end

    def end_and_ask(self, batch, logs=None):
        os.kill(os.getpid(), signal.SIGTERM)
        end(self, batch, logs)

    monkeypatch.setattr(
        checkpoint.SaveCheckpoints, "on_train_batch_end", end_and_ask
    )


@pytest.mark.usefixtures("_sigterm")
def test_sigterm_stops_with_a_checkpoint(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingInterrupted, match="SIGTERM was received"):
        fit.train(CONFIG, out=tmp_path, progress=False)
    assert len(list(tmp_path.rglob(CHECKPOINT_FILE))) == 1
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.usefixtures("_sigterm")
def test_a_signal_counts_before_the_time_that_is_up(tmp_path):
    """The stop is no error of an argument then."""
    with (
        StopRequest().listening() as outer,
        pytest.raises(TrainingInterrupted, match="SIGTERM was received"),
    ):
        fit.train(CONFIG, out=tmp_path, progress=False, time_budget=1e-3)
    assert outer.was_asked


def test_the_command_line_says_that_it_can_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(StopRequest, "reason", property(lambda _: "enough"))
    arguments = ["train", "--epochs", "1", "--out", str(tmp_path)]
    assert cli.main(arguments) == 75
    message = capsys.readouterr().err
    assert "enough" in message
    assert "the same command goes on there" in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("soon", "`time_budget` must be a number of seconds, or end in"),
        ("0", "`time_budget` must be a finite number of seconds > 0"),
        ("0.001s", "`time_budget` is below what one step takes"),
    ],
)
def test_bad_time_budgets_are_refused(tmp_path, capsys, text, message):
    arguments = ["train", "--out", str(tmp_path), "--time-budget", text]
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_time_budgets_have_units():
    found = [seconds(text) for text in ("540", "540s", "9m", "1.5h")]
    assert found == [540, 540, 540, 5400]
    assert seconds(None) is None


class TestFiles:
    """Of a tiny network after one epoch."""

    def _model(self, width=0.5):
        model = tiny_network("gns", classes=10, width=width)
        learn.compile_model(model, CONFIG.resolved_recipe, steps=9)
        return model

    def _save(self, model, path, epochs=1, teachers=()):
        progress = checkpoint.Progress(epochs, {}, 0.0, teachers)
        checkpoint.save_checkpoint(model, progress, path, identity=IDENTITY)

    def _restore(self, model, path, identity=IDENTITY, teachers=()):
        return checkpoint.restore_checkpoint(
            model, path, identity=identity, teachers=teachers
        )

    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / CHECKPOINT_FILE

    def test_a_damaged_one_is_named(self, path):
        model = self._model()
        self._save(model, path)
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(ValueError, match=r"is damaged\. Delete it"):
            self._restore(model, path)

    def test_the_one_before_a_damaged_one_is_taken(self, path):
        model = self._model()
        self._save(model, path, epochs=1)
        kernel = model.get_weights()[0]
        model.set_weights([w + 1 for w in model.get_weights()])
        self._save(model, path, epochs=2)
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.warns(UserWarning, match="damaged.*the one before it"):
            found = self._restore(model, path)
        assert found.epochs == 1
        np.testing.assert_array_equal(model.get_weights()[0], kernel)

    def test_a_full_disk_leaves_the_one_before(self, path):
        model = self._model()
        self._save(model, path)
        before = path.read_bytes()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
        try:
            with pytest.raises(OSError, match="could not be.*before is whole"):
                self._save(model, path, epochs=2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_bytes() == before
        assert [file.name for file in path.parent.iterdir()] == [path.name]
        assert self._restore(model, path).epochs == 1

    def test_one_of_other_teachers_is_refused(self, path):
        model = self._model()
        self._save(model, path, teachers=("abc",))
        with pytest.raises(ValueError, match="began with other teachers"):
            self._restore(model, path, teachers=("def",))
        assert self._restore(model, path, teachers=("abc",)).epochs == 1

    def test_one_of_another_config_names_the_fields(self, path):
        model = self._model()
        self._save(model, path)
        other = IDENTITY | {"batch_size": 64, "seed": 1}
        with pytest.raises(
            ValueError, match=r"batch_size: 128, now 64; seed: 0, now 1\. Begin"
        ):
            self._restore(model, path, identity=other)

    def test_one_of_another_model_is_refused(self, path):
        self._save(self._model(), path)
        with pytest.raises(ValueError, match="of another model"):
            self._restore(self._model(width=1.0), path)
