"""A training that is ready: what it needs, what watches it, its checkpoint."""

from pathlib import Path
from typing import Any, NamedTuple

import keras

from gnsmall_keras.data.batches import EvaluationBatches, TrainingBatches
from gnsmall_keras.distill.distiller import Distiller
from gnsmall_keras.records.folders import CHECKPOINT_FILE
from gnsmall_keras.training import checkpoint
from gnsmall_keras.training.callbacks import (
    EventFiles,
    MeasureAverages,
    ProgressLine,
    StopOnNaN,
)
from gnsmall_keras.training.clock import Clock
from gnsmall_keras.training.experiment import Experiment
from gnsmall_keras.training.interruption import StopRequest
from gnsmall_keras.training.optimizers.muon import exchange_averages
from gnsmall_keras.training.splits import Split
from gnsmall_keras.writing import replacing

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
    session: dict[str, Any]  # by what: `provenance.describe_session`
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
        session={**stage.machine, **stage.session},
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
