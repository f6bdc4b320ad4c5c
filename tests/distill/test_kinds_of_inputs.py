"""What student and teacher take: words, rows, several inputs."""

import keras
import numpy as np
import pytest
from keras import layers

from gnsmall_keras.distill.distiller import Distiller
from gnsmall_keras.distill.features import FeaturePair
from gnsmall_keras.distill.losses import LabelCrossEntropy
from gnsmall_keras.distill.teachers import FrozenTeacher

pytestmark = pytest.mark.backend

CLASSES, ROWS = 3, 12


def _of_two(seed, form):
    """Takes rows of 4 and of 2 numbers, as a list or dict."""
    one, other = keras.Input((4,), name="a"), keras.Input((2,), name="b")
    x = layers.Concatenate(name="both")([one, other])
    x = layers.Dense(5, activation="relu", name="hidden")(x)
    inputs = {"a": one, "b": other} if form == "dict" else [one, other]
    return _seeded(keras.Model(inputs, layers.Dense(CLASSES)(x)), seed)


def _of_words(seed, units=CLASSES, **options):
    """Takes five words out of ten, 0 being none."""
    return _seeded(
        keras.Sequential(
            [
                keras.Input((5,), dtype="int32"),
                layers.Embedding(10, 4, mask_zero=True),
                layers.GlobalAveragePooling1D(),
                layers.Dense(units, **options),
            ]
        ),
        seed,
    )


def _seeded(model, seed):
    generator = np.random.default_rng(seed)
    model.set_weights(
        [generator.normal(0.0, 0.5, w.shape) for w in model.get_weights()]
    )
    return model


def _rows(form):
    generator = np.random.default_rng(3)
    parts = [generator.normal(size=(ROWS, n)).astype("float32") for n in (4, 2)]
    return dict(zip("ab", parts, strict=True)) if form == "dict" else parts


def _labels():
    return np.arange(ROWS) % CLASSES


def _fitted(student, teacher, x, **options):
    distiller = Distiller(student, teacher, **options)
    distiller.compile(keras.optimizers.SGD(0.1), loss=LabelCrossEntropy())
    distiller.fit(
        x, _labels(), batch_size=5, epochs=2, shuffle=False, verbose=0
    )
    return student.get_weights()


def _assert_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("form", ["list", "dict"])
def test_several_inputs_are_as_with_cached_targets(form):
    teacher, rows = _of_two(1, form), _rows(form)
    logits = teacher.predict(rows, verbose=0)
    stored = {"images": rows, "teacher_logits": logits}
    expected = _fitted(_of_two(2, form), None, stored)
    _assert_equal(_fitted(_of_two(2, form), teacher, rows), expected)
    plain = _fitted(_of_two(2, form), None, rows)
    changes = [
        np.abs(a - b).max() for a, b in zip(plain, expected, strict=True)
    ]
    assert max(changes) > 1e-3


def test_a_teacher_may_take_one_part_of_them():
    teacher = _seeded(
        keras.Sequential([keras.Input((4,)), layers.Dense(CLASSES)]), 1
    )
    rows = _rows("dict")
    logits = teacher.predict(rows["a"], verbose=0)
    expected = _fitted(
        _of_two(2, "dict"), None, {"images": rows, "teacher_logits": logits}
    )
    frozen = FrozenTeacher(teacher, preprocess=lambda parts: parts["a"])
    _assert_equal(_fitted(_of_two(2, "dict"), frozen, rows), expected)


def test_features_of_several_inputs():
    pair = FeaturePair(student_layer="hidden", teacher_layer="both")
    distiller = Distiller(
        _of_two(2, "dict"), _of_two(1, "dict"), features=[pair]
    )
    distiller.compile("sgd", loss=LabelCrossEntropy())
    history = distiller.fit(_rows("dict"), _labels(), verbose=0).history
    assert np.isfinite(history["hidden_loss"]).all()


def test_teachers_of_words_may_mask_padding():
    words = np.random.default_rng(4).integers(1, 10, (ROWS, 5))
    words[:, 3:] = 0
    teacher = _of_words(1)
    logits = teacher.predict(words, verbose=0)
    expected = _fitted(
        _of_words(2), None, {"images": words, "teacher_logits": logits}
    )
    _assert_equal(_fitted(_of_words(2), teacher, words), expected)


class _Hidden(layers.Layer):
    def call(self, x):
        return keras.ops.softmax(x)


@pytest.mark.parametrize("end", ["seen", "hidden"])
def test_teachers_of_words_end_in_logits_too(end):
    teacher = _of_words(1, activation="softmax" if end == "seen" else None)
    if end == "hidden":
        teacher.add(_Hidden())
    with pytest.raises(ValueError, match="ends in probabilities"):
        Distiller(_of_words(2), teacher)


def test_other_inputs_are_refused():
    rows = keras.Sequential([keras.Input((4,)), layers.Dense(CLASSES)])
    with pytest.raises(ValueError, match="takes inputs .4,., the student .5,"):
        Distiller(_of_words(2), rows)
    with pytest.raises(ValueError, match="preprocess=function"):
        Distiller(_of_two(2, "list"), rows)


def test_a_trained_teacher_of_one_logit_gets_a_second():
    """As the error says."""
    model = _of_words(1, units=1)
    with pytest.raises(ValueError, match="keras.ops.pad") as error:
        Distiller(_of_words(2, units=2), model)
    cure = str(error.value).split("same as ")[1].rstrip(".")
    teacher = eval(cure, {"keras": keras, "model": model})
    words = np.random.default_rng(4).integers(1, 10, (ROWS, 5))
    ours = keras.ops.softmax(teacher(words))[:, 1:]
    _assert_equal(
        keras.ops.convert_to_numpy(ours),
        keras.ops.convert_to_numpy(keras.ops.sigmoid(model(words))),
    )
    Distiller(_of_words(2, units=2), teacher)
