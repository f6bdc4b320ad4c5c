"""Pairs of layers: maps that say nothing, layers in two pairs, new teachers."""

import keras
import numpy as np
import pytest
from keras import layers

from gnsmall_keras.distill.distiller import Distiller
from gnsmall_keras.distill.features import FeaturePair, feature_loss
from gnsmall_keras.distill.losses import LabelCrossEntropy

pytestmark = pytest.mark.backend

CLASSES = 4


def _network(channels=8, seed=1):
    """A small classifier whose weights are the same on every backend."""
    inputs = keras.Input((8, 8, 3), name="photo")
    x = layers.Conv2D(channels, 3, use_bias=False, name="conv")(inputs)
    x = layers.ReLU(name="relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(inputs, layers.Dense(CLASSES, name="logits")(x))
    generator = np.random.default_rng(seed)
    model.set_weights(
        [generator.normal(0.0, 0.5, w.shape) for w in model.get_weights()]
    )
    return model


def _batch():
    generator = np.random.default_rng(7)
    images = generator.normal(size=(16, 8, 8, 3)).astype("float32")
    return images, generator.integers(0, CLASSES, 16)


def _pair(student, teacher=None, **options):
    teacher = teacher or student
    return FeaturePair(student_layer=student, teacher_layer=teacher, **options)


def _compiled(*pairs, teacher=None, student=None):
    distiller = Distiller(
        student or _network(), teacher or _network(seed=0), features=pairs
    )
    distiller.compile(keras.optimizers.SGD(0.1), loss=LabelCrossEntropy())
    return distiller


def _attention(teacher, student):
    """In NumPy and float64."""
    maps = [np.mean(np.square(f, dtype=float), -1) for f in (teacher, student)]
    rows = [m.reshape(len(m), -1) for m in maps]
    lengths = [np.linalg.norm(r, axis=-1, keepdims=True) for r in rows]
    one, other = (
        r / np.maximum(n, 1e-12) for r, n in zip(rows, lengths, strict=True)
    )
    return np.mean(np.square(one - other), -1)


def test_attention_is_numpys_also_of_a_map_of_zeros():
    generator = np.random.default_rng(0)
    teacher, student = generator.normal(size=(2, 3, 4, 4, 6))
    student[1] = 0
    found = feature_loss(
        _pair("conv", loss="attention"), teacher, np.float32(student)
    )
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(found),
        _attention(teacher, student),
        rtol=2e-6,
    )


def test_attention_to_a_map_of_zeros_leaves_weights_finite():
    """A black image, and a convolution without a bias."""
    distiller = _compiled(_pair("conv", loss="attention"))
    images, labels = _batch()
    images[3] = 0
    before = distiller.student.get_weights()[0]
    for _ in range(2):
        logs = distiller.train_on_batch(images, labels, return_dict=True)
    assert np.isfinite(list(logs.values())).all()
    assert all(np.isfinite(w).all() for w in distiller.student.get_weights())
    assert np.abs(distiller.student.get_weights()[0] - before).max() > 0
