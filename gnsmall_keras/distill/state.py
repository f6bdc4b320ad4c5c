"""What a Distiller holds beside its weights."""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import Any

import keras

from gnsmall_keras.models import keras_private

_LOCK = threading.Lock()


class Call(threading.local):
    """What the present thread does with a Distiller."""

    trains = False  # a step of `fit`
    answers = False  # a step of `evaluate` or `predict`
    labels_checked = False  # those of the present call, all at once

    @contextlib.contextmanager
    def having(self, **states: bool):
        """Sets states by their names, and sets them back."""
        before = {name: getattr(self, name) for name in states}
        vars(self).update(states)
        try:
            yield
        finally:
            vars(self).update(before)


class Untracked:
    """What Keras must neither save nor train."""

    def __init__(self):
        self.teacher = None
        self.student_layers = ()
        self.teacher_layers = ()
        self.student_axes = ()  # of the channels in what these layers give
        self.teacher_axes = ()
        self.native = None  # the student's form to train, if there is one
        self.inference = None  # and to answer
        self.has_metrics = False  # compiled ones, which need labels
        self.call = Call()
        self.calls = 0  # of `fit`, `evaluate` and `predict`, in all threads

    @contextlib.contextmanager
    def working(self):
        """Counts a call, in which Keras uses what it compiled."""
        with _LOCK:
            self.calls += 1
        try:
            yield
        finally:
            with _LOCK:
                self.calls -= 1


class Setting:
    """A scalar variable of a model; what is assigned to it is checked.

    The model holds the variable under the same name after "_". On JAX the
    model's state is brought first, unless a step asks, which has its own:
    within `fit` Keras keeps it elsewhere.
    """

    def __init__(self, check: Callable[[Any], Any]):
        self._check = check

    def __set_name__(self, owner, name):
        self._name = f"_{name}"

    def __get__(self, model, owner=None) -> Any:
        if model is None:
            return self
        if keras.config.backend() == "jax" and not keras_private.is_stateless():
            model.jax_state_sync()
        return getattr(model, self._name)

    def __set__(self, model, value):
        if hasattr(value, "shape"):  # a tensor or variable
            array: Any = keras.ops.convert_to_numpy(value)
            value = array.tolist()
        self._check(value)
        if keras.config.backend() == "jax":
            model.jax_state_sync()
        getattr(model, self._name).assign(value)


@dataclasses.dataclass
class Step:
    """What methods that Keras calls in turn hand on, within a step.

    Attributes:
        student_features: outputs of the pairs' layers; `call` records them,
            `compute_loss` reads and drops them.
        logs_terms: whether `compute_loss` has updated the means of the terms,
            which `compute_metrics` then reports.
    """

    student_features: Sequence[Any] = ()
    logs_terms: bool = False


class BatchMean(keras.losses.Loss):
    """Batch mean of values, with Keras's sample weights and replicas."""

    def call(self, y_true, y_pred):
        """Returns the values; Keras takes their mean."""
        return y_pred
