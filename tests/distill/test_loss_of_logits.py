"""Losses that expect probabilities are refused: students end in logits."""

import keras
import pytest

from gnsmall_keras.distill.distiller import Distiller
from gnsmall_keras.distill.losses import LabelCrossEntropy


def _distiller():
    student = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    return Distiller(student=student)


@pytest.mark.parametrize(
    "loss",
    [
        "sparse_categorical_crossentropy",
        "categorical_crossentropy",
        "BinaryCrossentropy",
        "kl_divergence",
        keras.losses.sparse_categorical_crossentropy,
        keras.losses.SparseCategoricalCrossentropy(),
        keras.losses.CategoricalFocalCrossentropy(),
        keras.losses.KLDivergence(),
        ["sparse_categorical_crossentropy"],
        {"logits": ["mse", keras.losses.KLDivergence()]},
    ],
)
def test_loss_of_probabilities_is_refused(loss):
    with pytest.raises(ValueError, match=r"must take logits.*LabelCrossEntr"):
        _distiller().compile("sgd", loss=loss)


@pytest.mark.parametrize(
    "loss",
    [
        None,
        "mse",
        LabelCrossEntropy(),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        keras.losses.BinaryCrossentropy(from_logits=True),
        [LabelCrossEntropy()],
        {"logits": "mse"},
    ],
)
def test_other_losses_are_taken(loss):
    _distiller().compile("sgd", loss=loss)


@pytest.mark.parametrize("end", ["softmax", "sigmoid"])
def test_a_student_of_probabilities_is_refused_without_a_teacher_too(end):
    """Cached targets teach it as well."""
    layers = [keras.layers.Dense(2, activation=end)]
    student = keras.Sequential([keras.Input((3,)), *layers])
    with pytest.raises(ValueError, match="ends in probabilities"):
        Distiller(student)


def test_student_and_teacher_go_without_their_names():
    student, teacher = (
        keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        for _ in range(2)
    )
    distiller = Distiller(student, teacher, temperature=2.0)
    assert distiller.student is student
    assert list(distiller.teacher.models) == [teacher]
    with pytest.raises(TypeError, match="positional"):
        Distiller(student, teacher, 0.5)
