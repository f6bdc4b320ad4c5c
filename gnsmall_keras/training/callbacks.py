"""What a person sees while a model trains, and what stops it."""

import math
import os
import sys
import time
from collections.abc import Iterable

import keras
import numpy as np
from rich.console import Console
from rich.progress import (
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from gnsmall_keras.data.dataset import Dataset
from gnsmall_keras.lines import say
from gnsmall_keras.training.clock import Clock
from gnsmall_keras.training.optimizers.muon import exchange_averages


class ProgressLine(keras.callbacks.Callback):
    """One live line in a terminal, one line per epoch there and elsewhere.

    Elsewhere is all that is no terminal: a file, and a notebook's kernel, where
    rich would write HTML, and live lines where FORCE_COLOR is set.

    Args:
        clock: of the training.
        epochs: of the whole run.
        batch_size: images per batch, for the rate.
        title: of what is trained, before every line.
    """

    def __init__(
        self, clock: Clock, *, epochs: int, batch_size: int, title: str = ""
    ):
        super().__init__()
        self._clock = clock
        self._title = f"{title}: " if title else ""
        self._epochs = epochs
        self._batch_size = batch_size
        self._validation = {}  # the last epoch's accuracy
        self._console = Console(
            force_terminal=sys.stdout.isatty(),
            force_jupyter=False,
            markup=False,
            emoji=False,
        )
        self._live = Progress(
            TextColumn("{task.description}", markup=False),
            MofNCompleteColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[rate]}"),
            # What does not fit is cut off: it stays one line.
            TextColumn(
                "{task.fields[numbers]}",
                table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            ),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
            expand=True,
        )
        self._task = self._live.add_task(
            "compiling",
            start=False,
            total=epochs * clock.steps_per_epoch,
            rate="",
            numbers="",
        )

    def on_train_begin(self, logs=None):
        """Shows the line."""
        self._live.start_task(self._task)
        self._live.start()

    def on_epoch_begin(self, epoch, logs=None):
        """Notes the time, for the rate."""
        self._began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        """Moves the line, with the epoch's means so far."""
        logs = logs or {}
        terms = {
            name: value for name, value in logs.items() if name.endswith("loss")
        }
        total = {"loss": logs["loss"]}  # first, if the others do not fit
        self._live.update(
            self._task,
            completed=self._clock.total,
            description=self._title
            + f"epoch {self._clock.epoch + 1}/{self._epochs}",
            rate=self._rate(),
            numbers=_text(total | self._validation | terms),
        )

    def on_epoch_end(self, epoch, logs=None):
        """Prints the epoch's numbers."""
        logs = logs or {}
        if "val_accuracy" in logs:
            self._validation = {"validation": logs["val_accuracy"]}
        self._console.print(
            f"{self._title}epoch {epoch + 1}/{self._epochs}  {_text(logs)}  "
            f"{self._rate()}",
            highlight=False,
            soft_wrap=True,
        )

    def on_train_end(self, logs=None):
        """Removes the line."""
        self._live.stop()

    def close(self):
        """Removes the line, also after an error."""
        self._live.stop()

    def _rate(self):
        """Of this epoch so far."""
        seconds = time.perf_counter() - self._began
        rate = self._clock.step - self._clock.first
        rate *= self._batch_size / seconds
        return f"{rate:,.0f} images/s"


def _text(logs):
    return "  ".join(
        f"{name.replace('val_', 'validation ')} {value:.4f}"
        for name, value in logs.items()
    )


