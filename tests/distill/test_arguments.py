"""Arguments of a Distiller and of ensembles that are refused."""

import keras
import numpy as np
import pytest
from keras import layers

from gnsmall_keras.distill.distiller import Distiller
from gnsmall_keras.distill.features import FeaturePair
from gnsmall_keras.distill.losses import DistillationLoss
from gnsmall_keras.distill.teachers import TeacherEnsemble

CLASSES = 4


def _network(*, side=8, activation=None):
    return keras.Sequential(
        [
            keras.Input((side, side, 3)),
            layers.Conv2D(8, 3, activation="relu", name="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(CLASSES, activation=activation),
        ]
    )


class _Label(DistillationLoss):
    name = "label"


_PAIR = FeaturePair(student_layer="relu", teacher_layer="relu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "`temperature` must be a finite number > 0"),
        ({"temperature": float("nan")}, "`temperature`"),
        ({"label_weight": 1.5}, r"`label_weight` must be in \[0, 1\]"),
        ({"loss": "mse"}, "must be one of"),
        ({"teacher": "resnet18"}, "must be a keras.Model"),
        ({"teacher": _network(activation="softmax")}, "logits"),
        ({"teacher": _network(side=16)}, "Resizing"),
        ({"student": None}, "must be a keras.Model. Received: NoneType"),
        ({"student": np.tanh}, "must be a keras.Model. Received: ufunc"),
        ({"features": _PAIR}, "Received: FeaturePair, without a list"),
        ({"features": ["relu"]}, "Received: str"),
        ({"features": None}, "Received: NoneType"),
        ({"loss": DistillationLoss()}, "must have a `name`.*None of Distill"),
        ({"loss": _Label()}, "must have a `name`.*'label' of _Label"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    models = {"student": _network(), "teacher": _network()}
    with pytest.raises(ValueError, match=message):
        Distiller(**models | options)


def test_the_student_is_no_teacher_of_its_own():
    student = _network()
    for teacher in (student, TeacherEnsemble([_network(), student])):
        with pytest.raises(ValueError, match="its own teacher"):
            Distiller(student=student, teacher=teacher)
    shared = keras.Model(student.inputs, student.outputs)
    with pytest.raises(ValueError, match="share layers"):
        Distiller(student=student, teacher=shared)


class _Subclass(keras.Model):
    def call(self, inputs):
        return inputs[:, 0, 0]


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (lambda: _network(activation="softmax"), "ends in probabilities"),
        (
            lambda: keras.Sequential(
                [_network(), keras.layers.Activation("sigmoid")]
            ),
            "ends in probabilities",
        ),
        (
            lambda: keras.Sequential([layers.Flatten(), layers.Dense(CLASSES)]),
            "Wrap it",
        ),
        (_Subclass, "Wrap it"),
        (
            lambda: keras.Model(
                *(lambda i: (i, [layers.Flatten()(i), i]))(
                    keras.Input((8, 8, 3))
                )
            ),
            "one output",
        ),
        (
            lambda: keras.Sequential(
                [keras.Input((8, 8, 3)), layers.Flatten(), layers.Dense(1)]
            ),
            "Dense\\(2\\)",
        ),
    ],
)
def test_students_without_logits_are_refused(student, message):
    with pytest.raises(ValueError, match=message):
        Distiller(student=student(), teacher=_network())
    if "Dense" not in message:
        with pytest.raises(ValueError, match=message):
            Distiller(student=student())


@pytest.mark.parametrize(
    ("teachers", "options", "message"),
    [
        (0, {}, "at least one teacher"),
        (2, {"weights": (0, 0)}, "with a sum > 0"),
        (2, {"weights": (1,)}, "for each teacher"),
        (2, {"weights": (2, -1)}, ">= 0"),
        (2, {"weights": "votes"}, "'confidence'"),
        (2, {"combine": "mean"}, "`combine` must be one of"),
    ],
)
def test_bad_ensembles_are_refused(teachers, options, message):
    models = [_network() for _ in range(teachers)]
    with pytest.raises(ValueError, match=message):
        TeacherEnsemble(models, **options)


@pytest.mark.parametrize("name", ["kd_loss", "label_loss", "teacher_agreement"])
@pytest.mark.parametrize("kind", ["metrics", "weighted_metrics"])
def test_metrics_leave_the_distillers_own_names(name, kind):
    """They would take the terms' places in the logs."""
    distiller = Distiller(_network(), _network(), track_agreement=True)
    metric = keras.metrics.SparseCategoricalAccuracy(name=name)
    with pytest.raises(ValueError, match=f"own: .* Received: '{name}'"):
        distiller.compile("sgd", **{kind: [metric]})
    distiller.compile("sgd", metrics=["accuracy"])
