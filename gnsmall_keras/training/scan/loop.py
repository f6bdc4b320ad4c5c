"""Epochs of one run, or of several in one program, looked at between chunks."""

import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import keras
import numpy as np

from gnsmall_keras.data.batches import TrainingBatches
from gnsmall_keras.distill.distiller import Distiller
from gnsmall_keras.models import keras_private
from gnsmall_keras.training.interruption import StopRequest
from gnsmall_keras.training.scan import plan as plans
from gnsmall_keras.training.scan.images import Shape
from gnsmall_keras.training.scan.programs import (
    Programs,
    joined,
    state_of,
)

_KINDS = (
    "trainable_variables",
    "non_trainable_variables",
    "optimizer_variables",
    "metrics_variables",
)


class Run(NamedTuple):
    """One training in a loop."""

    model: Distiller
    batches: TrainingBatches
    callbacks: keras.callbacks.CallbackList
    own: Mapping[str, Any] = MappingProxyType({})  # its numbers and rows
    validated: Mapping[str, Any] = MappingProxyType({})  # the same there


class Part(NamedTuple):
    """Images on the device, with the plan of reading them in order."""

    data: dict[str, Any]
    shape: Shape
    plan: Sequence[plans.Plan] = ()


class _Planned(NamedTuple):
    """An epoch that is drawn, on the device."""

    epoch: int
    parts: list[plans.Plan]  # of whole batches, then of a short one
    logits: dict[str, Any]  # of cached teachers


