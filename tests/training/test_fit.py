"""Whole runs: what they write, that they repeat, and what they refuse."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from support import ROOT, tiny_branched_network, tiny_network

from gnsmall_keras.config import RunConfig
from gnsmall_keras.data.sources import load_data
from gnsmall_keras.distill.checks import load_teacher
from gnsmall_keras.models.saving.files import load_model
from gnsmall_keras.recipes import RECIPES
from gnsmall_keras.records import predictions
from gnsmall_keras.records.folders import CHECKPOINT_FILE
from gnsmall_keras.records.run import RunRecord, read_records
from gnsmall_keras.training import evaluation, fitting
from gnsmall_keras.training import fit as learn
from gnsmall_keras.training import run as fit
from gnsmall_keras.training.callbacks import StopOnNaN
from gnsmall_keras.training.checkpoint import Progress
from gnsmall_keras.training.clock import Clock
from gnsmall_keras.training.experiment import resolve
from gnsmall_keras.training.splits import split

SMOKE = RunConfig(width=0.25, epochs=2, batch_size=128)


@pytest.fixture(
    scope="module",
    params=["tiny", pytest.param("gns", marks=pytest.mark.slow)],
)
def run(request, tmp_path_factory):
    """A run of two epochs, of a tiny network or of GN-S 0.25."""
    out = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "tiny":
            patch.setattr(learn, "create_model", tiny_network)
        return out, fit.train(SMOKE, out=out, progress=False)


@pytest.mark.contract
def test_a_run_learns_and_writes_down_what_came_of_it(run):
    out, record = run
    assert record.history["loss"][1] < record.history["loss"][0]
    assert (record.train_images, record.validation_images) == (1293, 144)
    assert record.test_images == 360
    assert record.backend == keras.config.backend()
    folder = out / record.slug
    assert sorted(path.name for path in folder.iterdir()) == [
        "model.keras",
        "record.json",
    ]
    assert RunRecord.read(folder / "record.json") == record
    assert list(read_records(out / "index.jsonl")) == [record]


@pytest.mark.backend
def test_the_saved_network_has_the_recorded_accuracy(run):
    out, record = run
    model = load_model(out / record.slug / "model.keras")
    digits = load_data("digits")
    logits = evaluation.predict_logits(model, digits.test_images)
    found = evaluation.accuracy(logits, digits.test_labels)
    assert found == pytest.approx(record.test_accuracy, abs=0.01)


@pytest.mark.backend
def test_the_record_says_what_was_predicted_on_the_test_split(run):
    """All of it from the predictions that the recorded accuracy is of."""
    _, record = run
    kept = record.test_predictions
    confusion = np.array(kept["confusion"])
    digits = load_data("digits")
    assert kept["class_names"] == list(digits.class_names)
    np.testing.assert_array_equal(
        confusion.sum(axis=1), np.bincount(digits.test_labels)
    )
    assert np.trace(confusion) / 360 == record.test_accuracy
    correct = predictions.unpack_correct(kept)
    assert (len(correct), correct.mean()) == (360, record.test_accuracy)
    for mistake in kept["worst"]:
        assert digits.test_labels[mistake["index"]] == mistake["label"]
        assert not correct[mistake["index"]]


@pytest.mark.slow
@pytest.mark.backend
def test_a_teacher_improves_for_three_epochs(tmp_path, monkeypatch):
    """ResNet-18 on a part of the digits, with a rate for so few steps."""
    digits = load_data("digits")
    part = dataclasses.replace(
        digits,
        train_images=digits.train_images[:120],
        train_labels=digits.train_labels[:120],
        test_images=digits.test_images[:20],
        test_labels=digits.test_labels[:20],
    )
    monkeypatch.setattr(fit, "load_data", lambda name: part)
    config = RunConfig(
        model="resnet18",
        recipe="teacher",
        epochs=3,
        batch_size=16,
        peak_learning_rate=0.01,
        augment=False,
    )
    record = fit.train(config, out=tmp_path, progress=False)
    losses = record.history["loss"]
    assert losses[0] > losses[1] > losses[2]
    assert record.slug.startswith("resnet18-digits-teacher-e3-baseline-s0-")
    assert record.parameters == 11_173_962
    load_teacher(tmp_path / record.slug, classes=10)


def test_mixed_precision_keeps_weights_and_logits_in_float32(
    tmp_path, monkeypatch
):
    def pretend(model, teachers, batches, monitored, stage):
        conv = model.get_layer("conv1")
        assert conv.compute_dtype == "bfloat16"
        assert conv.kernel.dtype == "float32"
        assert model.output.dtype == "float32"
        return Progress(1, {"loss": [1.0]}, 1.0)

    monkeypatch.setattr(fit, "learn", pretend)
    config = RunConfig(model="resnet18", epochs=1, precision="mixed_bfloat16")
    record = fit.train(config, out=tmp_path, progress=False)
    assert record.config["precision"] == "mixed_bfloat16"
    assert keras.config.dtype_policy().name == "float32"


@pytest.fixture
def tiny(monkeypatch):
    """A tiny network in the place of the others."""
    monkeypatch.setattr(learn, "create_model", tiny_network)


@pytest.mark.backend
@pytest.mark.usefixtures("tiny")
def test_the_same_seed_gives_the_same_losses(tmp_path):
    """And the best epoch can be kept: selecting changes no loss."""
    record = fit.train(SMOKE, out=tmp_path, progress=False)
    config = dataclasses.replace(SMOKE, select="validation")
    again = fit.train(config, out=tmp_path, progress=False)
    assert again.history["loss"] == record.history["loss"]
    assert again.validation_accuracy == pytest.approx(
        max(again.history["val_accuracy"]), abs=1e-3
    )
    assert again.best_test_accuracy is None


@pytest.mark.any_backend
@pytest.mark.usefixtures("tiny")
def test_the_weights_of_the_best_epoch_are_kept(tmp_path, monkeypatch):
    """Of the first of two, by accuracies that the test makes up."""
    end, after = fitting._KeepBest.on_epoch_end, []

    def fall(self, epoch, logs=None):
        after.append(self._student.get_weights())
        end(self, epoch, {"val_accuracy": 0.9 - 0.1 * epoch})

    monkeypatch.setattr(fitting._KeepBest, "on_epoch_end", fall)
    config = dataclasses.replace(SMOKE, select="validation")
    record = fit.train(config, out=tmp_path, progress=False)
    model = load_model(tmp_path / record.slug / "model.keras")
    for kept, first, last in zip(model.get_weights(), *after, strict=True):
        np.testing.assert_array_equal(kept, first)
        assert not np.array_equal(kept, last)


@pytest.mark.backend
@pytest.mark.usefixtures("tiny")
def test_a_network_learns_from_mixed_images(tmp_path):
    """And again, elsewhere, the same; accuracy is measured on both splits."""
    config = dataclasses.replace(SMOKE, cutout=8, mixup=0.2, cutmix=1.0)
    record = fit.train(config, out=tmp_path / "first", progress=False)
    again = fit.train(config, out=tmp_path / "second", progress=False)
    assert again.history == record.history
    assert again.test_accuracy == record.test_accuracy
    assert record.recipe["mixup"] == 0.2
    assert record.history["loss"][1] < record.history["loss"][0]
    for name in ("accuracy", "val_accuracy"):
        assert 0 < record.history[name][-1] < 1


@pytest.mark.any_backend
@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("dies", ["append_record", "remove"])
def test_a_run_that_dies_at_its_end_has_one_record(tmp_path, monkeypatch, dies):
    """Before it is in the index, or before the checkpoint is gone."""
    config = dataclasses.replace(SMOKE, epochs=1)
    module = fit.checkpoint if dies == "remove" else fit

    def pretend(model, teachers, batches, monitored, stage):
        (stage.folder / CHECKPOINT_FILE).touch()
        return Progress(1, {"loss": [1.0]}, 1.0)

    def die(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(fit, "learn", pretend)
    with monkeypatch.context() as patched:
        patched.setattr(module, dies, die)
        with pytest.raises(KeyboardInterrupt):
            fit.train(config, out=tmp_path, progress=False)
    with monkeypatch.context() as patched:
        patched.setattr(fit, "_train", die)  # for nothing is left to train
        record = fit.train(config, out=tmp_path, progress=False)
    assert list(read_records(tmp_path / "index.jsonl")) == [record]
    files = {path.name for path in (tmp_path / record.slug).iterdir()}
    assert files == {"model.keras", "record.json"}


@pytest.mark.any_backend
@pytest.mark.usefixtures("tiny")
def test_paper_protocol_watches_the_test_split(tmp_path, monkeypatch):
    """The fit itself is replaced: the book-keeping is tested."""

    def pretend(model, teachers, batches, monitored, stage):
        assert len(monitored.images) == 360
        history = {"loss": [2.0, 1.0], "val_accuracy": [0.4, 0.3]}
        return Progress(2, history, 1.0)

    read = []

    def predict(model, images):
        read.append(len(images))
        return np.zeros((len(images), 10), "float32")

    monkeypatch.setattr(fit, "learn", pretend)
    monkeypatch.setattr(evaluation, "predict_logits", predict)
    paper = RunConfig(width=0.25, epochs=2, protocol="paper")
    record = fit.train(paper, out=tmp_path, progress=False)
    assert read == [360], "once, after training"
    assert record.train_images == 1437
    assert record.validation_accuracy is None
    assert record.best_test_accuracy == 0.4


class _Batches:
    def __len__(self):
        return 10

    def indices(self, epoch, batch):
        return np.arange(3) + 10 * epoch + batch


@pytest.mark.parametrize(
    ("at_once", "batch", "told"),
    [
        (1, 4, r"step 5 of epoch 3, on images \[24, 25, 26\]"),
        (4, 7, r"steps 5 to 8 of epoch 3, the first on images \[24, 25,"),
        (4, 11, r"steps 9 to 10 of epoch 3, the first on images \[28, 29,"),
    ],
)
def test_a_loss_that_is_no_number_stops_the_run(at_once, batch, told):
    clock = Clock(10)
    callback = StopOnNaN(_Batches(), clock)
    clock.on_epoch_begin(2)
    for look in range(at_once - 1, batch + 1, at_once):
        clock.on_train_batch_end(look)
        callback.on_train_batch_end(look, {"loss": 1.0})
    with pytest.raises(ValueError, match=f"{told}.*Lower"):
        callback.on_train_batch_end(batch, {"loss": float("nan")})


def test_selection_never_reads_the_test_split(monkeypatch, tmp_path):
    digits = load_data("digits")
    fitting, validation, monitored = split(digits, resolve(SMOKE).partition)
    seen = {image.tobytes() for image in digits.test_images}
    for part in (fitting, validation, monitored):
        assert not any(image.tobytes() in seen for image in part.images)


def test_recipes_resolve_to_what_is_named():
    config = RunConfig(recipe="paper", epochs=3)
    recipe = config.resolved_recipe
    assert (recipe.epochs, recipe.batch_size) == (3, 256)
    assert recipe.weight_decay == 0.01
    assert recipe.decay_all


@pytest.mark.parametrize("decay_all", [False, True])
def test_a_recipe_spares_normalisation_and_biases_or_decays_all(decay_all):
    """By the velocities that gradients of zero leave."""
    model = tiny_branched_network("gns", classes=10)
    model.set_weights([np.ones_like(w) for w in model.get_weights()])
    recipe = dataclasses.replace(
        RECIPES["quick"], weight_decay=0.1, decay_all=decay_all, optimizer="sgd"
    )
    learn.compile_model(model, recipe, steps=9)
    variables = model.trainable_variables
    model.optimizer.apply(
        [keras.ops.zeros_like(v.value) for v in variables], variables
    )
    decayed = {
        variable.name
        for variable, velocity in zip(
            variables, model.optimizer.velocities, strict=True
        )
        if keras.ops.convert_to_numpy(velocity.value).any()
    }
    names = {variable.name for variable in variables}
    kernels = {name for name in names if name.endswith("kernel")}
    assert {"kernel", "scale_kernel"} == kernels < names
    assert decayed == (names if decay_all else kernels)


def test_runs_keep_their_names_when_something_new_is_learnt():
    """Their configs, without later fields, still give the committed digests.

    The first record's does not: `precision` came after it and is hashed.
    """
    records = list(read_records(ROOT / "papermill_runs" / "index.jsonl"))
    kept = [record for record in records if "precision" in record.config]
    assert 0 < len(records) - 1 == len(kept)
    for record in kept:
        config = RunConfig(**record.config)
        name = (record.slug, record.digest)
        assert name in config.names
        assert (name == config.name) == ("strategy" in record.config)


def test_what_is_new_is_part_of_the_digest_where_it_is_used():
    values = (
        {},
        {"cutout": 8},
        {"mixup": 0.2},
        {"cutmix": 0.2},
        {"cutout": 0},
        {"ema_momentum": 0.9},
        {"label_smoothing": 0.2},
        {"devices": 2},
    )
    digests = {RunConfig(**value).digest for value in values}
    assert len(digests) == len(values)
    assert RunConfig(cutout=None) == RunConfig()


def test_slug_and_digest_name_the_run():
    config = RunConfig(width=0.5, data="some/where/pets.tar", seed=4)
    assert config.slug.startswith("gns-w0.5-pets-quick-e8-baseline-s4-")
    assert config.slug.endswith(config.digest)
    assert RunConfig(seed=1).digest != RunConfig(seed=2).digest
    assert RunConfig(epochs=8).digest != RunConfig(epochs=9).digest


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 0}, "width"),
        ({"recipe": "slow"}, "recipe.*paper.*quick.*slow"),
        ({"epochs": 0}, "epochs.*>= 1"),
        ({"batch_size": -1}, "batch_size"),
        ({"seed": -1}, "seed"),
        ({"peak_learning_rate": float("nan")}, "peak_learning_rate"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"protocol": "test"}, "protocol"),
        ({"select": "test"}, "select"),
        ({"precision": "int4"}, "precision"),
        ({"model": "resnet19"}, "must be one of"),
        ({"model": "resnet18", "width": 2.0}, "has one size"),
        ({"protocol": "paper", "select": "validation"}, "no validation split"),
        ({"cutout": -1}, "cutout.*whole number >= 0"),
        ({"cutout": 8.0}, "cutout.*whole number >= 0"),
        ({"mixup": -0.1}, "mixup.*finite number >= 0"),
        ({"cutmix": float("inf")}, "cutmix.*finite number >= 0"),
        ({"ema_momentum": 1.0}, r"ema_momentum.*in \[0, 1\)"),
        ({"label_smoothing": 1.0}, r"label_smoothing.*in \[0, 1\)"),
        ({"devices": 0}, "devices.*whole number >= 1"),
        ({"mixup": 0.2, "augment": False}, r"\['mixup'\].*augment=True"),
    ],
)
def test_config_rules_are_checked(values, message):
    with pytest.raises(ValueError, match=message):
        RunConfig(**values)


def test_records_survive_a_line_cut_short(run, tmp_path):
    from gnsmall_keras.records.run import append_record

    _, record = run
    index = tmp_path / "index.jsonl"
    index.write_text('{"slug": "cut')
    append_record(record, index)
    lines = index.read_text().splitlines()
    assert RunRecord.from_json(lines[1]) == record
    with pytest.raises(ValueError, match="line 1: Not a JSON record"):
        list(read_records(index))


def test_records_of_another_schema_are_refused(run):
    _, record = run
    values = json.loads(record.to_json())
    del values["slug"]
    values["surprise"] = 1
    with pytest.raises(
        ValueError, match=r"Missing: \['slug'\]; unknown: \['surprise'\]"
    ):
        RunRecord.from_json(json.dumps(values))


def test_history_holds_plain_numbers(run):
    _, record = run
    values = np.array(record.history["accuracy"])
    assert values.shape == (2,)
    assert np.all((values >= 0) & (values <= 1))
