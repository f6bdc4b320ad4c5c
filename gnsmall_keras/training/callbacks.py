"""What a person sees while a model trains, and what stops it."""

import math
import time

import keras
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from gnsmall_keras.training.optimizers import exchange_averages


class ProgressLine(keras.callbacks.Callback):
    """One live line in a terminal, one line per epoch elsewhere.

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
        self._task = None
        self._console = Console()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("steps, left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )

    def on_train_begin(self, logs=None):
        """Shows the line."""
        if self._task is None:
            total = self._epochs * self._steps
            self._task = self._bar.add_task("compiling", total=total)
        self._bar.start()

    def on_epoch_begin(self, epoch, logs=None):
        """Notes the time, for the rate."""
        self._epoch = epoch
        self._first = self._done
        self._began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        """Moves the bar."""
        self._done += 1
        self._bar.update(
            self._task,
            completed=self._epoch * self._steps + self._done,
            description=f"{self._title}epoch {self._epoch + 1}/{self._epochs}",
        )

    def on_epoch_end(self, epoch, logs=None):
        """Prints the epoch's numbers."""
        seconds = time.perf_counter() - self._began
        rate = (self._done - self._first) * self._batch_size / seconds
        self._done = 0
        numbers = "  ".join(
            f"{name.replace('val_', 'validation ')} {value:.4f}"
            for name, value in (logs or {}).items()
        )
        self._console.print(
            f"{self._title}epoch {epoch + 1}/{self._epochs}  {numbers}  "
            f"{rate:,.0f} images/s",
            highlight=False,
            soft_wrap=True,
        )

    def on_train_end(self, logs=None):
        """Removes the line."""
        self._bar.stop()

    def close(self):
        """Removes the line, also after an error."""
        self._bar.stop()


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

    Raises:
        ValueError: after the step, with the images of its batch.
    """

    def __init__(self, batches, steps_before=0):
        super().__init__()
        self._batches = batches
        self._epoch = 0
        self._before = steps_before

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
        step = self._before + batch
        images = self._batches.indices(self._epoch, step)
        raise ValueError(
            f"The loss is {loss} after step {step + 1} of epoch "
            f"{self._epoch + 1}, on images {images[:8].tolist()}... Lower "
            "`peak_learning_rate`, take more warm-up, or look at these images; "
            "the last checkpoint is kept."
        )