class ScanLoop:
    """Trains by chunks; the callbacks look on as they do in Keras's `fit`.

    A run of several whose callbacks raise an error is left behind: its values
    are computed on, which costs nothing more, and nobody looks at them.

    Args:
        runs: alike; each with its own state, order and numbers.
        training: images to train on.
        validation: images to validate on, with their plan; or None.
        stop: told how long a chunk takes.

    Attributes:
        errors: of runs that were left behind, by their numbers.
        trips: between host and device so far, each a wait of the host.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        training: Part,
        validation: Part | None,
        stop: StopRequest,
    ):
        self._runs = runs
        self._stop = stop
        self._several = len(runs) > 1
        self._training = self._with_own(training, [r.own for r in runs])
        self._validation = validation and self._with_own(
            validation, [run.validated for run in runs]
        )
        self.errors: dict[int, Exception] = {}
        self.trips = 0
        self._frozen, same = self._teachers()
        self._programs = Programs(
            runs[0].model, runs=len(runs), same_teachers=same
        )
        self._planned: _Planned | None = None
        self._compiled: set[tuple[int, int]] = set()  # kinds of chunks

    def train(self, epoch: int, step: int, epochs: int) -> None:
        """Trains from a step of an epoch, both counted from 0, to the end.

        Raises:
            Exception: what a callback raises; of several runs see `errors`.
        """
        self._tell("on_train_begin")
        logs = [{}] * len(self._runs)
        try:
            for number in range(epoch, epochs):
                logs = self._epoch(number, step, epochs)
                step = 0
                if len(self.errors) == len(self._runs):
                    break
        finally:
            self._stop.ahead = 0.0
            for run in self._runs:
                run.model.jax_state_sync()
        self._tell("on_train_end", logs)
        for run in self._runs:
            keras_private.drop_state(run.model)

    def _epoch(self, epoch, step, epochs):
        for run in self._runs:
            run.model.reset_metrics()
        self._tell("on_epoch_begin", epoch)
        _, planned, logits = self._plan(epoch)
        data = {**self._training.data, **logits}
        state = self._take()
        logs = [{}] * len(self._runs)
        chunks = self._chunks(planned, step)
        for number, (part, first, size) in enumerate(chunks):
            began = time.perf_counter()
            self._tell("on_train_batch_begin", first)
            found, state = self._programs.train(
                state,
                self._frozen,
                data,
                planned[part],
                first - part * self._whole(planned),
                shape=self._training.shape,
                length=size,
            )
            if number == len(chunks) - 1 and epoch + 1 < epochs:
                self._planned = self._draw(epoch + 1)  # while the device works
            logs = self._fetch(found)
            self._put(state)
            if (part, size) in self._compiled:
                self._stop.ahead = time.perf_counter() - began
            self._compiled.add((part, size))
            self._look()
            self._tell("on_train_batch_end", first + size - 1 - step, logs)
            if len(self.errors) == len(self._runs):
                return logs
            if not self._several and keras_private.is_synced(
                self._runs[0].model
            ):
                state = self._take()
        for run in self._runs:
            run.model.jax_state_sync()
        self._validate(logs)
        self._copy_ahead()
        self._look()
        self._tell("on_epoch_end", epoch, logs)
        return logs

    def _validate(self, logs):
        """Adds what validation finds to the logs of each run."""
        if self._validation is None:
            return
        self._tell("on_test_begin")
        for run in self._runs:
            run.model.reset_metrics()
        state, found = self._take(optimizer=False), {}
        for part in self._validation.plan:
            found, state = self._programs.test(
                state,
                self._frozen,
                self._validation.data,
                part,
                0,
                shape=self._validation.shape,
                length=len(part["index"]),
            )
        self._put(state, kinds=(*_KINDS[:2], _KINDS[3]))
        found = self._fetch(found)
        for run in self._runs:
            run.model.jax_state_sync()
        self._tell("on_test_end", found)
        for own, validated in zip(logs, found, strict=True):
            own.update({f"val_{k}": v for k, v in validated.items()})

    def _whole(self, planned):
        """Steps of an epoch that have a whole batch."""
        return planned[0]["index"].shape[-2]

    def _chunks(self, planned, step):
        """What is left of an epoch: plan, first step and steps of each."""
        whole = self._whole(planned)
        short = len(planned) > 1
        length = plans.chunk_length(whole, plans.MOST_CHUNKS - short)
        found = [(0, *c) for c in plans.chunks_of(step, whole, length)]
        return [*found, (1, whole, 1)] if short else found

    def _plan(self, epoch) -> _Planned:
        """The arrays of an epoch, on the device."""
        planned, self._planned = self._planned, None
        if planned is None or planned.epoch != epoch:
            planned = self._draw(epoch)
        return planned

    def _draw(self, epoch) -> _Planned:
        import jax

        parts = [plans.plan_epoch(run.batches, epoch) for run in self._runs]
        together = [
            {name: self._joined([p[name] for p in part]) for name in part[0]}
            for part in zip(*parts, strict=True)
        ]
        logits = [run.batches.teacher_logits(epoch) for run in self._runs]
        given = {}
        if logits[0] is not None:
            given = {"logits": self._joined(logits)}
        self.trips += 1
        return _Planned(epoch, *jax.device_put((together, given)))

    def _with_own(self, part, own):
        """Images on the device, with what each run has for itself."""
        import jax

        joined = {
            name: self._joined([values[name] for values in own])
            for name in own[0]
        }
        data, plan = jax.device_put(({**part.data, **joined}, part.plan))
        return part._replace(data=data, plan=plan)

    def _joined(self, values):
        return np.stack(values) if self._several else np.asarray(values[0])

    def _teachers(self):
        """What teachers compute with, and whether it is the same for all."""
        found = [
            [v.value for v in run.model.teacher.variables]
            if run.model.teacher
            else []
            for run in self._runs
        ]
        same = all(
            one is other
            for values in found
            for one, other in zip(values, found[0], strict=True)
        )
        if same:
            return found[0], True
        return joined(found), False

    def _take(self, *, optimizer=True):
        states = [
            state_of(run.model, optimizer=optimizer) for run in self._runs
        ]
        return self._programs.join(states) if self._several else states[0]

    def _put(self, state, kinds=_KINDS):
        for number, run in enumerate(self._runs):
            if self._several:
                part = _Part(self._programs.part, state, number, kinds)
            else:
                part = dict(zip(kinds, state, strict=True))
            keras_private.bring_state(run.model, part)

    def _fetch(self, logs):
        """Waits for logs; returns those of each run as floats."""
        import jax

        self.trips += 1
        arrays = jax.device_get(logs)
        if not self._several:
            return [{name: float(value) for name, value in arrays.items()}]
        return [
            {name: float(values[number]) for name, values in arrays.items()}
            for number in range(len(self._runs))
        ]

    def _copy_ahead(self):
        """Has all values come to the host together, for the checkpoint."""
        self.trips += 1
        for run in self._runs:
            for values in state_of(run.model):
                for value in values:
                    value.copy_to_host_async()

    def _look(self):
        if self._several:
            self._stop.look()

    def _tell(self, event: str, *args):
        """Calls all callbacks; lists are of values for each run."""
        for number, run in enumerate(self._runs):
            if number in self.errors:
                continue
            own = [
                arg[number] if isinstance(arg, list) else arg for arg in args
            ]
            try:
                getattr(run.callbacks, event)(*own)
            except Exception as error:
                if not self._several:
                    raise
                self.errors[number] = error


class _Part:
    """One run's part of a joined state, cut out when it is asked for."""

    def __init__(
        self,
        cut: Callable[[Any, int], Any],
        state: Any,
        number: int,
        kinds: Sequence[str],
    ):
        self._cut, self._state, self._number = cut, state, number
        self._kinds = kinds
        self._found: dict[str, Any] | None = None

    def get(self, kind: str, default: Any = None) -> Any:
        """Returns the values of one kind of variables."""
        if self._found is None:
            values = self._cut(self._state, self._number)
            self._found = dict(zip(self._kinds, values, strict=True))
        return self._found.get(kind, default)
