"""One training run, from a config to a record."""

import dataclasses
import datetime
import functools
import json
import os
import re
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from gnsmall_keras import evaluation, records
from gnsmall_keras.config import DistillConfig, TrainConfig
from gnsmall_keras.data.batches import EvaluationBatches, TrainingBatches
from gnsmall_keras.data.dataset import Dataset, split_indices
from gnsmall_keras.data.sources import load_data
from gnsmall_keras.distill.cache import CachedTeacher, teacher_digest
from gnsmall_keras.distill.distiller import Distiller
from gnsmall_keras.distill.losses import LabelCrossEntropy
from gnsmall_keras.distill.teachers import CONFIDENCE, TeacherEnsemble
from gnsmall_keras.models.catalogue import NETWORKS, check_network
from gnsmall_keras.models.deploy import to_deploy
from gnsmall_keras.models.files import (
    MODEL_FILE,
    load_model,
    load_teacher,
    save_model,
)
from gnsmall_keras.models.registry import create_model
from gnsmall_keras.models.spec import HEAD_UNITS
from gnsmall_keras.recipes import Recipe
from gnsmall_keras.records import RunRecord
from gnsmall_keras.training import checkpoint
from gnsmall_keras.training.callbacks import ProgressLine, StopOnNaN
from gnsmall_keras.training.optimizers import CoupledSGD
from gnsmall_keras.training.schedules import WarmupCosine

RECORD_FILE = "record.json"
INDEX_FILE = "index.jsonl"
# Names of the variables whose decay a recipe with decay_all=False spares.
_SPARED = ("gamma", "beta", "bias")


class _Split(NamedTuple):
    images: np.ndarray
    labels: np.ndarray


class _Splits(NamedTuple):
    fitting: _Split
    validation: _Split  # held out; empty under protocol "paper"
    watched: _Split  # evaluated after every epoch


class _Stage(NamedTuple):
    """One network to train: the student, or an assistant on the way."""

    name: str
    config: TrainConfig
    folder: Path
    teachers: tuple[str, ...] = ()  # digests of their weights


def train(
    config: TrainConfig,
    *,
    out: str | os.PathLike = "runs",
    index: str | os.PathLike | None = None,
    progress: bool = True,
) -> RunRecord:
    """Trains one network, alone or from teachers; writes what came of it.

    Writes `out/<slug>/model.keras` (the branched student) and
    `out/<slug>/record.json`, and appends the record to `index`. While it
    trains, a checkpoint is there after every epoch: the same call goes on
    where an interrupted one was, and ends with the same weights.

    Args:
        config: what to train; a `DistillConfig` names teachers.
        out: folder of all runs.
        index: the JSON-lines file of records; by default `out/index.jsonl`.
        progress: whether to print a line per epoch, live in a terminal.

    Returns:
        The record that was appended.

    Raises:
        ValueError: if the config does not fit the data or a teacher, or the
            loss stops being a number.
    """
    dataset = load_data(config.data)
    splits = split(dataset, config)
    name = "student" if getattr(config, "assistants", ()) else ""
    student = _Stage(name, config, Path(out) / config.slug)
    student.folder.mkdir(parents=True, exist_ok=True)
    started_at = datetime.datetime.now(datetime.UTC)

    teachers, described = _teachers(config, dataset, splits, student, progress)
    cached = _cached(config, splits.fitting)
    if cached:
        described["teachers"] = [
            {"name": config.cache, "weights_digest": cached.teacher_digest}
        ]
    if described:
        student = student._replace(teachers=_digests(described))
    batches = _batches(
        splits.fitting, config, flip=dataset.flippable, cached=cached
    )
    model = _network(config, dataset)
    done = _learn(model, teachers, batches, splits, student, progress)

    record = _record(
        config, dataset, splits, model, done, described, started_at
    )
    save_model(model, student.folder / MODEL_FILE)
    with records.replacing(student.folder / RECORD_FILE) as unfinished:
        unfinished.write_text(record.to_json() + "\n", encoding="utf-8")
    records.append_record(record, index or Path(out) / INDEX_FILE)
    (student.folder / checkpoint.FILE).unlink(missing_ok=True)
    return record


def _record(config, dataset, splits, model, done, described, started_at):
    """What the run was and what came of it; reads the test split, once."""
    return RunRecord(
        slug=config.slug,
        digest=config.digest,
        config=dataclasses.asdict(config),
        recipe=dataclasses.asdict(config.resolved_recipe),
        data_digest=dataset.digest,
        backend=keras.config.backend(),
        **_sizes(model),
        train_images=len(splits.fitting.images),
        validation_images=len(splits.validation.images),
        test_images=len(dataset.test_images),
        train_loss=done.history["loss"][-1],
        validation_accuracy=_accuracy(model, splits.validation),
        test_accuracy=_accuracy(model, _test_split(dataset)),
        best_test_accuracy=(
            max(done.history["val_accuracy"])
            if config.protocol == "paper" and "val_accuracy" in done.history
            else None
        ),
        distillation=described,
        history=done.history,
        train_seconds=round(done.seconds, 1),
        started_at=started_at.isoformat(timespec="seconds"),
        commit=records.source_commit(),
        hardware=records.describe_hardware(),
        versions=records.package_versions(),
    )


