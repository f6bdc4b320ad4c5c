"""Arguments of a Distiller and of ensembles that are refused."""

import keras
import numpy as np
import pytest
from keras import layers

from gnsmall_keras.distill.checks import load_teacher
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


class _Ending(keras.Model):
    """What is inside cannot be seen from the model that it is wrapped in."""

    def __init__(self, activation, bias="zeros"):
        super().__init__()
        self._end = layers.Dense(CLASSES, activation, bias_initializer=bias)

    def call(self, inputs):
        return self._end(keras.ops.mean(inputs, (1, 2)))


def _wrapped(*ends, side=8):
    inputs = keras.Input((side, side, 3))
    outputs = inputs
    for end in ends:
        outputs = end(outputs)
    return keras.Model(inputs, outputs)


def _cast(logits):
    return keras.ops.cast(logits, "float32")


@pytest.mark.backend
@pytest.mark.parametrize(
    "ends",
    [
        [_network(), layers.Softmax(), layers.Activation("linear")],
        [_network(activation="sigmoid"), layers.Identity(), _cast],
        [_network(activation="sigmoid"), layers.Reshape((CLASSES,))],
        [_network(), keras.ops.sigmoid],
        [_network(), keras.Sequential([layers.Softmax()]), layers.Flatten()],
        [_Ending("softmax")],
        [_network(), layers.Lambda(lambda x: keras.ops.softmax(x))],
    ],
    ids=["linear", "cast", "reshape", "function", "nested", "hidden", "lambda"],
)
def test_probabilities_are_found_behind_what_hides_them(ends):
    with pytest.raises(ValueError, match="ends in probabilities"):
        Distiller(_wrapped(*ends))
    with pytest.raises(ValueError, match="softmax or a sigmoid"):
        Distiller(_network(), _wrapped(*ends))


@pytest.mark.backend
@pytest.mark.parametrize(
    "model",
    [
        _wrapped(_Ending("linear", "ones"), layers.Activation("linear")),
        _wrapped(_network(activation="relu")),
        _wrapped(_network(activation="log_softmax")),
        _wrapped(_network(), layers.Flatten(), keras.ops.tanh),
        # Noise of shares between 0 and 1 does not tell a sigmoid.
        _wrapped(_Ending("hard_sigmoid")),
        _wrapped(_network(), side=None),
        _wrapped(
            layers.Dropout(0.5), layers.Conv2D(CLASSES, 8), layers.Flatten()
        ),
    ],
    ids=["hidden", "relu", "logs", "tanh", "shares", "any side", "maps"],
)
def test_other_ends_are_taken(model):
    assert Distiller(model).student is model
    Distiller(_network(), model)


def test_a_loaded_teacher_does_not_end_in_a_sigmoid(tmp_path):
    _network(activation="sigmoid").save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"model\.keras ends in prob.*sigmoid"):
        load_teacher(tmp_path, classes=CLASSES, input_shape=(8, 8, 3))


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
