"""One training step of the Distiller, in NumPy: float64, loss by loss.

Student and teacher are one Dense layer each, so that logits and gradients are
a line of NumPy.
"""

import keras
import numpy as np
import pytest
from keras import ops
from numpy_losses import EXPECTED, finite_differences, log_softmax

from gnsmall_keras.distill.distiller import Distiller
from gnsmall_keras.distill.losses import DistillationLoss, LabelCrossEntropy
from gnsmall_keras.distill.teachers import FrozenTeacher, TeacherEnsemble
from gnsmall_keras.training.optimizers.muon import CoupledSGD

pytestmark = pytest.mark.contract

COUNT, CLASSES, RATE, MOMENTUM, DECAY = 12, 5, 0.1, 0.9, 0.01


def _dense(seed):
    model = keras.Sequential(
        [
            keras.Input((4, 4, 3)),
            keras.layers.Flatten(),
            keras.layers.Dense(CLASSES),
        ]
    )
    generator = np.random.default_rng(seed)
    model.set_weights(
        [generator.normal(0.0, 0.3, w.shape) for w in model.get_weights()]
    )
    return model


def _batch():
    generator = np.random.default_rng(7)
    images = generator.normal(size=(COUNT, 4, 4, 3)).astype("float32")
    return images, generator.integers(0, CLASSES, COUNT)


def _logits(model, images):
    kernel, bias = (w.astype("float64") for w in model.get_weights())
    return images.reshape(COUNT, -1).astype("float64") @ kernel + bias


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("name", EXPECTED)
def test_one_step_is_numpys(name, temperature):
    """Loss, its terms, and the new weights after a step with momentum."""
    label_weight = 0.3
    student, teacher = _dense(1), _dense(2)
    images, labels = _batch()
    ours, theirs = _logits(student, images), _logits(teacher, images)
    weights = [w.astype("float64") for w in student.get_weights()]
    distiller = Distiller(
        student=student,
        teacher=FrozenTeacher(teacher),
        loss=name,
        temperature=temperature,
        label_weight=label_weight,
    )
    distiller.compile(
        CoupledSGD(RATE, momentum=MOMENTUM, weight_decay=DECAY),
        loss=LabelCrossEntropy(),
    )
    logs = distiller.train_on_batch(images, labels, return_dict=True)
    own = np.array([log_softmax(row) for row in ours])
    expected = {
        f"{name}_loss": EXPECTED[name](
            labels, theirs, ours, temperature
        ).mean(),
        "label_loss": -own[np.arange(COUNT), labels].mean(),
    }
    expected["loss"] = (
        label_weight * expected["label_loss"]
        + (1 - label_weight) * expected[f"{name}_loss"]
    )
    for term, value in expected.items():
        assert logs[term] == pytest.approx(value, rel=1e-5), term
    of_labels = (np.exp(own) - np.eye(CLASSES)[labels]) / COUNT
    of_teacher = finite_differences(name, labels, theirs, ours, temperature)
    of_logits = label_weight * of_labels + (1 - label_weight) * of_teacher
    pixels = images.reshape(COUNT, -1).astype("float64")
    gradients = [pixels.T @ of_logits, of_logits.sum(axis=0)]
    for found, weight, gradient in zip(
        student.get_weights(), weights, gradients, strict=True
    ):
        gradient = gradient + DECAY * weight
        step = RATE * (gradient + MOMENTUM * gradient)
        np.testing.assert_allclose(found, weight - step, rtol=0, atol=2e-6)


class _Squares(DistillationLoss):
    name = "squares"

    def __init__(self, axis):
        super().__init__()
        self.axis = axis

    def __call__(self, labels, teacher_logits, student_logits, temperature):
        squares = ops.square(teacher_logits - student_logits)
        return squares if self.axis == () else ops.mean(squares, self.axis)


def _with_squares(axis, combine):
    teacher = TeacherEnsemble([_dense(2), _dense(3)], combine=combine)
    distiller = Distiller(_dense(1), teacher, loss=_Squares(axis))
    distiller.compile("sgd", loss=LabelCrossEntropy())
    return distiller


@pytest.mark.parametrize("combine", ["logits", "per_teacher"])
def test_a_loss_that_is_not_of_each_image_is_refused(combine):
    """Sample weights and those of teachers would not reach their images."""
    for axis in (None, ()):
        with pytest.raises(ValueError, match="for each image.*'squares'"):
            _with_squares(axis, combine).train_on_batch(*_batch())
    logs = _with_squares(-1, combine).train_on_batch(
        *_batch(), return_dict=True
    )
    assert logs["squares_loss"] > 0
