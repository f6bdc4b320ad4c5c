"""Losses and metrics of probabilities are refused: students end in logits."""

import functools

import keras
import numpy as np
import pytest

from gnsmall_keras.distill.distiller import Distiller
from gnsmall_keras.distill.losses import LabelCrossEntropy


def _distiller():
    student = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    return Distiller(student=student)


class _KerasOwn(keras.losses.SparseCategoricalCrossentropy):
    pass


class _FromLogits(keras.losses.KLDivergence):
    def call(self, y_true, y_pred):
        return super().call(y_true, keras.ops.softmax(y_pred))


def smooth_categorical_crossentropy(y_true, y_pred):
    return keras.losses.categorical_crossentropy(
        y_true, y_pred, from_logits=True, label_smoothing=0.1
    )


def _partial(**options):
    return functools.partial(keras.losses.binary_crossentropy, **options)


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
        "poisson",
        "kld",
        "crossentropy",
        keras.losses.CategoricalCrossentropy,
        _KerasOwn(),
        _partial(),
        _partial(from_logits=False),
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
        _KerasOwn(from_logits=True),
        _FromLogits(),
        _partial(from_logits=True),
        smooth_categorical_crossentropy,
    ],
)
def test_other_losses_are_taken(loss):
    _distiller().compile("sgd", loss=loss)


@pytest.mark.parametrize(
    ("loss", "received"),
    [
        ({"out": LabelCrossEntropy()}, "a dict of 1"),
        ([LabelCrossEntropy(), "mse"], "a list of 2"),
        ([], "a list of 0"),
    ],
)
def test_several_losses_are_refused(loss, received):
    """Keras finds no output of such a name, and leaves out the second."""
    with pytest.raises(ValueError, match=f"one loss. Received: {received}"):
        _distiller().compile("sgd", loss=loss)


@pytest.mark.parametrize(
    ("metric", "cure"),
    [
        ("sparse_categorical_crossentropy", "from_logits=True"),
        (keras.metrics.SparseCategoricalCrossentropy(), "from_logits=True"),
        (keras.losses.categorical_crossentropy, "from_logits=True"),
        (keras.metrics.AUC, "AUC(from_logits=True)"),
        ("AUC", "AUC(from_logits=True)"),
        (keras.metrics.AUC(name="area"), "AUC(from_logits=True)"),
        (keras.metrics.Precision(), "Precision(top_k=1)"),
        (keras.metrics.Recall(), "Recall(top_k=1)"),
        (keras.metrics.KLDivergence(), "the softmax first"),
        (keras.metrics.PrecisionAtRecall(0.5), "the softmax first"),
        ("poisson", "the softmax first"),
        ("binary_accuracy", "BinaryAccuracy(threshold=0)"),
        (keras.metrics.binary_accuracy, "BinaryAccuracy(threshold=0)"),
        (keras.metrics.BinaryAccuracy(), "BinaryAccuracy(threshold=0)"),
        (keras.metrics.BinaryIoU(threshold=0.9), "BinaryIoU(threshold=0)"),
        (keras.metrics.F1Score(threshold=0.5), "F1Score without `threshold`"),
        (keras.metrics.FBetaScore(threshold=0.5), "FBetaScore without"),
        ("TruePositives", "TruePositives(thresholds=0)"),
        (keras.metrics.TrueNegatives(), "TrueNegatives(thresholds=0)"),
        (keras.metrics.FalsePositives(), "FalsePositives(thresholds=0)"),
        (keras.metrics.FalseNegatives, "FalseNegatives(thresholds=0)"),
    ],
)
@pytest.mark.parametrize("kind", ["metrics", "weighted_metrics"])
def test_a_metric_of_probabilities_is_refused(metric, cure, kind):
    with pytest.raises(ValueError, match="metrics must take logits") as error:
        _distiller().compile("sgd", **{kind: ["accuracy", metric]})
    assert cure in str(error.value)


class _OwnArea(keras.metrics.AUC):
    def update_state(self, y_true, y_pred, sample_weight=None):
        return super().update_state(y_true, keras.ops.softmax(y_pred))


@pytest.mark.parametrize(
    "metric",
    [
        "mse",
        lambda y_true, y_pred: keras.ops.max(y_pred, axis=-1),
        keras.metrics.AUC(from_logits=True),
        keras.metrics.SparseCategoricalCrossentropy(from_logits=True),
        keras.metrics.Precision(thresholds=0),
        keras.metrics.F1Score(),
        keras.metrics.FBetaScore(),
        keras.metrics.BinaryAccuracy(threshold=0),
        keras.metrics.BinaryIoU(threshold=0),
        keras.metrics.TruePositives(thresholds=0),
        keras.metrics.FalseNegatives(thresholds=[0.0]),
        _OwnArea(),
    ],
)
def test_other_metrics_are_taken(metric):
    _distiller().compile("sgd", metrics=[metric])


@pytest.mark.parametrize("kind", ["Precision", "Recall"])
def test_the_cure_counts_the_largest_logit(kind):
    logits = np.array([[9.0, 8.0], [-3.0, -2.0], [-5.0, -6.0]], "float32")
    labels = np.eye(2, dtype="float32")[[0, 1, 1]]
    metric = getattr(keras.metrics, kind)(top_k=1)
    assert float(metric(labels, logits)) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("BinaryAccuracy", 0.75),
        ("BinaryIoU", 0.5),
        ("TruePositives", 1),
        ("FalseNegatives", 0),
        ("FalsePositives", 1),
        ("TrueNegatives", 2),
    ],
)
def test_a_threshold_of_0_is_that_of_logits(name, expected):
    cut = {"thresholds" if "tives" in name else "threshold": 0}
    metric = getattr(keras.metrics, name)(**cut)
    if name == "BinaryIoU":
        metric = keras.metrics.BinaryIoU(target_class_ids=[1], threshold=0)
    labels = np.array([1.0, 0.0, 0.0, 0.0], "float32")
    logits = np.array([0.2, 0.1, -0.1, -3.0], "float32")
    assert float(metric(labels, logits)) == pytest.approx(expected)


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


@pytest.mark.parametrize("form", [lambda loss: loss, lambda loss: [loss]])
@pytest.mark.parametrize("distillation", ["kd", "dkd"])
def test_an_ignored_class_goes_with_losses_that_read_no_labels(
    distillation, form
):
    teacher = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    student = keras.models.clone_model(teacher)
    distiller = Distiller(student, teacher=teacher, loss=distillation)
    ignoring = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, ignore_class=-1
    )
    distiller.compile("sgd", loss=form(ignoring))
    x, y = np.ones((4, 3), "float32"), np.array([0, 1, -1, 1])
    if distillation == "kd":
        distiller.fit(x, y, verbose=0)
        return
    with pytest.raises(ValueError, match="ignore_class=-1 beside"):
        distiller.fit(x, y, verbose=0)
