"""Distillation losses against hand-made values, NumPy and Keras.

The example that is worked out by hand has T = 2 and, with a = 2 ln 2,

    teacher  2  0   -2     student  1  0.5  -1     label 0
             a  0    0              0  0     a     label 0

Softmax at T: 0.665241 0.244728 0.090031 and 0.465836 0.362793 0.171371 for the
first image, 1/2 1/4 1/4 and 1/4 1/4 1/2 for the second.
"""

import keras
import numpy as np
import pytest
from keras.distillation import LogitsDistillation
from numpy_losses import (
    EXPECTED,
    expected_dkd,
    expected_kd,
    finite_differences,
    log_softmax,
)

from gnsmall_keras.distill.divergences import decoupled_kl, kl_divergence
from gnsmall_keras.distill.losses import (
    DIST,
    LOSSES,
    DecoupledKD,
    DistillationLoss,
    HintonKD,
    LabelAccuracy,
    LabelCrossEntropy,
    class_indices,
    get_loss,
)

pytestmark = pytest.mark.contract

LN2 = np.log(2)
TEACHER = np.array([[2, 0, -2], [2 * LN2, 0, 0]], "float32")
STUDENT = np.array([[1, 0.5, -1], [0, 0, 2 * LN2]], "float32")
LABELS = np.array([0, 0])
BY_HAND = {
    # Second: 4 (1/2 ln 2 + 0 - 1/4 ln 2).
    "kd": (0.330959, LN2),
    # First: 4 KL(0.665241 0.334759 || 0.465836 0.534164) = 0.322424 and
    # 4 KL(0.731059 0.268941 || 0.679179 0.320821) = 0.025496, times 8.
    # Second: 4 KL(1/2 1/2 || 1/4 3/4) + 32 KL(1/2 1/2 || 1/3 2/3).
    "dkd": (0.526391, 2 * np.log(4 / 3) + 16 * np.log(9 / 8)),
    # First: deviations 2 0 -2 over sqrt(8/3), 5/6 2/6 -7/6 over sqrt(13/18);
    # 4 KL(0.544693 0.295258 0.160049 || 0.486987 0.362877 0.150136).
    # Second: 2 -1 -1 over sqrt(2), -1 -1 2 over sqrt(2);
    # 4 (0.590858 - 0.204571) 3 / sqrt(2) / 2.
    "standardized_kd": (0.041377, 1.638876),
    # Images: correlations 0.908000, and -1/2 of 2 -1 -1 with -1 -1 2.
    # Classes: two images each, so 1 -1 1, and 4 (1 - 1/3) for every image.
    "dist": (4 * (1 - 0.908000) + 8 / 3, 4 * 1.5 + 8 / 3),
}

each_loss = pytest.mark.parametrize("name", LOSSES)


def _logits(seed, scale, shape=(6, 10)):
    """Float32, so that float64 code sees the same numbers."""
    generator = np.random.default_rng(seed)
    return (scale * generator.normal(size=shape)).astype("float32")


def _labels(count=6, classes=10):
    return np.random.default_rng(9).integers(classes, size=count)


def _values(name, labels, teacher, student, temperature):
    losses = get_loss(name)(labels, teacher, student, temperature)
    return keras.ops.convert_to_numpy(losses)


def _gradient(loss, labels, teacher, student, temperature):
    """Of the mean loss, by the student's logits; compiled where one can."""

    def mean_loss(student):
        return keras.ops.mean(loss(labels, teacher, student, temperature))

    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        # As in `fit`, the batch's size is unknown to the graph.
        @tf.function(input_signature=[tf.TensorSpec((None, student.shape[1]))])
        def gradient(student):
            with tf.GradientTape() as tape:
                tape.watch(student)
                value = mean_loss(student)
            return tape.gradient(value, student)

        found = gradient(student)
    elif keras.config.backend() == "jax":
        import jax

        found = jax.jit(jax.grad(mean_loss))(student)
    else:
        student = keras.ops.convert_to_tensor(student).requires_grad_()
        mean_loss(student).backward()
        found = student.grad
    return keras.ops.convert_to_numpy(found)


@each_loss
def test_values_worked_out_by_hand(name):
    found = _values(name, LABELS, TEACHER, STUDENT, 2.0)
    np.testing.assert_allclose(found, BY_HAND[name], rtol=2e-5)
    expected = EXPECTED[name](LABELS, TEACHER, STUDENT, 2.0)
    np.testing.assert_allclose(expected, BY_HAND[name], rtol=2e-5)


