"""One network learns: compiled after a recipe, from its last checkpoint on."""

from pathlib import Path
from typing import Any, NamedTuple

import keras

from gnsmall_keras.data.batches import (
    EvaluationBatches,
    RemainingBatches,
    TrainingBatches,
)
from gnsmall_keras.data.dataset import Dataset
from gnsmall_keras.distill.distiller import Distiller
from gnsmall_keras.distill.losses import LabelAccuracy, LabelCrossEntropy
from gnsmall_keras.distill.teachers import TeacherEnsemble
from gnsmall_keras.models.keras_private import set_random_seed
from gnsmall_keras.models.registry import create_model
from gnsmall_keras.models.saving.pretrained import start_from
from gnsmall_keras.recipes import Recipe
from gnsmall_keras.records.folders import CHECKPOINT_FILE
from gnsmall_keras.training import checkpoint, devices
from gnsmall_keras.training.callbacks import (
    EventFiles,
    MeasureAverages,
    ProgressLine,
    StopOnNaN,
)
from gnsmall_keras.training.clock import Clock
from gnsmall_keras.training.experiment import Experiment, Network
from gnsmall_keras.training.interruption import StopRequest
from gnsmall_keras.training.optimizers.muon import (
    CoupledSGD,
    PointwiseMuon,
    exchange_averages,
)
from gnsmall_keras.training.optimizers.schedules import (
    WarmupCosine,
    WarmupLinear,
)
from gnsmall_keras.training.scan.choice import choose_loop
from gnsmall_keras.training.splits import Split
from gnsmall_keras.writing import replacing

# Names of the variables whose decay a recipe with decay_all=False spares.
_SPARED = ("gamma", "beta", "bias")
_SCHEDULES = {"cosine": WarmupCosine, "linear": WarmupLinear}
_TENSORBOARD = "tensorboard"  # the folder of its files


class Stage(NamedTuple):
    """One network to train: the student, or an assistant on the way."""

    name: str
    experiment: Experiment
    folder: Path
    stop: StopRequest
    progress: bool  # whether to print
    data_digest: str
    machine: dict[str, Any]  # what it is trained on, for the record
    teachers: tuple[str, ...] = ()  # digests of their weights
    tensorboard: bool = False  # whether to write files for it
    loop: str = "auto"  # a program for each step, or for a chunk of them

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides its result, but for the teachers."""
        return {
            **self.experiment.identity,
            "backend": keras.config.backend(),
            "data_digest": self.data_digest,
        }


def create_network(network: Network, dataset: Dataset) -> keras.Model:
    """Returns the network with its seed's initial weights."""
    set_random_seed(network.seed)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(network.precision)
    try:
        model = create_model(
            network.model,
            classes=dataset.classes,
            **_shape(dataset),
            **network.options,
        )
    finally:
        keras.config.set_dtype_policy(before)
    if network.start != "random":
        start_from(
            model, network.start, network=network.model, width=network.width
        )
    return model


def _shape(dataset):
    """That of images, where it is not the usual one."""
    shape = dataset.train_images.shape[1:]
    return {} if shape == (32, 32, 3) else {"input_shape": shape}


def learn(
    model: keras.Model,
    teachers: keras.Model | TeacherEnsemble | None,
    batches: TrainingBatches,
    monitored: Split,
    stage: Stage,
) -> checkpoint.Progress:
    """Trains one network in place; returns how it went."""
    distiller = make_distiller(model, teachers, len(batches), stage)
    loop = choose_loop(stage.loop, distiller, stage.experiment.learning.devices)
    fitting = prepare(distiller, batches, monitored, stage, loop=loop)
    try:
        if loop == "chunks":
            from gnsmall_keras.training.scan.single import fit_by_chunks

            fit_by_chunks(fitting)
        else:
            _fit(fitting)
    finally:
        fitting.close()
    return fitting.finish()


def make_distiller(
    model: keras.Model,
    teachers: keras.Model | TeacherEnsemble | None,
    steps_per_epoch: int,
    stage: Stage,
) -> Distiller:
    """Returns a compiled Distiller that trains a model."""
    recipe = stage.experiment.learning.recipe
    teaching = stage.experiment.teaching
    kernels = checkpoint.kernels_to_go_on_with(stage.folder / CHECKPOINT_FILE)
    options = {**(teaching.options if teaching else {}), "kernels": kernels}
    distiller = Distiller(student=model, teacher=teachers, **options)
    compile_model(distiller, recipe, steps=recipe.epochs * steps_per_epoch)
    return distiller


