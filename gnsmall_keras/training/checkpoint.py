"""A training's state, so that it can go on elsewhere or later."""

import json
import os
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple, cast

import keras
import numpy as np

from gnsmall_keras.config import complete
from gnsmall_keras.native.choice import check_kernels
from gnsmall_keras.training.clock import Clock
from gnsmall_keras.training.interruption import (
    BudgetTooShort,
    StopRequest,
    TrainingInterrupted,
)
from gnsmall_keras.writing import replacing

BEST_FILE = "best.weights.h5"  # of the student, where a run selects
_STATE = "state"


class Progress(NamedTuple):
    """How far a training is."""

    epochs: int  # complete ones
    history: dict[str, list[float]]  # a value for each of them
    seconds: float  # spent in fit so far
    teachers: tuple[str, ...] = ()  # digests of their weights
    steps: int = 0  # of the epoch that is not complete
    # Where and, but in older files, by what: of each session, this one last.
    machines: tuple[dict[str, Any], ...] = ()
    kernels: str = "keras"  # what computes the network, see `native.choice`
    loops: tuple[str, ...] = ()  # how steps were taken, the present way last

    def going_on_by(self, loop: str) -> "Progress":
        """Returns the same, with how the next steps are taken."""
        loops = self.loops
        if not loops and (self.epochs or self.steps):
            loops = ("steps",)  # an older file
        if loops[-1:] != (loop,):
            loops = (*loops, loop)
        return self._replace(loops=loops)


def save_checkpoint(
    model: keras.Model,
    progress: Progress,
    path: str | os.PathLike,
    *,
    identity: dict[str, Any],
) -> None:
    """Writes all variables of a compiled model, its optimiser and metrics.

    The file that was there is kept beside it as the previous one; both stay
    whole until the new one is complete.

    Args:
        model: compiled.
        progress: how far it is.
        path: the file.
        identity: all that decides the result, for JSON.

    Raises:
        OSError: if it cannot be written, with what is left.
    """
    path = Path(path)
    arrays = {
        f"{index:05d}": variable.numpy()
        for index, variable in enumerate(_variables(model))
    }
    state = {**progress._asdict(), "identity": identity}
    arrays[_STATE] = np.array(json.dumps(state))
    try:
        with replacing(path) as unfinished:
            with unfinished.open("wb") as file:
                np.savez(file, **arrays)
                file.flush()
                os.fsync(file.fileno())
            if _read(path) is not None:
                path.replace(previous_of(path))
    except OSError as error:
        left = "There is none before it."
        for file in (previous_of(path), path):
            if file.is_file():
                left = f"{file} of the time before is whole."
        raise OSError(
            f"The checkpoint {path} could not be written: "
            f"{error.strerror or error}. "
            f"{left} Make room, then give the same command again to go on."
        ) from None