@each_loss
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0, 3e3])
def test_values_are_numpys(name, scale, temperature):
    """Up to logits of 1e4, in float32.

    To 1e-5 of the value, and to some float32 steps (1e-7) times T^2 and the
    weights, since a divergence is a sum of terms that nearly cancel. A
    correlation of probabilities of 0.1 that differ by 2e-4 has lost three
    digits, so DIST has 1e-4 on logits of 0.01.
    """
    teacher, student, labels = _logits(1, scale), _logits(2, scale), _labels()
    teacher[0, :2], student[0, :2] = (1e4, -1e4), (-1e4, 1e4)
    found = _values(name, labels, teacher, student, temperature)
    expected = EXPECTED[name](
        labels,
        teacher.astype("float64"),
        student.astype("float64"),
        temperature,
    )
    assert found.dtype == np.float32
    assert found.shape == (6,)
    relative = 1e-4 if (name, scale) == ("dist", 0.01) else 1e-5
    np.testing.assert_allclose(
        found, expected, rtol=relative, atol=3e-6 * temperature**2
    )


@each_loss
def test_small_differences_of_large_logits_count(name):
    """Near 1e4 float32 steps by 0.001; those steps are the input's."""
    teacher, student = (
        (_logits(seed, 1.0) + 9e3).astype("float32") for seed in (1, 2)
    )
    found = _values(name, _labels(), teacher, student, 3.0)
    expected = EXPECTED[name](
        _labels(), teacher.astype("float64"), student.astype("float64"), 3.0
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_decoupled_loss_sees_the_others_far_below_the_label():
    """Where the label's probability is 1 - 0.0, log(1 - p) would not do."""
    teacher, student, labels = _logits(1, 1.0), _logits(2, 1.0), _labels()
    for logits in (teacher, student):
        logits -= 9e3
        logits[np.arange(6), labels] = 9e3
    found = _values("dkd", labels, teacher, student, 3.0)
    expected = expected_dkd(
        labels, teacher.astype("float64"), student.astype("float64"), 3.0
    )
    assert (expected > 0.5).all()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_correlations_are_numpys():
    """The 1e-8 of the denominator does not show on ordinary logits."""
    teacher, student = _logits(1, 2.0), _logits(2, 2.0)
    p, q = (
        np.exp([log_softmax(row) for row in x.astype("float64")])
        for x in (teacher, student)
    )
    rows = np.corrcoef(p, q)[:6, 6:].diagonal()
    columns = np.corrcoef(p.T, q.T)[:10, 10:].diagonal()
    for weights in ((1.0, 0.0), (0.0, 1.0), (2.0, 3.0)):
        found = DIST(*weights)(None, teacher, student, 1.0)
        expected = weights[0] * (1 - rows) + weights[1] * np.mean(1 - columns)
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(found), expected, rtol=1e-5, atol=1e-6
        )


def test_decoupled_parts_sum_to_hintons_loss():
    """KD = target part + (1 - teacher's probability of the label) * rest."""
    teacher, student, labels = _logits(1, 2.0), _logits(2, 2.0), _labels()
    target, nontarget = (
        keras.ops.convert_to_numpy(
            decoupled_kl(labels, teacher, student, 2.0, *weights)
        )
        for weights in ((1.0, 0.0), (0.0, 1.0))
    )
    pairs = zip(teacher / 2, labels, strict=True)
    p = np.exp([log_softmax(row)[label] for row, label in pairs])
    np.testing.assert_allclose(
        target + (1 - p) * nontarget,
        expected_kd(labels, teacher, student, 2.0),
        rtol=1e-5,
    )


@each_loss
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_gradient_is_that_of_finite_differences(name, temperature):
    teacher, student = _logits(1, 2.0, (4, 5)), _logits(2, 2.0, (4, 5))
    arguments = _labels(4, 5), teacher, student, temperature
    found = _gradient(get_loss(name), *arguments)
    expected = finite_differences(name, *arguments)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-6)


EXTREMES = {
    "large": (_logits(1, 3e3), _logits(2, 3e3)),
    "opposite": (_logits(1, 3e3), -_logits(1, 3e3)),
    "constant student": (_logits(1, 2.0), np.full((6, 10), 0.1, "float32")),
    "constant teacher": (np.full((6, 10), -1e4, "float32"), _logits(2, 2.0)),
    "constant": (
        np.zeros((6, 10), "float32"),
        np.full((6, 10), 1e4, "float32"),
    ),
    "one image": (_logits(1, 2.0, (1, 10)), _logits(2, 2.0, (1, 10))),
    "equal images": (_logits(1, 2.0), np.tile(_logits(2, 2.0)[:1], (6, 1))),
}


