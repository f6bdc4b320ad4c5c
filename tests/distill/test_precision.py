"""Students and teachers in half precision, and scaled losses."""

import keras
import numpy as np
import pytest
from plain_distillation import (
    BATCH,
    RATE,
    TERMS,
    assert_is_distillation,
    assert_sums,
    assert_untouched,
    assert_weights,
    compiled,
    distance,
    examples,
    first_logits,
    fit,
    kd_by_hand,
    make_student,
    make_teacher,
    plain_reference,
    teacher_logits,
    train_plainly,
)

pytestmark = pytest.mark.backend


HALF = ("mixed_bfloat16", "mixed_float16")
# Half the distance of neighbours near 1: what one rounding may change.
ROUNDING = {"mixed_bfloat16": 2.0**-8, "mixed_float16": 2.0**-11}


@pytest.mark.parametrize("dtype", HALF)
def test_student_in_mixed_precision(dtype):
    distiller = compiled(make_teacher(), make_student(dtype=dtype))
    history = fit(distiller)
    scaled = isinstance(
        distiller.optimizer, keras.optimizers.LossScaleOptimizer
    )
    assert scaled == (dtype == "mixed_float16")
    assert all(
        weight.dtype == "float32" for weight in distiller.student.weights
    )
    reference = train_plainly(make_student(dtype=dtype))
    # Right to one rounding of the way that the weights have gone: processors
    # round gradients differently.
    gone = distance(reference[1], make_student(dtype=dtype).get_weights())
    assert_is_distillation(
        distiller,
        history,
        reference,
        ROUNDING[dtype] * gone,
        of_terms=2 * ROUNDING[dtype],
    )
    assert distance(reference[1], plain_reference()[1]) > 0


def test_loss_scale_does_not_show():
    """Gradients are multiplied by 2^15 for float16, then divided again."""
    reference = plain_reference()
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(RATE))
    distiller = compiled(make_teacher(), optimizer=optimizer)
    history = fit(distiller)
    assert_is_distillation(distiller, history, reference)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("dtype", HALF)
def test_teacher_is_not_rounded_for_a_student_in_half_precision(dtype, cached):
    """Near 6000 bfloat16 steps by 32 and float16 by 4, float32 by 0.0005."""
    offset = 6000.0
    images, labels = examples(BATCH)
    exact = teacher_logits()[:BATCH] + np.float32(offset)
    distiller = compiled(make_teacher(offset=offset), make_student(dtype=dtype))
    expected = kd_by_hand(exact, first_logits(distiller.student)).mean()
    rounded = exact.astype("float16")
    of_rounded = kd_by_hand(rounded, first_logits(distiller.student)).mean()
    assert abs(of_rounded - expected) > 0.2 * expected
    if cached:
        images = {"images": images, "teacher_logits": exact}
    logs = distiller.train_on_batch(images, labels, return_dict=True)
    assert logs["kd_loss"] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_teacher_in_half_precision(dtype):
    """It computes in its own precision; the student stays in float32."""
    teacher = make_teacher(dtype=dtype)
    taught = np.asarray(teacher.predict(examples(24)[0], verbose=0), "float32")
    assert 0 < np.abs(taught - teacher_logits()).max() < 0.1
    distiller = compiled(teacher)
    history = fit(distiller)
    expected, weights = train_plainly(taught=taught)
    # Compiled with the student, a half-precision sum may round otherwise.
    for name in TERMS:
        np.testing.assert_allclose(history[name], expected[name], rtol=1e-2)
    assert_weights(distiller.student.get_weights(), weights, 1e-3)
    assert_sums(history)
    assert_untouched(teacher, dtype=dtype)