def compile_model(model: keras.Model, recipe: Recipe, *, steps: int) -> None:
    """Compiles `model` for a training of `steps` steps after `recipe`."""
    schedule = _SCHEDULES[recipe.schedule](
        recipe.peak_learning_rate, steps, recipe.warmup_fraction
    )
    options = {
        "momentum": recipe.momentum,
        "weight_decay": recipe.weight_decay,
        "use_ema": recipe.ema_momentum != 0,
        "ema_momentum": recipe.ema_momentum,
    }
    if recipe.optimizer == "muon":
        optimizer = PointwiseMuon(
            schedule,
            muon_scale=recipe.muon_scale,
            muon_weight_decay=recipe.muon_weight_decay,
            muon_gates=recipe.muon_gates,
            **options,
        )
    else:
        optimizer = CoupledSGD(schedule, **options)
    if not recipe.decay_all:
        optimizer.exclude_from_weight_decay(var_names=_SPARED)
    model.compile(
        optimizer=optimizer,
        loss=LabelCrossEntropy(recipe.label_smoothing),
        # Weighted, for the images that fill up a batch of several devices.
        weighted_metrics=[LabelAccuracy()],
        jit_compile=_jit_compile(),
        steps_per_execution=devices.steps_at_once(),
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


def _jit_compile() -> Any:
    """Keras's choice, but for TensorFlow only on one GPU.

    On a CPU it compiles for over a minute (docs/log.md).
    """
    if keras.config.backend() != "tensorflow":
        return "auto"
    return "auto" if devices.on_one_gpu() else False


class Fitting(NamedTuple):
    """A training that is ready to begin or to go on."""

    distiller: Distiller
    batches: TrainingBatches
    validation: EvaluationBatches | None
    callbacks: list[keras.callbacks.Callback]
    stage: Stage
    before: checkpoint.Progress
    saving: checkpoint.SaveCheckpoints

    @property
    def epochs(self) -> int:
        """Those of the whole training."""
        return self.stage.experiment.learning.recipe.epochs

    def close(self) -> None:
        """Ends what shows how it goes."""
        for callback in self.callbacks:
            if isinstance(callback, EventFiles | ProgressLine):
                callback.close()

    def finish(self) -> checkpoint.Progress:
        """Leaves the distiller with the weights to keep; returns how it was."""
        exchange_averages(self.distiller)
        if self.stage.experiment.learning.select == "validation":
            best = self.stage.folder / checkpoint.BEST_FILE
            self.distiller.student.load_weights(best)
        return self.saving.progress


def prepare(
    distiller: Distiller,
    batches: TrainingBatches,
    monitored: Split,
    stage: Stage,
    *,
    loop: str = "steps",
    together: int = 1,
) -> Fitting:
    """Puts a checkpoint's values into a compiled Distiller; returns the rest.

    Args:
        distiller: compiled.
        batches: to train on.
        monitored: images to validate on.
        stage: what is trained.
        loop: how, for the record.
        together: how many runs share the time.
    """
    learning = stage.experiment.learning
    path = stage.folder / CHECKPOINT_FILE
    before = checkpoint.restore_checkpoint(
        distiller, path, identity=stage.identity, teachers=stage.teachers
    )
    before = before._replace(kernels=distiller.chosen_kernels)
    if before.epochs < learning.recipe.epochs:
        before = before.going_on_by(loop)
    best = stage.folder / checkpoint.BEST_FILE
    clock = Clock(len(batches), before.epochs, before.steps)
    saving = checkpoint.SaveCheckpoints(
        path,
        before,
        clock,
        identity=stage.identity,
        epochs=learning.recipe.epochs,
        stop=stage.stop,
        machine=stage.machine,
        together=together,
    )
    callbacks = [
        clock,
        # Keras may begin an epoch to look at the data alone.
        keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: batches.start_at(epoch)
        ),
        StopOnNaN(batches, clock),
        MeasureAverages(),
    ]
    if learning.select == "validation":
        callbacks.append(_KeepBest(distiller, best, before.history))
    callbacks += [*_watchers(stage, clock), saving]
    validation = None
    if len(monitored.images):
        validation = EvaluationBatches(*monitored, devices=learning.devices)
    return Fitting(
        distiller, batches, validation, callbacks, stage, before, saving
    )


def _fit(fitting: Fitting) -> None:
    """Trains by Keras's loop, a program for each step."""
    batches, before = fitting.batches, fitting.before

    def fit(part, first, last):
        fitting.distiller.fit(
            part,
            epochs=last,
            initial_epoch=first,
            shuffle=False,  # the batches have their own, seeded order
            validation_data=fitting.validation,
            callbacks=fitting.callbacks,
            verbose=0,
        )

    first = before.epochs
    if before.steps:  # the rest of an epoch that was interrupted
        fit(RemainingBatches(batches, before.steps), first, first + 1)
        first += 1
    fit(batches, first, fitting.epochs)


def _watchers(stage, clock):
    """What shows a person how it goes, as far as it is wanted."""
    learning = stage.experiment.learning
    watchers = []
    if stage.tensorboard:
        watchers.append(EventFiles(stage.folder / _TENSORBOARD, clock))
    if stage.progress:
        line = ProgressLine(
            clock,
            epochs=learning.recipe.epochs,
            batch_size=learning.batch_size,
            title=stage.name,
        )
        watchers.append(line)
    return watchers


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
            exchange_averages(self.model)
            with replacing(self._path) as unfinished:
                self._student.save_weights(unfinished)
            exchange_averages(self.model)
