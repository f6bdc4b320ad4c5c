"""Strategies as whole runs, with a tiny network in the place of GhostNets."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from support import TESTS, tiny_network

from gnsmall_keras import cli
from gnsmall_keras.config import Distilling, RunConfig
from gnsmall_keras.data.sources import load_data
from gnsmall_keras.distill.cache import cache_teacher
from gnsmall_keras.distill.losses import LOSSES
from gnsmall_keras.distill.stored_teacher import CachedTeacher
from gnsmall_keras.models.saving.files import load_model
from gnsmall_keras.recipes import RECIPES
from gnsmall_keras.records.folders import CHECKPOINT_FILE
from gnsmall_keras.training import checkpoint
from gnsmall_keras.training import fit as learn
from gnsmall_keras.training import run as fit
from gnsmall_keras.training.experiment import resolve
from gnsmall_keras.training.interruption import StopRequest, TrainingInterrupted
from gnsmall_keras.training.splits import split

pytestmark = pytest.mark.any_backend

SMALL = {"width": 0.5, "epochs": 2, "batch_size": 128}
KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[3:]
import keras, support, test_distill
from gnsmall_keras.training import checkpoint, run as fit, fit as learn

save = checkpoint.save_checkpoint
def save_and_die(model, progress, path, identity):
    save(model, progress, path, identity=identity)
    if progress.epochs == 2 and sys.argv[2] in str(path):
        os.kill(os.getpid(), signal.SIGKILL)

checkpoint.save_checkpoint = save_and_die
learn.create_model = support.tiny_network
fit.train(test_distill.chain_config(sys.argv[1]), out=sys.argv[1] + "/runs")
"""


