"""One training run, from a config to a record."""

import dataclasses
import datetime
import math
import os
import time
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from gnsmall_keras import evaluation, records
from gnsmall_keras.config import TrainConfig
from gnsmall_keras.data.batches import EvaluationBatches, TrainingBatches
from gnsmall_keras.data.dataset import Dataset, split_indices
from gnsmall_keras.data.sources import load_data
from gnsmall_keras.distill.losses import LabelCrossEntropy
from gnsmall_keras.models.catalogue import check_network
from gnsmall_keras.models.deploy import to_deploy
from gnsmall_keras.models.files import MODEL_FILE, save_model
from gnsmall_keras.models.registry import create_model
from gnsmall_keras.recipes import Recipe
from gnsmall_keras.records import RunRecord
from gnsmall_keras.training.callbacks import ProgressLine
from gnsmall_keras.training.optimizers import CoupledSGD
from gnsmall_keras.training.schedules import WarmupCosine

RECORD_FILE = "record.json"
INDEX_FILE = "index.jsonl"
# Names of the variables whose decay a recipe with decay_all=False spares.
_SPARED = ("gamma", "beta", "bias")


class _Split(NamedTuple):
    images: np.ndarray
    labels: np.ndarray


def train(
    config: TrainConfig,
    *,
    out: str | os.PathLike = "runs",
    index: str | os.PathLike | None = None,
    progress: bool = True,
) -> RunRecord:
    """Trains one network and writes down what came of it.

    Writes `out/<slug>/model.keras` (the branched network) and
    `out/<slug>/record.json`, and appends the record to `index`.

    Args:
        config: what to train.
        out: folder of all runs.
        index: the JSON-lines file of records; by default `out/index.jsonl`.
        progress: whether to print a line per epoch, live in a terminal.

    Returns:
        The record that was appended.

    Raises:
        ValueError: if the config does not fit the data, or the loss stops
            being a number.
    """
    recipe = config.resolved_recipe
    dataset = load_data(config.data)
    fitting, validation, watched = _splits(dataset, config)
    keras.utils.set_random_seed(config.seed)
    model = _network(config, dataset)
    batches = _batches(fitting, config, flip=dataset.flippable)
    compile_model(model, recipe, steps=recipe.epochs * len(batches))
    folder = Path(out) / config.slug
    folder.mkdir(parents=True, exist_ok=True)

    started_at = datetime.datetime.now(datetime.UTC)
    began = time.perf_counter()
    history = _fit(model, batches, watched, config, folder, progress)
    seconds = time.perf_counter() - began

    record = RunRecord(
        slug=config.slug,
        digest=config.digest,
        config=dataclasses.asdict(config),
        recipe=dataclasses.asdict(recipe),
        data_digest=dataset.digest,
        backend=keras.config.backend(),
        **_sizes(model),
        train_images=len(fitting.images),
        validation_images=len(validation.images),
        test_images=len(dataset.test_images),
        train_loss=history["loss"][-1],
        validation_accuracy=_accuracy(model, validation),
        test_accuracy=_accuracy(model, _test_split(dataset)),
        best_test_accuracy=(
            max(history["val_accuracy"])
            if config.protocol == "paper" and "val_accuracy" in history
            else None
        ),
        history=history,
        train_seconds=round(seconds, 1),
        started_at=started_at.isoformat(timespec="seconds"),
        commit=records.source_commit(),
        hardware=records.describe_hardware(),
        versions=records.package_versions(),
    )
    save_model(model, folder / MODEL_FILE)
    with records.replacing(folder / RECORD_FILE) as unfinished:
        unfinished.write_text(record.to_json() + "\n", encoding="utf-8")
    records.append_record(record, index or Path(out) / INDEX_FILE)
    return record


def _network(config, dataset):
    options = {"classes": dataset.classes}
    if check_network(config.model).scales:
        options |= {"width": config.width, "head_units": config.head_units}
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(config.precision)
    try:
        return create_model(config.model, **options)
    finally:
        keras.config.set_dtype_policy(before)


def _splits(dataset: Dataset, config: TrainConfig):
    """Returns (to fit on, held out, watched while fitting)."""
    images, labels = dataset.train_images, dataset.train_labels
    if config.protocol == "paper":
        empty = _Split(images[:0], labels[:0])
        return _Split(images, labels), empty, _test_split(dataset)
    fitting, held_out = split_indices(
        labels, fraction=config.validation_fraction, seed=config.seed
    )
    validation = _Split(images[held_out], labels[held_out])
    return _Split(images[fitting], labels[fitting]), validation, validation


def _batches(split, config, *, flip):
    recipe = config.resolved_recipe
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
    logits = keras.ops.zeros((1, model.output_shape[-1]))
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


def _fit(model, batches, watched, config, folder, progress):
    recipe = config.resolved_recipe
    callbacks = [_StopOnNaN()]
    line = ProgressLine(
        epochs=recipe.epochs,
        steps_per_epoch=len(batches),
        batch_size=recipe.batch_size,
    )
    if progress:
        callbacks.append(line)
    best = folder / "best.weights.h5"
    if config.select == "validation":
        callbacks.append(
            keras.callbacks.ModelCheckpoint(
                best,
                monitor="val_accuracy",
                mode="max",
                save_best_only=True,
                save_weights_only=True,
            )
        )
    try:
        fitted = model.fit(
            batches,
            epochs=recipe.epochs,
            shuffle=False,  # the batches have their own, seeded order
            validation_data=(
                EvaluationBatches(*watched) if len(watched.images) else None
            ),
            callbacks=callbacks,
            verbose=0,
        )
    finally:
        line.close()
    if config.select == "validation":
        model.load_weights(best)
        best.unlink()
    return {
        name: [round(float(value), 6) for value in values]
        for name, values in fitted.history.items()
    }


class _StopOnNaN(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise ValueError(
                f"The loss is {loss} in epoch {epoch + 1}. Lower "
                "`peak_learning_rate` or take more warm-up."
            )


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