class EventFiles(keras.callbacks.Callback):
    """Writes what TensorBoard shows; its axis is the steps of the whole run.

    After each step "running/loss", the epoch's mean so far; after each epoch
    its logs, and the learning rate that the next step would have.

    Args:
        folder: of the files; each call adds one.
        clock: of the training.

    Raises:
        ValueError: if tensorboardX is not installed.
    """

    def __init__(self, folder: str | os.PathLike, clock: Clock):
        super().__init__()
        self._clock = clock
        self._writer = summary_writer()(
            str(folder),
            # What was written after the last checkpoint is written again.
            purge_step=clock.total + 1,
            # Names are of the second; a call may take less.
            filename_suffix=f".{clock.total}",
        )

    def on_train_batch_end(self, batch, logs=None):
        """Writes the loss."""
        self._writer.add_scalar("running/loss", logs["loss"], self._clock.total)

    def on_epoch_end(self, epoch, logs=None):
        """Writes the epoch's numbers."""
        rate = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        for name, value in {**(logs or {}), "learning_rate": rate}.items():
            self._writer.add_scalar(name, float(value), self._clock.total)
        self._writer.flush()

    def close(self):
        """Ends the file, also after an error."""
        self._writer.close()


def summary_writer():
    """The class that writes TensorBoard's files, without TensorFlow.

    Raises:
        ValueError: if its package is not installed.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise ValueError(
            "`tensorboard` needs a package that is not installed. Received: "
            "tensorboard=True. Run pip install 'gnsmall-keras[tensorboard]', "
            "or leave it out."
        ) from None
    return SummaryWriter


class MeasureAverages(keras.callbacks.Callback):
    """Validates the averages of weights, where an optimiser keeps them."""

    def on_test_begin(self, logs=None):
        """Puts them in the weights' place."""
        exchange_averages(self.model)

    def on_test_end(self, logs=None):
        """Puts the weights back, to go on training."""
        exchange_averages(self.model)


class StopOnNaN(keras.callbacks.Callback):
    """Stops a training whose loss is NaN or inf.

    Args:
        batches: `TrainingBatches`, which know their images.
        clock: of the training.

    Raises:
        ValueError: after the step, with the images of its batch; after several
            at once, with the steps' numbers and the images of the first.
    """

    def __init__(self, batches, clock: Clock):
        super().__init__()
        self._batches = batches
        self._clock = clock

    def on_epoch_end(self, epoch, logs=None):
        """Looks at all values of the epoch, those of validation too."""
        for name, value in (logs or {}).items():
            if not math.isfinite(float(value)):
                raise ValueError(
                    f"`{name}` is {float(value)} after epoch {epoch + 1}: the "
                    "training diverged. Lower `peak_learning_rate` or take "
                    "more warm-up; the last checkpoint is kept."
                )

    def _check_teacher(self, batch, images):
        """Looks whether it is the teacher that says NaN."""
        teacher = getattr(self.model, "teacher", None)
        if teacher is None:
            return
        seen = self._batches[batch][0]
        for network in teacher.models:
            logits = keras.ops.convert_to_numpy(network(seen, training=False))
            if not np.isfinite(np.asarray(logits, np.float32)).all():
                raise ValueError(
                    f"The teacher {network.name!r} gives logits that are NaN "
                    f"or inf for images {images[:8].tolist()}...; the student "
                    "cannot learn from them. Check its weights, or take "
                    "another; the last checkpoint is kept."
                )

    def on_train_batch_end(self, batch, logs=None):
        """Looks at the loss."""
        loss = float((logs or {}).get("loss", 0.0))
        if math.isfinite(loss):
            return
        epoch, last = self._clock.epoch, self._clock.step
        first = last + 1 - self._clock.taken
        where = f"step {last} of epoch {epoch + 1}, on"
        if first < last:
            where = (
                f"one of the steps {first} to {last} of epoch "
                f"{epoch + 1}, the first on"
            )
        images = self._batches.indices(epoch, first - 1)
        self._check_teacher(first - 1, images)
        raise ValueError(
            f"The loss is {loss} after {where} images "
            f"{images[:8].tolist()}... Lower `peak_learning_rate`, take more "
            "warm-up, or look at these images; the last checkpoint is kept."
        )


def tell_images(dataset: Dataset) -> None:
    """Prints what was left out of images of your own, and how they are read."""
    for line in dataset.lines():
        sys.stdout.write(f"{line}\n")


def tell_warnings(lines: Iterable[str]) -> None:
    """Prints what went wrong with a training, on standard error."""
    for line in lines:
        say(f"warning: {line}")