@pytest.fixture(autouse=True, scope="module")
def tiny_networks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learn, "create_model", tiny_network)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a teacher in it, the folder of a run."""
    path = tmp_path_factory.mktemp("distill")
    teacher = tiny_network("gns", classes=10, width=2.0)
    (path / "teacher").mkdir()
    teacher.save(path / "teacher" / "model.keras")
    return path


def chain_config(folder, **changes):
    values = {
        "strategy": "assistant",
        "teachers": (str(folder) + "/teacher",),
        "assistants": ("gns-w0.75",),
        **SMALL,
        "epochs": 3,
        **changes,
    }
    return Distilling(**values)


def _weights(config, out):
    record = fit.train(config, out=out, progress=False)
    return record, load_model(out / record.slug / "model.keras").get_weights()


def _assert_equal(weights, others, tolerance=0.0):
    for ours, theirs in zip(weights, others, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


@pytest.mark.slow
@pytest.mark.backend
@pytest.mark.parametrize(
    "stage",
    ["assistant-1", pytest.param("t4-l0.5-s0", marks=pytest.mark.slow)],
)
def test_a_killed_run_goes_on_to_the_same_weights(folder, tmp_path, stage):
    """SIGKILL in the middle of the assistant's stage, or of the student's."""
    (tmp_path / "teacher").symlink_to(folder / "teacher")
    _, expected = _weights(chain_config(tmp_path), tmp_path / "whole")
    killed = subprocess.run(
        [
            sys.executable,
            "-c",
            KILLED,
            *(tmp_path, stage),
            *(str(TESTS), str(TESTS / "training")),
        ],
        check=False,
        capture_output=True,
        env={**os.environ, "KERAS_BACKEND": keras.config.backend()},
    )
    assert killed.returncode == -9, killed.stderr.decode()[-1000:]
    assert len(list((tmp_path / "runs").rglob(CHECKPOINT_FILE))) == 1
    record, found = _weights(chain_config(tmp_path), tmp_path / "runs")
    _assert_equal(expected, found)
    assert len(record.history["loss"]) == 3
    assert not list((tmp_path / "runs").rglob(CHECKPOINT_FILE))


@pytest.fixture(scope="module")
def whole_chain(folder, tmp_path_factory):
    """A chain that nothing interrupts, and its weights."""
    config = chain_config(folder, epochs=2)
    return config, _weights(config, tmp_path_factory.mktemp("whole"))[1]


@pytest.mark.parametrize("stage", ["assistant-1", "t4-l0.5-s0"])
def test_an_interrupted_chain_goes_on_to_the_same_weights(
    whole_chain, tmp_path, monkeypatch, stage
):
    """Ctrl-C in the middle of the assistant's stage, or of the student's."""
    config, expected = whole_chain
    save = checkpoint.save_checkpoint

    def save_and_stop(model, progress, path, identity):
        save(model, progress, path, identity=identity)
        if progress.epochs == 1 and stage in str(path.parent.name):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_checkpoint", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            fit.train(config, out=tmp_path / "runs", progress=False)
    assert len(list((tmp_path / "runs").rglob(CHECKPOINT_FILE))) == 1
    record, found = _weights(config, tmp_path / "runs")
    _assert_equal(expected, found)
    assert len(record.history["loss"]) == 2
    assert not list((tmp_path / "runs").rglob(CHECKPOINT_FILE))


@pytest.mark.backend
def test_a_chain_without_assistants_is_plain_distillation(folder, tmp_path):
    chain, weights = _weights(
        chain_config(folder, assistants=(), epochs=1), tmp_path
    )
    kd, others = _weights(
        chain_config(folder, assistants=(), epochs=1, strategy="kd"), tmp_path
    )
    _assert_equal(weights, others)
    assert chain.distillation["teachers"] == kd.distillation["teachers"]
    assert chain.slug != kd.slug


def test_the_baseline_is_plain_training(tmp_path):
    _, weights = _weights(RunConfig(strategy="baseline", **SMALL), tmp_path)
    _, others = _weights(RunConfig(**SMALL), tmp_path)
    _assert_equal(weights, others)


def test_a_chain_trains_and_names_its_stages(folder, tmp_path):
    config = chain_config(folder, dense=True, combine="per_teacher", epochs=1)
    record, _ = _weights(config, tmp_path)
    names = [f"{folder}/teacher", "gns-w0.75"]
    assert [t["name"] for t in record.distillation["teachers"]] == names
    found = record.distillation["agreement"]
    assert [*found] == names, "it is dense"
    assert all(0 <= share <= 1 for share in found.values())
    (stage,) = record.distillation["stages"]
    assert stage["name"] == "assistant 1, gns-w0.75"
    assert 0 <= stage["validation_accuracy"] <= 1
    assert [one["commit"] for one in stage["sessions"]] == record.commits
    assert "kd_loss" in record.history
    trained = tmp_path / record.slug / "assistant-1-gns-w0.75" / "model.keras"
    files = chain_config(folder, assistants=(str(trained),), epochs=1)
    record, _ = _weights(files, tmp_path)
    assert record.distillation["stages"] == []


def test_an_ensemble_takes_weights(folder, tmp_path):
    teacher = f"{folder}/teacher"
    config = RunConfig(
        strategy="ensemble",
        teachers=(teacher, f"{teacher}/model.keras"),
        teacher_weights=(1.0, 3.0),
        combine="logits",
        **SMALL,
    )
    one = RunConfig(strategy="kd", teachers=(teacher,), **SMALL)
    record, weights = _weights(config, tmp_path)
    _assert_equal(weights, _weights(one, tmp_path)[1], 1e-4)
    assert record.slug.startswith(
        "gns-w0.5-digits-quick-e2-ensemble-kd-t4-l0.5"
    )


@pytest.mark.parametrize("augment", [True, False])
def test_a_cache_takes_the_teachers_place(folder, tmp_path, augment):
    arguments = ["cache-teacher", "--teacher", f"{folder}/teacher"]
    arguments += ["--out", f"{tmp_path}/cache"]
    arguments += ["--views", "2"] if augment else ["--no-augment"]
    assert cli.main(arguments) == 0
    config = Distilling(cache=f"{tmp_path}/cache", augment=augment, **SMALL)
    record, weights = _weights(config, tmp_path)
    digest = record.distillation["teachers"][0]["weights_digest"]
    assert len(digest) == 16
    if not augment:  # the views then are those of a live teacher
        live = dataclasses.replace(
            config, cache="", teachers=(f"{folder}/teacher",)
        )
        # float16 targets, over some twenty steps
        _assert_equal(weights, _weights(live, tmp_path)[1], 2e-2)
    other = dataclasses.replace(config, augment=not augment)
    with pytest.raises(
        ValueError, match=r"was made with \{'augment'.*Make another with"
    ):
        fit.train(other, out=tmp_path, progress=False)
    other = dataclasses.replace(config, seed=1)
    with pytest.raises(ValueError, match="these very images and labels"):
        fit.train(other, out=tmp_path, progress=False)


def test_a_run_that_is_named_alone_teaches_from_beside(
    folder, tmp_path, monkeypatch
):
    """Or from a cache, which is made once for all who see its views."""

    def pretend(model, teachers, batches, monitored, stage):
        assert (teachers is None) == bool(stage.experiment.teaching.cache)
        return checkpoint.Progress(1, {"loss": [1.0]}, 1.0)

    monkeypatch.setattr(fit, "learn", pretend)
    (tmp_path / "teacher").mkdir()
    model = folder / "teacher" / "model.keras"
    (tmp_path / "teacher" / "model.keras").symlink_to(model)
    digests = set()
    for values in (
        {"teachers": ("teacher",)},
        {"cache": "teacher"},
        {"cache": "teacher", "temperature": 1.0},
        {"cache": "teacher", "epochs": 1},
    ):
        config = Distilling(**{**SMALL, **values})
        record = fit.train(config, out=tmp_path, progress=False)
        (teacher,) = record.distillation["teachers"]
        digests.add(teacher["weights_digest"])
    assert len(digests) == 1
    made = (tmp_path / "teacher").glob("cache-*/cache.json")
    views = [json.loads(file.read_text())["views"] for file in made]
    assert sorted(views) == [1, SMALL["epochs"]]


def test_the_command_writes_a_record(folder, tmp_path, capsys):
    arguments = ["distill", "--width", "0.5", "--epochs", "1", "--teachers"]
    arguments += [f"{folder}/teacher", "--out", str(tmp_path)]
    assert cli.main(arguments) == 0
    assert "kd_loss" in capsys.readouterr().out
    (line,) = (tmp_path / "index.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert record["config"]["strategy"] == "kd"
    assert record["distillation"]["stages"] == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "takes one teacher or a cache"),
        ({"teachers": ("a", "b")}, "takes one teacher or a cache"),
        ({"teachers": ("a",), "cache": "b"}, "takes one teacher or a cache"),
        ({"strategy": "baseline", "teachers": ("a",)}, "takes no teacher"),
        ({"strategy": "ensemble"}, "one teacher or more"),
        ({"strategy": "ensemble", "teachers": ("a", "a")}, "teacher once"),
        ({"strategy": "chain"}, "`strategy` must be one of"),
        ({"teachers": ("a",), "assistants": ("b",)}, "belong to"),
        (
            {
                "strategy": "assistant",
                "teachers": ("a",),
                "assistants": ("gns-w1", "a"),
            },
            r"must not come back.*\['a'\]",
        ),
        ({"teachers": ("a",), "teacher_weights": (1.0,)}, "'ensemble'"),
        ({"teachers": ("a",), "combine": "logits"}, "belongs to several"),
        (
            {
                "strategy": "assistant",
                "teachers": ("a",),
                "assistants": ("gns-w1",),
                "combine": "per_teacher",
            },
            "belongs to several.*'per_teacher' with strategy='assistant'",
        ),
        (
            {
                "strategy": "ensemble",
                "teachers": ("a",),
                "teacher_weights": (1.0,),
                "confidence_weights": True,
            },
            "not both",
        ),
        ({"cache": "a", "cutout": 8}, "{'cutout': 8}.*give the teacher"),
        ({"cache": "a", "mixup": 0.2, "cutmix": 1.0}, "'mixup'.*'cutmix'"),
        ({"teachers": ("a",), "temperature": 0.0}, "`temperature`"),
        ({"teachers": ("a",), "label_weight": -0.1}, "`label_weight`"),
        ({"teachers": ("a",), "loss": "mse"}, "`loss` must be one of"),
        ({"teachers": ("a",), "combine": "sum"}, "`combine` must be one of"),
        (
            {
                "strategy": "ensemble",
                "teachers": ("a", "b"),
                "teacher_weights": (0, 0),
            },
            "with a sum > 0",
        ),
    ],
)
def test_config_rules_are_checked(values, message):
    with pytest.raises(ValueError, match=message):
        Distilling(**values)


def test_every_loss_can_be_asked_for():
    for loss in LOSSES:
        assert RunConfig(strategy="kd", teachers=("a",), loss=loss).loss == loss


def test_a_caches_recipe_can_be_left_unmixed(monkeypatch):
    """What a recipe mixes is refused as well, and switched off by a 0."""
    mixing = dataclasses.replace(RECIPES["quick"], cutout=8)
    monkeypatch.setitem(RECIPES, "quick", mixing)
    with pytest.raises(ValueError, match="{'cutout': 8}. Set these to 0"):
        RunConfig(strategy="kd", cache="a")
    assert (
        RunConfig(strategy="kd", cache="a", cutout=0).resolved_recipe.cutout
        == 0
    )
    assert RunConfig(strategy="kd", cache="a", augment=False)


def test_a_live_teacher_sees_mixed_images(folder, tmp_path):
    """A loss and an ensemble that know one class an image learn from them."""
    config = RunConfig(
        strategy="ensemble",
        teachers=(f"{folder}/teacher", f"{folder}/teacher/model.keras"),
        confidence_weights=True,
        loss="dkd",
        mixup=0.2,
        cutmix=1.0,
        **SMALL,
    )
    record, weights = _weights(config, tmp_path / "first")
    again, others = _weights(config, tmp_path / "second")
    _assert_equal(weights, others)
    assert again.history == record.history
    assert record.history["loss"][1] < record.history["loss"][0]


def test_equal_values_are_one_run():
    config = RunConfig(
        strategy="kd",
        width=1.0,
        temperature=4.0,
        mixup=1.0,
        teachers=("runs/a",),
    )
    same = RunConfig(
        strategy="kd",
        shuffle=np.True_,
        augment=1,
        width=1,
        temperature=np.int64(4),
        mixup=1,
        teachers="runs/a",
    )
    paths = dataclasses.replace(config, teachers=[Path("runs/a")])
    assert config.slug == same.slug == paths.slug
    assert config == same == paths


@pytest.mark.parametrize(
    "values",
    [
        {"shuffle": "yes"},
        {"label_smoothing": True},
        {"teachers": 5},
        {"teacher_weights": True},
    ],
)
def test_what_is_no_value_of_a_field_is_refused(values):
    (name,) = values
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        Distilling(**{"teachers": ("a",), **values})


@pytest.mark.parametrize("name", ["seed", "devices", "head_units", "width"])
def test_what_has_a_default_is_not_none(name):
    with pytest.raises(ValueError, match=f"`{name}` must have a value"):
        RunConfig(**{name: None})


def test_lists_from_notebooks_become_tuples():
    config = RunConfig(strategy="ensemble", teachers=["a", "b"])
    assert config.teachers == ("a", "b")
    assert hash(config)


def test_a_chain_that_ends_in_its_own_start_is_refused(folder, tmp_path):
    copy = tmp_path / "copy.keras"
    copy.write_bytes((folder / "teacher" / "model.keras").read_bytes())
    config = chain_config(folder, assistants=(str(copy),))
    with pytest.raises(ValueError, match="come back.*the same weights"):
        fit.train(config, out=tmp_path, progress=False)


def test_another_teacher_does_not_go_on_with_the_old_ones_assistant(
    folder, tmp_path, capsys
):
    """A finished run's is trained anew with it, an unfinished one's is kept."""
    (tmp_path / "teacher").mkdir()
    teacher = tmp_path / "teacher" / "model.keras"
    teacher.write_bytes((folder / "teacher" / "model.keras").read_bytes())
    config = chain_config(tmp_path, epochs=1)
    first = fit.train(config, out=tmp_path, progress=False)
    tiny_network("gns", classes=10, width=1.5).save(teacher)
    second = fit.train(config, out=tmp_path, progress=False)
    assert "changed: it is trained anew" in capsys.readouterr().err
    assert _digests(first) & _digests(second) == set()
    (record,) = tmp_path.glob(f"{config.slug}/record.json")
    record.unlink()
    tiny_network("gns", classes=10, width=1.25).save(teacher)
    with pytest.raises(ValueError, match="an assistant of other teachers"):
        fit.train(config, out=tmp_path, progress=False, again=True)
    assert "taken from" not in capsys.readouterr().err


def _digests(record):
    teachers = record.distillation["teachers"]
    return {teacher["weights_digest"] for teacher in teachers}


def test_again_trains_assistants_again(folder, tmp_path, capsys):
    """And goes on after those of a call that was killed."""
    config = chain_config(folder, epochs=1)
    fit.train(config, out=tmp_path, progress=False)
    (stage,) = tmp_path.glob("*/assistant-*/stage.json")
    before = stage.stat().st_mtime_ns
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StopRequest, "reason", property(lambda _: _in_student()))

        def _in_student():
            return "so" if stage.is_file() else ""

        with pytest.raises(TrainingInterrupted):
            fit.train(config, out=tmp_path, progress=False, again=True)
    assert stage.stat().st_mtime_ns > before
    assert "taken from" not in capsys.readouterr().err
    kept = stage.stat().st_mtime_ns
    fit.train(config, out=tmp_path, progress=False)
    assert stage.stat().st_mtime_ns == kept
    assert "taken from" in capsys.readouterr().err


def test_an_assistant_of_other_images_is_not_gone_on_with(
    folder, tmp_path, monkeypatch
):
    """Of a run that is not finished; a finished one is trained anew."""
    config = chain_config(folder, epochs=1)
    fit.train(config, out=tmp_path, progress=False)
    (record,) = tmp_path.glob("*/record.json")
    record.unlink()
    digits = load_data("digits")
    fewer = dataclasses.replace(
        digits,
        train_images=digits.train_images[1:],
        train_labels=digits.train_labels[1:],
    )
    monkeypatch.setattr(fit, "load_data", lambda _: fewer)
    with pytest.raises(
        ValueError, match=r"stage\.json began otherwise. data_d"
    ):
        fit.train(config, out=tmp_path, progress=False)


def test_a_cache_that_is_being_made_stops_between_views(
    folder, tmp_path, monkeypatch
):
    (tmp_path / "teacher").mkdir()
    model = folder / "teacher" / "model.keras"
    (tmp_path / "teacher" / "model.keras").symlink_to(model)
    config = Distilling(cache="teacher", **SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "reason", property(lambda _: "enough"))
        with pytest.raises(TrainingInterrupted, match="holds the views so far"):
            fit.train(config, out=tmp_path, progress=False)
    (first,) = tmp_path.glob("teacher/cache-*/*.npy")
    written = first.stat().st_mtime_ns
    record = fit.train(config, out=tmp_path, progress=False)
    assert len(record.history["loss"]) == config.epochs
    assert first.stat().st_mtime_ns == written


def test_dist_needs_the_whole_batch_on_one_device(folder, tmp_path):
    config = Distilling(
        teachers=(f"{folder}/teacher",), loss="dist", devices=2, **SMALL
    )
    if keras.config.backend() != "tensorflow":
        pytest.skip("devices of other backends see the whole batch")
    with pytest.raises(ValueError, match="images of the whole batch"):
        fit.train(config, out=tmp_path, progress=False)


def test_cached_targets_follow_the_images(folder):
    """A cache made by the function is the one that the command makes."""
    digits = load_data("digits")
    images, labels = split(digits, resolve(RunConfig()).partition).fitting
    teacher = load_model(folder / "teacher" / "model.keras")
    plain = {"views": 1, "seed": 0, "augment": False, "flip": False}
    path = folder / "direct"
    cached = cache_teacher(
        teacher, images, labels, path=path, progress=False, **plain
    )
    again = CachedTeacher.load(
        path, images=images, labels=labels, teacher=teacher
    )
    assert again.teacher_digest == cached.teacher_digest
