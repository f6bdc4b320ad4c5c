"""What a Distiller holds beside its weights."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras


class Untracked:
    """What Keras must neither save nor train."""

    def __init__(self):
        self.teacher = None
        self.student_layers = ()
        self.teacher_layers = ()
        self.native = None  # the student's form to train, if there is one
        self.inference = None  # and to answer
        self.has_metrics = False  # compiled ones, which need labels
        self.labels_checked = False  # those of the present call, all at once


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
