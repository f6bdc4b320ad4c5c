"""What a person sees while a model trains, and what stops it."""

import math
import os
import sys
import time

import keras
from rich.console import Console
from rich.progress import (
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from gnsmall_keras.training.optimizers import exchange_averages


class ProgressLine(keras.callbacks.Callback):
    """One live line in a terminal, one line per epoch there and elsewhere.

    Elsewhere is all that is no terminal: a file, and a notebook's kernel, where
    rich would write HTML, and live lines where FORCE_COLOR is set.

    Args:
        epochs: of the whole run.
        steps_per_epoch: batches of one epoch.
        batch_size: images per batch, for the rate.
        title: of what is trained, before every line.
        steps_before: of its first epoch that an earlier call has done.
    """

    def __init__(
        self,
        *,
        epochs: int,
        steps_per_epoch: int,
        batch_size: int,
        title: str = "",
        steps_before: int = 0,
    ):
        super().__init__()
        self._title = f"{title}: " if title else ""
        self._epochs = epochs
        self._steps = steps_per_epoch
        self._batch_size = batch_size
        self._done = steps_before  # steps of this epoch
        self._validation = {}  # the last epoch's accuracy
        self._task = None
        self._console = Console(
            force_terminal=sys.stdout.isatty(), force_jupyter=False
        )
        self._live = Progress(
            TextColumn("{task.description}"),
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

    def on_train_begin(self, logs=None):
        """Shows the line."""
        if self._task is None:
            total = self._epochs * self._steps
            self._task = self._live.add_task(
                "compiling", total=total, rate="", numbers=""
            )
        self._live.start()

    def on_epoch_begin(self, epoch, logs=None):
        """Notes the time, for the rate."""
        self._epoch = epoch
        self._first = self._done
        self._began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        """Moves the line, with the epoch's means so far."""
        self._done = min(self._first + batch + 1, self._steps)
        terms = {
            name: value for name, value in logs.items() if name.endswith("loss")
        }
        total = {"loss": logs["loss"]}  # first, if the others do not fit
        self._live.update(
            self._task,
            completed=self._epoch * self._steps + self._done,
            description=f"{self._title}epoch {self._epoch + 1}/{self._epochs}",
            rate=self._rate(),
            numbers=_text(total | self._validation | terms),
        )

    def on_epoch_end(self, epoch, logs=None):
        """Prints the epoch's numbers."""
        logs = logs or {}
        rate = self._rate()
        self._done = 0
        if "val_accuracy" in logs:
            self._validation = {"validation": logs["val_accuracy"]}
        self._console.print(
            f"{self._title}epoch {epoch + 1}/{self._epochs}  {_text(logs)}  "
            f"{rate}",
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
        rate = (self._done - self._first) * self._batch_size / seconds
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
        steps_per_epoch: batches of one epoch.
        steps_before: of the run, done by earlier calls.

    Raises:
        ValueError: if tensorboardX is not installed.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        steps_per_epoch: int,
        steps_before: int = 0,
    ):
        super().__init__()
        self._steps = steps_before
        self._steps_per_epoch = steps_per_epoch
        self._writer = summary_writer()(
            str(folder),
            # What was written after the last checkpoint is written again.
            purge_step=steps_before + 1,
            # Names are of the second; a call may take less.
            filename_suffix=f".{steps_before}",
        )

    def on_epoch_begin(self, epoch, logs=None):
        """Notes where it begins, and where it will end."""
        self._first = self._steps
        self._end = (epoch + 1) * self._steps_per_epoch

    def on_train_batch_end(self, batch, logs=None):
        """Writes the loss."""
        self._steps = min(self._first + batch + 1, self._end)
        self._writer.add_scalar("running/loss", logs["loss"], self._steps)

    def on_epoch_end(self, epoch, logs=None):
        """Writes the epoch's numbers."""
        rate = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        for name, value in {**logs, "learning_rate": rate}.items():
            self._writer.add_scalar(name, float(value), self._steps)
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
    """Stops a training whose loss is no number any more.

    Args:
        batches: `TrainingBatches`, which know their images.
        steps_before: of its first epoch that an earlier call has done.
        steps_at_once: between two looks.

    Raises:
        ValueError: after the step, with the images of its batch; after several
            at once, with the steps' numbers and the images of the first.
    """

    def __init__(self, batches, steps_before=0, steps_at_once=1):
        super().__init__()
        self._batches = batches
        self._epoch = 0
        self._before = steps_before
        self._at_once = steps_at_once

    def on_epoch_begin(self, epoch, logs=None):
        """Notes the epoch."""
        self._epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        """The next one begins with its first step."""
        self._before = 0

    def on_train_batch_end(self, batch, logs=None):
        """Looks at the loss."""
        loss = float((logs or {}).get("loss", 0.0))
        if math.isfinite(loss):
            return
        first = self._before + batch + 2 - self._at_once
        last = min(self._before + batch + 1, len(self._batches))
        where = f"step {last} of epoch {self._epoch + 1}, on"
        if first < last:
            where = (
                f"one of the steps {first} to {last} of epoch "
                f"{self._epoch + 1}, the first on"
            )
        images = self._batches.indices(self._epoch, first - 1)
        raise ValueError(
            f"The loss is {loss} after {where} images "
            f"{images[:8].tolist()}... Lower `peak_learning_rate`, take more "
            "warm-up, or look at these images; the last checkpoint is kept."
        )