@each_loss
@pytest.mark.parametrize("case", EXTREMES)
def test_extremes_have_finite_values_and_gradients(name, case):
    teacher, student = EXTREMES[case]
    arguments = _labels(len(teacher)), teacher, student, 2.0
    assert np.isfinite(_values(name, *arguments)).all()
    assert np.isfinite(_gradient(get_loss(name), *arguments)).all()


@each_loss
@pytest.mark.parametrize("scale", [2.0, 3e3])
def test_identical_logits_are_the_minimum(name, scale):
    arguments = _labels(), _logits(1, scale), _logits(1, scale), 2.0
    if (name, scale) != ("dist", 3e3):  # columns of zeros have no correlation
        np.testing.assert_allclose(_values(name, *arguments), 0, atol=4e-6)
    gradient = _gradient(get_loss(name), *arguments)
    np.testing.assert_allclose(gradient, 0, atol=4e-6)


@each_loss
def test_temperature_may_be_a_variable(name):
    expected = _values(name, LABELS, TEACHER, STUDENT, 3.0)
    variable = keras.Variable(2.0, trainable=False)
    np.testing.assert_allclose(
        _values(name, LABELS, TEACHER, STUDENT, variable),
        BY_HAND[name],
        rtol=2e-5,
    )
    variable.assign(3.0)
    for temperature in (variable, keras.ops.convert_to_tensor(3.0), 3):
        found = _values(name, LABELS, TEACHER, STUDENT, temperature)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@each_loss
def test_half_precision_is_computed_in_float32(name):
    teacher, student = (
        keras.ops.cast(_logits(seed, 50.0), "float16") for seed in (1, 2)
    )
    found = _values(name, _labels()[:, None], teacher, student, 2.0)
    expected = EXPECTED[name](
        _labels(),
        keras.ops.convert_to_numpy(teacher).astype("float64"),
        keras.ops.convert_to_numpy(student).astype("float64"),
        2.0,
    )
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_kl_divergence_is_keras_on_probabilities():
    """With a KLDivergence object; `keras.distillation` is right there too.

    Keras clips probabilities at 1e-7.
    """
    teacher, student = _logits(1, 3.0), _logits(2, 3.0)
    found = float(keras.ops.mean(kl_divergence(teacher, student, 3.0)))
    softened = (keras.ops.softmax(x / 3.0) for x in (teacher, student))
    of_keras = float(keras.losses.KLDivergence()(*softened)) * 3.0**2
    assert found == pytest.approx(of_keras, rel=1e-5)
    distillation = LogitsDistillation(3.0, loss=keras.losses.KLDivergence())
    of_keras = float(distillation.compute_loss(teacher, student))
    assert found == pytest.approx(of_keras, rel=1e-5)


def test_keras_distillation_is_wrong_by_name_and_by_default():
    """Keras 3.15 takes the logits for probabilities and omits T^2.

    It looks for a KLDivergence object, and a name becomes a function: the
    logits over T, clipped to [1e-7, 1], go into p ln(p / q). For the first
    image 1 ln(1 / 0.5), not 0.33096. When this fails, Keras is mended.
    """
    teacher, student = TEACHER[:1], STUDENT[:1]
    found = float(kl_divergence(teacher, student, 2.0)[0])
    assert found == pytest.approx(0.33096, rel=1e-4)
    for distillation in (
        LogitsDistillation(2.0, loss="kl_divergence"),
        LogitsDistillation(2.0),
    ):
        of_keras = float(distillation.compute_loss(teacher, student))
        assert of_keras == pytest.approx(LN2, rel=1e-4)


@pytest.mark.parametrize("label_smoothing", [-0.1, 1.0, np.nan])
def test_label_smoothing_is_checked(label_smoothing):
    with pytest.raises(ValueError, match="`label_smoothing` must be"):
        LabelCrossEntropy(label_smoothing)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_cross_entropy_of_shares(label_smoothing):
    """One-hot rows are their indices; mixed ones the mean of both losses."""
    loss = LabelCrossEntropy(label_smoothing, reduction="none")
    logits, first, second = _logits(1, 3.0), _labels(), _labels()[::-1]
    one_hot = [np.eye(10, dtype="float32")[x] for x in (first, second)]
    values, of_rows, others, of_mixed = (
        keras.ops.convert_to_numpy(loss(labels, logits))
        for labels in (
            first,
            one_hot[0],
            second,
            0.7 * one_hot[0] + 0.3 * one_hot[1],
        )
    )
    np.testing.assert_array_equal(of_rows, values)
    np.testing.assert_allclose(of_mixed, 0.7 * values + 0.3 * others, rtol=1e-5)
    of_keras = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=label_smoothing, reduction="none"
    )(one_hot[0], logits)
    np.testing.assert_allclose(
        values, keras.ops.convert_to_numpy(of_keras), rtol=1e-5
    )