def _teachers(config, dataset, splits, student, progress):
    """Returns what the student learns from, and what the record says of it.

    Assistants are trained on the way, or read where they already are.
    """
    if not isinstance(config, DistillConfig) or config.strategy == "baseline":
        return None, None
    load = functools.partial(
        load_teacher,
        classes=dataset.classes,
        input_shape=dataset.train_images.shape[1:],
    )
    chain = [load(path) for path in config.teachers]
    names = list(config.teachers)
    stages = []
    for number, name in enumerate(config.assistants, start=1):
        assistant = _assistant(name, config, student.folder, number)
        if assistant is None:
            chain.append(load(name))
        else:
            digests = tuple(teacher_digest(model) for model in chain)
            model, record = _taught_assistant(
                assistant._replace(teachers=digests),
                _joined(chain, config),
                dataset,
                splits,
                progress,
            )
            chain.append(model)
            stages.append(record)
        names.append(name)
    digests = [teacher_digest(model) for model in chain]
    described = {
        "teachers": [
            {"name": name, "weights_digest": digest}
            for name, digest in zip(names, digests, strict=True)
        ],
        "stages": stages,
    }
    return _joined(chain, config), described


def _digests(described):
    return tuple(t["weights_digest"] for t in described["teachers"])


def _assistant(name, config, folder, number):
    """The stage that trains it, or None if `name` is of a trained model."""
    match = re.fullmatch(r"(\w+?)(?:-w(\d+(?:\.\d+)?))?", name)
    if match is None or match[1] not in NETWORKS:
        return None
    scales = check_network(match[1]).scales
    own = dataclasses.replace(
        config,
        model=match[1],
        width=float(match[2] or 1.0),
        head_units=config.head_units if scales else HEAD_UNITS,
    )
    return _Stage(
        f"assistant {number}, {name}",
        own,
        folder / f"assistant-{number}-{name}",
    )


def _taught_assistant(stage, teachers, dataset, splits, progress):
    """Trains an assistant, or reads the one that an earlier call has trained.

    Returns:
        The model, and a dict for the record.
    """
    described = stage.folder / "stage.json"
    if described.is_file():
        record = json.loads(described.read_text(encoding="utf-8"))
        if record["teachers"] != list(stage.teachers):
            raise ValueError(
                f"{stage.folder} holds an assistant of other teachers: "
                f"{record['teachers']}, now {list(stage.teachers)}. Delete the "
                "folder to train it anew."
            )
        return load_model(stage.folder / MODEL_FILE), record
    stage.folder.mkdir(parents=True, exist_ok=True)
    batches = _batches(splits.fitting, stage.config, flip=dataset.flippable)
    model = _network(stage.config, dataset)
    done = _learn(model, teachers, batches, splits, stage, progress)
    save_model(model, stage.folder / MODEL_FILE)
    record = {
        "name": stage.name,
        "teachers": list(stage.teachers),
        "parameters": evaluation.count_parameters(model),
        "validation_accuracy": _accuracy(model, splits.validation),
        "train_seconds": round(done.seconds, 1),
        "history": done.history,
    }
    with records.replacing(described) as unfinished:
        unfinished.write_text(json.dumps(record), encoding="utf-8")
    (stage.folder / checkpoint.FILE).unlink(missing_ok=True)
    return model, record


def _joined(chain, config):
    """The last of a chain; or all, in an ensemble or a dense chain."""
    if config.strategy != "ensemble" and not config.dense:
        return chain[-1] if chain else None
    weights = config.teacher_weights or None
    if config.confidence_weights:
        weights = CONFIDENCE
    return TeacherEnsemble(chain, combine=config.combine, weights=weights)


def _learn(model, teachers, batches, splits, stage, progress):
    """Trains one network; returns how it went."""
    config = stage.config
    recipe = config.resolved_recipe
    options = {}
    if isinstance(config, DistillConfig) and config.strategy != "baseline":
        options = {
            "label_weight": config.label_weight,
            "temperature": config.temperature,
            "loss": config.loss,
            "expects_teacher": True,
        }
    distiller = Distiller(student=model, teacher=teachers, **options)
    compile_model(distiller, recipe, steps=recipe.epochs * len(batches))
    return _fit(distiller, batches, splits.watched, stage, progress)


def _network(config, dataset):
    keras.utils.set_random_seed(config.seed)
    options = {"classes": dataset.classes}
    if check_network(config.model).scales:
        options |= {"width": config.width, "head_units": config.head_units}
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(config.precision)
    try:
        return create_model(config.model, **options)
    finally:
        keras.config.set_dtype_policy(before)


def split(dataset: Dataset, config: TrainConfig) -> _Splits:
    """Returns the images to fit on, those held out, and those watched."""
    images, labels = dataset.train_images, dataset.train_labels
    if config.protocol == "paper":
        empty = _Split(images[:0], labels[:0])
        return _Splits(_Split(images, labels), empty, _test_split(dataset))
    fitting, held_out = split_indices(
        labels, fraction=config.validation_fraction, seed=config.seed
    )
    validation = _Split(images[held_out], labels[held_out])
    return _Splits(
        _Split(images[fitting], labels[fitting]), validation, validation
    )


