"""A training's state after each epoch, so that it can go on elsewhere."""

import json
import os
import time
import zipfile
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from gnsmall_keras.records import replacing

FILE = "checkpoint.npz"
_HISTORY = "history"


class Progress(NamedTuple):
    """How far a training is."""

    epochs: int
    history: dict[str, list[float]]  # a value for each epoch
    seconds: float  # spent in fit so far
    teachers: tuple[str, ...] = ()  # digests of their weights


def save_checkpoint(
    model: keras.Model, progress: Progress, path: str | os.PathLike
) -> None:
    """Writes all variables of a compiled model and its optimiser.

    A file that was there stays whole until the new one is complete.
    """
    arrays = {
        f"{index:05d}": keras.ops.convert_to_numpy(variable.value)
        for index, variable in enumerate(_variables(model))
    }
    arrays[_HISTORY] = np.array(json.dumps(progress._asdict()))
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, **arrays)


def restore_checkpoint(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    teachers: tuple[str, ...] = (),
) -> Progress:
    """Puts a checkpoint's values into a compiled and built model.

    Args:
        model: what was saved.
        path: the file.
        teachers: digests of those that teach now.

    Returns:
        How far it was; nowhere, and the model unchanged, where there is none.

    Raises:
        ValueError: if the file is damaged, of another model, or of a training
            with other teachers.
    """
    path = Path(path)
    if not path.is_file():
        return Progress(0, {}, 0.0, teachers)
    variables = _variables(model)
    try:
        with path.open("rb") as file, np.load(file) as stored:
            progress = Progress(**json.loads(str(stored[_HISTORY])))
            arrays = [stored[f"{i:05d}"] for i in range(len(stored) - 1)]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"The checkpoint {path} is damaged ({error}). Delete it to start "
            "this training anew."
        ) from None
    if list(progress.teachers) != list(teachers):
        raise ValueError(
            f"The training of {path} began with other teachers: "
            f"{list(progress.teachers)}, now {list(teachers)}. Delete the file "
            "to start it anew."
        )
    shapes = [tuple(variable.shape) for variable in variables]
    if [array.shape for array in arrays] != shapes:
        raise ValueError(
            f"The checkpoint {path} is of another model. Delete it, or choose "
            "another output folder."
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
    return progress


class SaveCheckpoints(keras.callbacks.Callback):
    """Writes a checkpoint after every epoch.

    Args:
        path: the file.
        before: how far the training was when it began.
    """

    def __init__(self, path: str | os.PathLike, before: Progress):
        super().__init__()
        self._path = path
        self._before = before
        self._history = {k: list(v) for k, v in before.history.items()}
        self._began = time.perf_counter()

    @property
    def progress(self) -> Progress:
        """How far the training is."""
        return Progress(
            max((len(values) for values in self._history.values()), default=0),
            self._history,
            self._before.seconds + time.perf_counter() - self._began,
            self._before.teachers,
        )

    def on_train_begin(self, logs=None):
        """Starts the clock."""
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """Writes the file."""
        for name, value in (logs or {}).items():
            self._history.setdefault(name, []).append(round(float(value), 6))
        save_checkpoint(self.model, self.progress, self._path)


def _variables(model):
    # Names are not unique, so the order counts; a damaged or foreign file
    # shows in the shapes.
    return [*model.variables, *model.optimizer.variables]
