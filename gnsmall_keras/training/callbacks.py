"""What a person sees while a model trains."""

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


class ProgressLine(keras.callbacks.Callback):
    """One live line in a terminal, one line per epoch elsewhere.

    Args:
        epochs: of the whole run.
        steps_per_epoch: batches of one epoch.
        batch_size: images per batch, for the rate.
    """

    def __init__(self, *, epochs: int, steps_per_epoch: int, batch_size: int):
        super().__init__()
        self._epochs = epochs
        self._steps = steps_per_epoch
        self._batch_size = batch_size
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
        total = self._epochs * self._steps
        self._task = self._bar.add_task("compiling", total=total)
        self._bar.start()

    def on_epoch_begin(self, epoch, logs=None):
        """Notes the time, for the rate."""
        self._epoch = epoch
        self._began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        """Moves the bar."""
        description = f"epoch {self._epoch + 1}/{self._epochs}"
        self._bar.update(self._task, advance=1, description=description)

    def on_epoch_end(self, epoch, logs=None):
        """Prints the epoch's numbers."""
        seconds = time.perf_counter() - self._began
        rate = self._steps * self._batch_size / seconds
        numbers = "  ".join(
            f"{name.replace('val_', 'validation ')} {value:.4f}"
            for name, value in (logs or {}).items()
        )
        self._console.print(
            f"epoch {epoch + 1}/{self._epochs}  {numbers}  "
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
