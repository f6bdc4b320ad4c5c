"""LabelCrossEntropy outside of a Distiller, on labels that are no classes."""

import keras
import numpy as np
import pytest
from support import Unseen

from gnsmall_keras.distill.distiller import Distiller
from gnsmall_keras.distill.losses import LabelCrossEntropy

pytestmark = pytest.mark.contract

LOGITS = np.log(np.array([[4, 1, 1], [1, 4, 1], [1, 1, 4]], "float32"))
LOSSES = [np.log(1.5), np.log(6), np.log(6)]  # of class 0


@pytest.mark.parametrize("label", [-1, 3, 300, 0.5, np.nan])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_they_are_refused_where_they_are_known(label, smoothing):
    loss = LabelCrossEntropy(smoothing)
    with pytest.raises(ValueError, match="whole numbers from 0 to 2"):
        loss(np.array([0, label, 1]), LOGITS)
    labels = keras.ops.convert_to_tensor(np.array([[0], [label]], "float32"))
    with pytest.raises(ValueError, match=f"Received: {label:g}"):
        loss(labels, LOGITS[:2])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("label", [-1, 3])
def test_their_loss_and_gradient_are_0_inside_of_a_graph(label, smoothing):
    loss = LabelCrossEntropy(smoothing, reduction="none")
    labels = np.array([0, 0, label])
    values, gradient = _in_a_graph(loss, labels)
    known = loss(labels[:2], LOGITS[:2])
    np.testing.assert_allclose(
        values, [*keras.ops.convert_to_numpy(known), 0], rtol=1e-6
    )
    if not smoothing:
        np.testing.assert_allclose(values[:2], LOSSES[:2], rtol=1e-6)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[:2]).min() > 0.01
    assert not gradient[2].any()


@pytest.mark.parametrize("columns", [2, 5])
def test_rows_of_another_length_are_refused(columns):
    """In a batch of one they would count as so many class numbers."""
    loss = LabelCrossEntropy()
    for size in (1, 3):
        rows = np.eye(columns, dtype="float32")[np.zeros(size, int)]
        with pytest.raises(ValueError, match=f"Received: rows of {columns}"):
            loss(rows, LOGITS[:size])


@pytest.mark.parametrize("shape", [(2, 4, 4, 3), (2, 4, 3), (3,)])
def test_logits_that_are_no_rows_are_refused(shape):
    logits = np.zeros(shape, "float32")
    for labels in (np.zeros(shape[:-1], int), logits + 1 / 3):
        with pytest.raises(ValueError, match=r"a row for each.*Flatten, then"):
            LabelCrossEntropy()(labels, logits)


def test_a_student_of_maps_is_told_so():
    maps = [keras.Input((4, 4, 3)), keras.layers.Conv2D(3, 1)]
    distiller = Distiller(keras.Sequential(maps))
    distiller.compile("sgd", loss=LabelCrossEntropy())
    images, labels = np.ones((2, 4, 4, 3), "float32"), np.zeros((2, 4, 4), int)
    with pytest.raises(ValueError, match=r"shape \(.*, 4, 4, 3\). End the"):
        distiller.fit(images, labels, verbose=0)


def _in_a_graph(loss, labels):
    """Values, and the gradient of their sum in the logits."""
    backend = keras.config.backend()
    if backend == "jax":
        import jax

        def summed(logits, labels):
            values = loss(labels, logits)
            return values.sum(), values

        step = jax.jit(jax.value_and_grad(summed, has_aux=True))
        (_, values), gradient = step(LOGITS, labels)
        return np.asarray(values), np.asarray(gradient)
    if backend == "tensorflow":
        import tensorflow as tf

        @tf.function
        def run(logits, labels):
            with tf.GradientTape() as tape:
                tape.watch(logits)
                values = loss(labels, logits)
            return values, tape.gradient(values, logits)

        values, gradient = run(tf.constant(LOGITS), tf.constant(labels))
        return values.numpy(), gradient.numpy()
    pytest.skip("PyTorch has no graph here: values are known")


def _taught():
    models = [
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        for _ in range(2)
    ]
    distiller = Distiller(*models)
    distiller.compile("sgd", loss=[LabelCrossEntropy()])
    return distiller


@pytest.mark.parametrize("way", ["fit", "validation", "batch", "loss"])
@pytest.mark.parametrize("row", [[1, 1, 0], [0, 255, 0], [1.5, -0.5, 0.0]])
def test_rows_of_more_than_one_label_are_refused(row, way):
    """A softmax gives each image one class: their loss had no minimum of 0."""
    rows = np.eye(3)[[0, 1, 2, 2]]
    wrong = np.array([*rows[:3], row])
    x = np.ones((4, 4), "float32")
    calls = {
        "fit": lambda: _taught().fit(x, wrong),
        "validation": lambda: _taught().fit(
            x, rows, validation_data=(x, wrong)
        ),
        "batch": lambda: _taught().train_on_batch(x, wrong),
        "loss": lambda: LabelCrossEntropy()(wrong, x[:, :3]),
    }
    with pytest.raises(ValueError, match="add up to 1.*BinaryCrossentropy"):
        calls[way]()


@pytest.mark.parametrize("way", ["validation", "evaluate", "arrays", "batch"])
@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("label", [-1, 3])
def test_evaluation_refuses_them_too(label, eager, way):
    """Their loss is 0: it looked perfect."""
    x, y = np.ones((4, 4), "float32"), np.array([0, 1, 2, 2])
    wrong = np.full(4, label)
    distiller = _taught()
    distiller.compile("sgd", loss=LabelCrossEntropy(), run_eagerly=eager)
    distiller.fit(x, y, verbose=0)
    calls = {
        "validation": lambda: distiller.fit(
            x, y, validation_data=Unseen(x, wrong), verbose=0
        ),
        "evaluate": lambda: distiller.evaluate(Unseen(x, wrong), verbose=0),
        "arrays": lambda: distiller.evaluate(x, wrong, verbose=0),
        "batch": lambda: distiller.test_on_batch(x, wrong),
    }
    with pytest.raises(ValueError, match=f"from 0 to 2.*Received: {label}"):
        calls[way]()
    assert distiller.evaluate(Unseen(x, y), verbose=0) > 0


@pytest.mark.parametrize("kind", ["bool", "uint8", "uint16", "uint32", "int8"])
def test_whole_numbers_of_any_type_are_taken(kind):
    """PyTorch has no least and largest of some."""
    x, y = np.ones((4, 4), "float32"), np.array([0, 1, 1, 0], kind)
    if keras.config.backend() == "torch":
        import torch

        y = torch.from_numpy(y)
    distiller = _taught()
    assert np.isfinite(distiller.fit(Unseen(x, y), verbose=0).history["loss"])
    if kind != "bool":
        y[2] = 3
        with pytest.raises(ValueError, match="Received: 3"):
            distiller.fit(Unseen(x, y), verbose=0)


def test_other_rows_of_labels_are_taken():
    """In half precision, mixed, and none, whose image does not count."""
    rows = np.array([[0.1] * 3, [0.7, 0.3, 0], [0, 0, 0], [1, 0, 0]], "float16")
    rows[0] = np.array([0.334, 0.3335, 0.334])
    x = np.ones((4, 4), "float32")
    history = _taught().fit(x, rows, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    distiller = _taught()
    distiller.compile(
        "sgd", loss=keras.losses.BinaryCrossentropy(from_logits=True)
    )
    distiller.fit(x, np.ones((4, 3)), verbose=0)
