"""Quantisation-aware training: the network learns with its own rounding."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np

from gnsmall_keras import fields
from gnsmall_keras.config import ExportConfig, RunConfig
from gnsmall_keras.data.batches import EvaluationBatches, TrainingBatches
from gnsmall_keras.data.dataset import Dataset, stratified_subset
from gnsmall_keras.distill.checks import check_teacher, load_teacher
from gnsmall_keras.distill.distiller import Distiller
from gnsmall_keras.distill.losses import LabelAccuracy, LabelCrossEntropy
from gnsmall_keras.export.graph import Graph
from gnsmall_keras.models.deploy import to_deploy
from gnsmall_keras.quantization.simulation import Int8Simulation
from gnsmall_keras.recipes import RECIPES
from gnsmall_keras.records.run import RunRecord
from gnsmall_keras.training import evaluation
from gnsmall_keras.training.callbacks import ProgressLine, StopOnNaN
from gnsmall_keras.training.clock import Clock
from gnsmall_keras.training.experiment import cut_views, resolve
from gnsmall_keras.training.optimizers.schedules import WarmupCosine
from gnsmall_keras.training.splits import split

_WARMUP_FRACTION = 0.1
_SCALARS = "qat.json"
_CHECKED = (
    *("label_weight", "temperature"),
    *("epochs", "batch_size", "peak_learning_rate"),
)
_ARRAYS = ("images", "labels", "validation_images", "validation_labels")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class QuantizationTraining:
    """What a fused network learns its quantisation with.

    Attributes:
        images, labels: of the training split, uint8 `(n, height, width, 3)`
            and whole numbers `(n,)`.
        validation_images, validation_labels: the same, of images that are not
            learned from. The weights of the epoch with the least loss there
            are kept, or those from before the first; None: the last ones.
        epochs: passes over them.
        teacher: a model from normalised images to logits, whose student the
            network is while it learns; None: it learns from labels alone. The
            float network itself with `label_weight=0` and `temperature=1`
            keeps the file close to it.
        label_weight, temperature: of `Distiller`, with a teacher.
        peak_learning_rate: Adam's, reached after a tenth of all steps and
            then falling to zero.
        batch_size: images per step.
        flip: whether a mirrored image keeps its class.
        seed: of order and augmentation.

    Raises:
        ValueError: if a value breaks its rule.

    Example:
        >>> data = gns.load_data("digits")
        >>> training = gns.QuantizationTraining(
        ...     images=data.train_images, labels=data.train_labels, epochs=2
        ... )
        >>> training.batch_size
        64
    """

    images: np.ndarray
    labels: np.ndarray
    validation_images: np.ndarray | None = None
    validation_labels: np.ndarray | None = None
    epochs: int = 1
    teacher: keras.Model | None = None
    label_weight: float = 0.5
    temperature: float = 4.0
    peak_learning_rate: float = 1e-4
    batch_size: int = 64
    flip: bool = True
    seed: int = 0

    def __post_init__(self):
        _check_pair("images", self.images, "labels", self.labels)
        if (self.validation_images is None) != (self.validation_labels is None):
            raise ValueError(
                "Give `validation_images` and `validation_labels`, or neither. "
                "Received: one."
            )
        if self.validates:
            _check_pair(
                "validation_images",
                self.validation_images,
                "validation_labels",
                self.validation_labels,
            )
        rules = fields.rules(RunConfig)
        for name in _CHECKED:
            value = fields.check(name, rules[name], getattr(self, name))
            object.__setattr__(self, name, value)
        if len(self.images) < self.batch_size:
            raise ValueError(
                "`batch_size` must not exceed the number of images. Received: "
                f"batch_size={self.batch_size}, images={len(self.images)}."
            )

    @property
    def validates(self) -> bool:
        """Whether there are images to choose weights by."""
        return self.validation_images is not None

    def check(self, model: keras.Model) -> None:
        """Checks that images, labels and teacher fit a model.

        Raises:
            ValueError: if one does not.
        """
        shape, classes = model.input_shape[1:], model.output_shape[-1]
        _check_fit("images", self.images, self.labels, shape, classes)
        if self.validates:
            _check_fit(
                "validation_images",
                self.validation_images,
                self.validation_labels,
                shape,
                classes,
            )
        if self.teacher is not None:
            check_teacher(self.teacher, classes=classes, input_shape=shape)

    def save(self, folder: Path) -> None:
        """Writes it for another process."""
        for name in _ARRAYS:
            values = getattr(self, name)
            if values is not None:
                np.save(folder / f"qat-{name}.npy", values)
        if self.teacher is not None:
            self.teacher.save(folder / "qat-teacher.keras")
        (folder / _SCALARS).write_text(json.dumps(self._scalars()))

    def describe(self) -> dict[str, Any]:
        """Returns all but the images, as JSON can have it."""
        return {
            "images": len(self.images),
            "validation_images": (
                len(self.validation_images) if self.validates else None
            ),
            "teacher": self.teacher.name if self.teacher else None,
            **self._scalars(),
        }

    def _scalars(self):
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in (*_ARRAYS, "teacher")
        }

    @classmethod
    def load(cls, folder: Path) -> "QuantizationTraining":
        """Reads what `save` wrote."""
        teacher = folder / "qat-teacher.keras"
        files = {name: folder / f"qat-{name}.npy" for name in _ARRAYS}
        return cls(
            **{
                name: np.load(file) if file.is_file() else None
                for name, file in files.items()
            },
            teacher=keras.saving.load_model(teacher, compile=False)
            if teacher.is_file()
            else None,
            **json.loads((folder / _SCALARS).read_text()),
        )


def prepare_training(
    network: keras.Model,
    dataset: Dataset,
    config: ExportConfig,
    run: RunRecord | None = None,
) -> QuantizationTraining:
    """Returns what a network learns its quantisation with, as a config asks.

    It learns from the images that its run was fitted on, and is validated on
    those that the run held out.

    Args:
        network: branched or fused; its fused form teaches, where the config
            names no teacher.
        dataset: that of the run.
        config: of "int8-qat".
        run: that the network came of; without one, images are split as a
            training splits them by default.

    Raises:
        ValueError: if the teacher does not fit the network.
    """
    names = ("protocol", "validation_fraction", "seed")
    parted = {name: run.config[name] for name in names} if run else {}
    experiment = resolve(RunConfig(data=dataset.name, **parted))
    fitting, held_out, _ = split(dataset, experiment.partition)
    chosen = slice(None)
    if config.qat_images is not None:  # some of every class
        chosen = stratified_subset(fitting.labels, config.qat_images)
    images = fitting.images[chosen]
    return QuantizationTraining(
        images=images,
        labels=fitting.labels[chosen],
        validation_images=held_out.images if len(held_out.images) else None,
        validation_labels=held_out.labels if len(held_out.images) else None,
        epochs=config.qat_epochs,
        batch_size=min(QuantizationTraining.batch_size, len(images)),
        flip=dataset.flippable,
        **_teaching(network, dataset, config),
    )


def _teaching(network, dataset, config):
    if not config.teacher:
        return {
            "teacher": to_deploy(network),
            "label_weight": 0.0,
            "temperature": 1.0,
        }
    return {
        "teacher": load_teacher(
            config.teacher,
            classes=dataset.classes,
            input_shape=network.input_shape[1:],
            class_names=dataset.class_names,
        )
    }


def _check_pair(name, images, other, labels):
    if len(images) != len(labels) or not len(images):
        raise ValueError(
            f"`{name}` and `{other}` must be of one length, at least 1. "
            f"Received: {len(images)} and {len(labels)}."
        )


def _check_fit(name, images, labels, shape, classes):
    images, labels = np.asarray(images), np.asarray(labels)
    if images.dtype != np.uint8 or images.shape[1:] != shape:
        raise ValueError(
            f"`{name}` of the training must be uint8 pixels of shape "
            f"(n, {', '.join(map(str, shape))}). Received: {images.dtype} "
            f"{images.shape}."
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"Labels of `{name}` must be in [0, {classes}), the model's "
            f"classes. Received: {labels.min()} to {labels.max()}."
        )


def _targets(training):
    """What the validation images should be called, as soft labels.

    Of the labels and of the teacher as in training, but undivided by the
    temperature: the file's own probabilities are wanted.
    """
    labels = training.validation_labels
    if training.teacher is None:
        return labels
    logits = evaluation.predict_logits(
        training.teacher, training.validation_images
    )
    said = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
    hard = np.eye(said.shape[-1], dtype=np.float32)[labels]
    weight = training.label_weight
    return weight * hard + (1.0 - weight) * said


class KeepBest(keras.callbacks.Callback):
    """Leaves the weights with the least validation loss, the first included.

    Attributes:
        losses: before the first epoch, then after each.
    """

    def __init__(self, images, labels):
        super().__init__()
        self._batches = EvaluationBatches(images, labels)
        self.losses = []
        self._kept = None

    def on_train_begin(self, logs=None):
        """Measures what there is to lose."""
        self._measure()

    def on_epoch_end(self, epoch, logs=None):
        """Keeps the weights if none before were as good."""
        self._measure()

    def on_train_end(self, logs=None):
        """Goes back to the best weights."""
        self.model.student.set_weights(self._kept)

    def _measure(self):
        found = self.model.evaluate(self._batches, verbose=0, return_dict=True)
        if not self.losses or found["loss"] < min(self.losses):
            self._kept = self.model.student.get_weights()
        self.losses.append(found["loss"])


def batches_of(training: QuantizationTraining) -> TrainingBatches:
    """Returns normalised images with labels, as "best" sees them."""
    views = cut_views(RECIPES["best"], training.images.shape[1])
    return TrainingBatches(
        training.images,
        training.labels,
        batch_size=training.batch_size,
        seed=training.seed,
        views=dataclasses.replace(views, flip=training.flip),
        drop_remainder=True,
    )


def learn_quantization(
    network: Graph,
    quantized: Graph,
    training: QuantizationTraining,
    *,
    compressed: bool = False,
) -> list[float]:
    """Trains a float network to be good as its int8 file.

    Ranges stay as they were calibrated: the network fits itself into them.

    Args:
        network: float, with ranges; its kernels and biases are changed in
            place.
        quantized: the int8 file made of it.
        training: on what, for how long.
        compressed: of `Int8Simulation`.

    Returns:
        The losses on validation images, before the training and after each
        epoch; empty without such images.

    Raises:
        ValueError: if the network has operators that cannot be trained, or the
            loss stops being a number.
    """
    keras.utils.set_random_seed(training.seed)
    layer = Int8Simulation(network, quantized, compressed=compressed)
    images = keras.Input(training.images.shape[1:])
    student = keras.Model(images, layer(images), name="student")
    distiller = Distiller(
        student=student,
        teacher=training.teacher,
        label_weight=training.label_weight,
        temperature=training.temperature,
    )
    batches = batches_of(training)
    steps = training.epochs * len(batches)
    distiller.compile(
        optimizer=keras.optimizers.Adam(
            WarmupCosine(training.peak_learning_rate, steps, _WARMUP_FRACTION)
        ),
        loss=LabelCrossEntropy(),
        weighted_metrics=[LabelAccuracy()],
        jit_compile=False,
    )
    clock = Clock(len(batches))
    progress = ProgressLine(
        clock,
        epochs=training.epochs,
        batch_size=training.batch_size,
        title="int8-qat",
    )
    best = None
    if training.validates:
        best = KeepBest(training.validation_images, _targets(training))
    distiller.fit(
        batches,
        epochs=training.epochs,
        shuffle=False,  # the batches have their own, seeded order
        callbacks=[
            clock,
            StopOnNaN(batches, clock),
            progress,
            *([best] if best else []),
        ],
        verbose=0,
    )
    losses = best.losses if best else []
    if not losses or losses[0] > min(losses):  # else all is as it was
        layer.write_back()
    return losses