def test_of_mixed_labels_the_largest_share_is_the_class():
    mixed = np.array([[0.2, 0.8, 0.0], [0.6, 0.0, 0.4]], "float32")
    for labels in (mixed, np.array([1, 0]), np.array([[1], [0]])):
        found = keras.ops.convert_to_numpy(class_indices(labels, 3))
        np.testing.assert_array_equal(found, [1, 0])


@pytest.mark.parametrize("weights", [None, np.array([1.0, 3, 0, 2, 1, 1])])
def test_accuracy_is_keras_on_labels_of_either_form(weights):
    logits, labels = _logits(1, 3.0), _labels()
    labels[:3] = logits[:3].argmax(axis=1)
    of_keras = keras.metrics.SparseCategoricalAccuracy()
    of_keras.update_state(labels, logits, weights)
    shares = 0.6 * np.eye(10)[labels] + 0.4 * np.eye(10)[labels - 1]
    for form in (labels, labels[:, None], shares.astype("float32")):
        metric = LabelAccuracy()
        metric.update_state(form, logits, weights)
        assert metric.name == "accuracy"
        assert float(metric.result()) == float(of_keras.result()) > 0


@pytest.mark.parametrize(
    "loss", [*(kind() for kind in LOSSES.values()), DecoupledKD(0.5, 2.0)]
)
def test_loss_comes_back_from_its_config(loss):
    description = keras.saving.serialize_keras_object(loss)
    twin = keras.saving.deserialize_keras_object(description)
    assert type(twin) is type(loss)
    assert twin.get_config() == loss.get_config()
    arguments = LABELS, TEACHER, STUDENT, 2.0
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(twin(*arguments)),
        keras.ops.convert_to_numpy(loss(*arguments)),
    )


class _Power(DistillationLoss):
    name = "power"

    def __init__(self, exponent=2, *, weight=1.0):
        super().__init__(weight=weight)
        self.exponent = exponent


class _Saved(_Power):
    def get_config(self):
        return {**super().get_config(), "exponent": self.exponent}


class _Bare(DistillationLoss):
    def __init__(self):
        pass


def test_a_loss_that_would_lose_its_arguments_is_not_saved():
    with pytest.raises(ValueError, match=r"_Power.*\['exponent'\].*Write get_"):
        _Power(3).get_config()
    config = _Saved(3, weight=0.5).get_config()
    assert config == {"exponent": 3, "weight": 0.5}
    assert _Saved.from_config(config).exponent == 3
    assert _Bare().get_config() == {}


def test_losses_have_the_weights_they_are_given():
    assert HintonKD().get_config() == {}
    assert DecoupledKD(nontarget_weight=2.0).get_config() == {
        "target_weight": 1.0,
        "nontarget_weight": 2.0,
    }
    arguments = LABELS, TEACHER, STUDENT, 2.0
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(DecoupledKD(0.5, 2.0)(*arguments)),
        expected_dkd(*arguments, alpha=0.5, beta=2.0),
        rtol=1e-5,
    )


def test_loss_is_found_by_name_or_taken_as_it_is():
    for name, kind in LOSSES.items():
        assert type(get_loss(name)) is kind
        assert kind.name == name
    loss = DIST(2.0, 2.0)
    assert get_loss(loss) is loss


@pytest.mark.parametrize("identifier", ["hinton", None, HintonKD, ["kd"]])
def test_unknown_loss_is_refused(identifier):
    with pytest.raises(
        ValueError, match=r"must be one of \['kd'.*DistillationLoss. Received"
    ):
        get_loss(identifier)


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_negative_weight_is_refused(weight):
    with pytest.raises(ValueError, match="`intra_weight` must be finite"):
        DIST(intra_weight=weight)
    with pytest.raises(ValueError, match="`target_weight` must be finite"):
        DecoupledKD(target_weight=weight)


def test_new_loss_needs_its_call():
    class Nameless(DistillationLoss):
        pass

    with pytest.raises(NotImplementedError):
        Nameless()(LABELS, TEACHER, STUDENT, 2.0)