def restore_checkpoint(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    identity: dict[str, Any],
    teachers: tuple[str, ...] = (),
) -> Progress:
    """Puts a checkpoint's values into a compiled and built model.

    Where the file is damaged, a warning says so and the previous one is taken.

    Args:
        model: what was saved.
        path: the file.
        identity: all that decides the result now.
        teachers: digests of those that teach now.

    Returns:
        How far it was; nowhere, and the model unchanged, where there is none.

    Raises:
        ValueError: if both files are damaged, or of a training of another
            identity, with other teachers or of another model.
    """
    path = Path(path)
    found = _read_newest(path)
    if found is None:
        return Progress(0, {}, 0.0, teachers)
    state, arrays = found
    check_identity(path, state.pop("identity"), identity)
    progress = Progress(**state)
    progress = progress._replace(
        teachers=tuple(progress.teachers),
        machines=tuple(progress.machines),
        loops=tuple(progress.loops),
    )
    if progress.teachers != tuple(teachers):
        raise ValueError(
            f"The training of {path} began with other teachers: "
            f"{list(progress.teachers)}, now {list(teachers)}. Delete the file "
            "to start it anew."
        )
    variables = _variables(model)
    shapes = [tuple(variable.shape) for variable in variables]
    if [array.shape for array in arrays] != shapes:
        raise ValueError(
            f"The checkpoint {path} is of another model. Delete it, or choose "
            "another output folder."
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
    return progress


def how_far(path: str | os.PathLike) -> tuple[int, int]:
    """Returns the epochs and steps of a checkpoint; zeros without one."""
    state = _newest_state(Path(path)) or {}
    return state.get("epochs", 0), state.get("steps", 0)


def kernels_to_go_on_with(path: str | os.PathLike) -> str:
    """Returns the kernels a training has begun with, or those asked for.

    Others round otherwise: its result would depend on where it was stopped.

    Args:
        path: of the checkpoint.

    Raises:
        ValueError: if others are asked for.
    """
    path = Path(path)
    asked = check_kernels("auto")
    state = _newest_state(path)
    if state is None:
        return asked
    begun = state.get("kernels", "keras")
    if asked not in ("auto", begun):
        raise ValueError(
            f"A training goes on with the kernels it began with, {begun!r} in "
            f"{path}. Received: kernels={asked!r}. Leave it out, or delete the "
            "file to start anew."
        )
    return begun


def remove(path: str | os.PathLike) -> None:
    """Deletes a checkpoint, the previous one and the best weights."""
    best = Path(path).with_name(BEST_FILE)
    for file in (Path(path), previous_of(path), best):
        file.unlink(missing_ok=True)


def previous_of(path: str | os.PathLike) -> Path:
    """Where the checkpoint before the one at `path` is."""
    return Path(path).with_name(f"previous-{Path(path).name}")


def _newest_state(path: Path) -> dict[str, Any] | None:
    """What the newest whole file says of its training; None without one."""
    found = filter(None, map(_read, (path, previous_of(path))))
    return next((state for state, _ in found), None)


def _read_newest(path: Path) -> tuple[dict[str, Any], list[np.ndarray]] | None:
    faults = []
    for file in (path, previous_of(path)):
        if not file.is_file():
            continue
        found = _read(file)
        if found is None:
            faults.append(f"{file} is damaged")
            continue
        if faults:
            warnings.warn(
                f"{faults[0]}; going on from the one before it.", stacklevel=4
            )
        return found
    if faults:
        raise ValueError(
            f"{' and '.join(faults)}. Delete it to start this training anew."
        )
    return None


def _read(file: Path) -> tuple[dict[str, Any], list[np.ndarray]] | None:
    """What a whole file holds, otherwise None."""
    try:
        with file.open("rb") as opened, np.load(opened) as stored:
            state = json.loads(str(stored[_STATE]))
            count = len(stored) - 1
            arrays = [stored[f"{index:05d}"] for index in range(count)]
    except Exception:  # NumPy, zip and zlib have no common one for damage
        return None
    needed = {"identity", "epochs", "history", "seconds"}
    known = {"identity", *Progress._fields}
    if not isinstance(state, dict) or not needed <= state.keys() <= known:
        return None
    return state, arrays


def check_identity(
    path: Path, stored: dict[str, Any], identity: dict[str, Any]
) -> None:
    """Checks that what a file is of has not changed since.

    Args:
        path: the file.
        stored: what decided its result, from JSON.
        identity: what decides it now.

    Raises:
        ValueError: with all that is different.
    """
    stored, now = (
        json.loads(json.dumps(complete(values)))
        for values in (stored, identity)
    )
    names = sorted(
        name
        for name in stored.keys() | now.keys()
        if stored.get(name) != now.get(name)
    )
    if names:
        fields = "; ".join(
            f"{name}: {stored.get(name)!r}, now {now.get(name)!r}"
            for name in names
        )
        raise ValueError(
            f"The training of {path} began otherwise. {fields}. Begin as at "
            "first to go on, or delete the file to start anew."
        )


class SaveCheckpoints(keras.callbacks.Callback):
    """Writes a checkpoint after every epoch, and where it has to stop.

    Args:
        path: the file.
        before: how far the training was when it began.
        clock: of the training.
        identity: all that decides the result.
        epochs: of the whole training.
        stop: whether to stop.
        session: where and by what the training goes on, for JSON.
        together: how many runs share the time that passes.

    Raises:
        TrainingInterrupted: after a step, with the checkpoint written.
        BudgetTooShort: if the time budget has passed with the first step.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        before: Progress,
        clock: Clock,
        *,
        identity: dict[str, Any],
        epochs: int,
        stop: StopRequest,
        session: dict[str, Any],
        together: int = 1,
    ):
        super().__init__()
        self._together = together
        self._path = path
        others = (one for one in before.machines if one != session)
        self._machines = (*others, session)
        self._before = before
        self._identity = identity
        self._epochs = epochs
        self._clock = clock
        self._stop = stop
        self._history = {k: list(v) for k, v in before.history.items()}
        self._began = time.perf_counter()
        self._metrics: list[np.ndarray] = []

    @property
    def progress(self) -> Progress:
        """How far the training is."""
        return Progress(
            max((len(values) for values in self._history.values()), default=0),
            self._history,
            self._before.seconds
            + (time.perf_counter() - self._began) / self._together,
            self._before.teachers,
            self._steps,
            self._machines,
            self._before.kernels,
            self._before.loops,
        )

    @property
    def _steps(self):
        """Of the epoch that is not complete."""
        return self._clock.step % self._clock.steps_per_epoch

    def set_model(self, model):
        """Notes the metrics of an epoch that goes on, before Keras resets."""
        super().set_model(model)
        if self._steps:
            self._metrics = [
                variable.numpy() for variable in model.metrics_variables
            ]

    def on_epoch_begin(self, epoch, logs=None):
        """Puts them back."""
        for variable, value in zip(
            self.model.metrics_variables, self._metrics, strict=False
        ):
            variable.assign(value)
        self._metrics = []

    def on_train_batch_end(self, batch, logs=None):
        """Stops, if it has to; after an epoch's last step that can wait."""
        self._stop.steps += self._clock.taken
        if self._steps and self._stop.reason:
            self._save()
            self._interrupt()

    def on_epoch_end(self, epoch, logs=None):
        """Writes the file."""
        for name, value in (logs or {}).items():
            self._history.setdefault(name, []).append(round(float(value), 6))
        self._save()
        if self.progress.epochs < self._epochs and self._stop.reason:
            self._interrupt()

    def _save(self):
        save_checkpoint(
            cast("keras.Model", self.model),
            self.progress,
            self._path,
            identity=self._identity,
        )

    def _interrupt(self):
        taken, stop = self._clock.taken, self._stop
        if stop.steps == taken and stop.out_of_time and not stop.was_asked:
            what = "one step takes" if taken == 1 else f"{taken} steps take"
            raise BudgetTooShort(
                f"`time_budget` is below what {what} here, with all that "
                "comes before, and nothing looks at it in between. Received: "
                f"{stop.seconds:g} s. They are saved; give more time to go on.",
                taken,
            )
        raise TrainingInterrupted(
            f"{stop.reason}. {self._path} holds "
            f"{self.progress.epochs} epochs and {self._steps} steps: the same "
            "command goes on there.",
            stop.steps,
        )


def _variables(model):
    # By their order, for names are not unique; other files differ in shapes.
    variables = [
        *model.variables,
        *model.optimizer.variables,
        *model.metrics_variables,  # of the epoch so far
    ]
    return list({id(variable): variable for variable in variables}.values())