def _cached(config, split):
    """The cache that teaches, or None."""
    if not getattr(config, "cache", ""):
        return None
    cached = CachedTeacher.load(
        config.cache, images=split.images, labels=split.labels
    )
    if cached.augment != config.augment:
        raise ValueError(
            f"The cache {config.cache} was made with augment="
            f"{cached.augment}. Received: augment={config.augment}. Make "
            "another, or train with the cache's."
        )
    return cached


def _batches(split, config, *, flip, cached=None):
    recipe = config.resolved_recipe
    if cached:
        return cached.batches(
            split.images,
            split.labels,
            batch_size=recipe.batch_size,
            seed=config.seed,
            shuffle=config.shuffle,
            drop_remainder=recipe.drop_remainder,
        )
    return TrainingBatches(
        split.images,
        split.labels,
        batch_size=recipe.batch_size,
        seed=config.seed,
        shuffle=config.shuffle,
        augment=config.augment,
        flip=flip,
        drop_remainder=recipe.drop_remainder,
    )


def _test_split(dataset):
    return _Split(dataset.test_images, dataset.test_labels)


def compile_model(model: keras.Model, recipe: Recipe, *, steps: int) -> None:
    """Compiles `model` for a training of `steps` steps after `recipe`."""
    schedule = WarmupCosine(
        recipe.peak_learning_rate, steps, recipe.warmup_fraction
    )
    optimizer = CoupledSGD(
        schedule, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    if not recipe.decay_all:
        optimizer.exclude_from_weight_decay(var_names=_SPARED)
    model.compile(
        optimizer=optimizer,
        loss=LabelCrossEntropy(recipe.label_smoothing),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=_jit_compile(),
    )
    _make_variables(model)


def _make_variables(model):
    """Makes the variables of optimiser, loss and metrics before training.

    TensorFlow traces the training step twice where the first trace makes any:
    half a minute more until the first step.
    """
    model.optimizer.build(model.trainable_variables)
    labels = keras.ops.zeros((1,), "int32")
    network = getattr(model, "student", model)
    logits = keras.ops.zeros((1, network.output_shape[-1]))
    model.compute_loss(y=labels, y_pred=logits)
    model.compute_metrics(None, labels, logits)
    model.reset_metrics()


def _jit_compile():
    """Keras's choice, but no XLA for TensorFlow on a CPU.

    There it compiles for over a minute (docs/log.md).
    """
    if keras.config.backend() != "tensorflow":
        return "auto"
    return "auto" if keras.distribution.list_devices("gpu") else False


def _fit(distiller, batches, watched, stage, progress):
    """Trains from the last checkpoint on; returns how it went."""
    recipe = stage.config.resolved_recipe
    path = stage.folder / checkpoint.FILE
    before = checkpoint.restore_checkpoint(
        distiller, path, teachers=stage.teachers
    )
    batches.start_at(before.epochs)
    best = stage.folder / "best.weights.h5"
    saving = checkpoint.SaveCheckpoints(path, before)
    line = ProgressLine(
        epochs=recipe.epochs,
        steps_per_epoch=len(batches),
        batch_size=recipe.batch_size,
        title=stage.name,
    )
    callbacks = [StopOnNaN(batches)]
    if stage.config.select == "validation":
        callbacks.append(_KeepBest(distiller, best, before.history))
    callbacks.append(saving)
    if progress:
        callbacks.append(line)
    try:
        distiller.fit(
            batches,
            epochs=recipe.epochs,
            initial_epoch=before.epochs,
            shuffle=False,  # the batches have their own, seeded order
            validation_data=(
                EvaluationBatches(*watched) if len(watched.images) else None
            ),
            callbacks=callbacks,
            verbose=0,
        )
    finally:
        line.close()
    if stage.config.select == "validation":
        distiller.student.load_weights(best)
        best.unlink()
    return saving.progress


class _KeepBest(keras.callbacks.Callback):
    """Writes the student's weights where validation accuracy is best."""

    def __init__(self, distiller, path, history):
        super().__init__()
        self._student = distiller.student
        self._path = path
        self._best = max(history.get("val_accuracy", ()), default=-1.0)

    def on_epoch_end(self, epoch, logs=None):
        accuracy = round(float((logs or {})["val_accuracy"]), 6)
        if accuracy > self._best and self.model:  # which brings JAX's state
            self._best = accuracy
            unfinished = self._path.with_name("unfinished.weights.h5")
            self._student.save_weights(unfinished)
            unfinished.replace(self._path)


def _sizes(model):
    deployed = to_deploy(model)
    return {
        "parameters": evaluation.count_parameters(model),
        "deployed_parameters": evaluation.count_parameters(deployed),
        "deployed_macs": evaluation.count_macs(deployed),
    }


def _accuracy(model, split):
    if not len(split.images):
        return None
    logits = evaluation.predict_logits(model, split.images)
    return evaluation.accuracy(logits, split.labels)
