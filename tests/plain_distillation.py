"""Distillation by plain Keras, which the Distiller is compared with.

The labels carry the teacher's logits, and the loss is written down anew here.
Networks, images and labels are small and the same on every backend.
"""

import functools

import keras
import numpy as np
from keras import layers, ops
from support import run

from gnsmall_keras.distill.distiller import Distiller
from gnsmall_keras.distill.losses import LabelCrossEntropy

BACKEND = keras.config.backend()
CLASSES = 4
COUNT = 20  # with batches of 8 the last has 4
BATCH = 8
RATE = 0.1
TEMPERATURE = 2.0
LABEL_WEIGHT = 0.3
TERMS = ("loss", "kd_loss", "label_loss")


def network(
    channels,
    seed,
    *,
    dtype=None,
    norm=True,
    synchronized=False,
    regularizer=None,
    offset=0.0,
):
    """A small classifier whose weights are the same on every backend."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype or policy)
    try:
        inputs = keras.Input((8, 8, 3), dtype="float32")
        x = layers.Conv2D(channels, 3, kernel_regularizer=regularizer)(inputs)
        if norm:
            x = layers.BatchNormalization(synchronized=synchronized)(x)
        x = layers.ReLU()(x)
        x = layers.GlobalAveragePooling2D()(x)
        model = keras.Model(inputs, layers.Dense(CLASSES)(x))
    finally:
        keras.config.set_dtype_policy(policy)
    generator = np.random.default_rng(seed)
    for weight in model.weights:
        value = generator.normal(0.0, 0.5, weight.shape)
        if weight.name in ("gamma", "moving_variance"):
            value = 1.0 + np.abs(value)
        weight.assign(value.astype("float32"))
    bias = model.layers[-1].bias
    bias.assign(ops.add(bias, ops.cast(offset, bias.dtype)))
    return model


def make_student(**options):
    return network(8, 1, **options)


def make_teacher(seed=0, **options):
    return network(16, seed, **options)


@functools.cache
def _data():
    generator = np.random.default_rng(7)
    images = generator.normal(size=(24, 8, 8, 3)).astype("float32")
    return images, generator.integers(0, CLASSES, 24).astype("int32")


def examples(count=COUNT):
    return tuple(part[:count] for part in _data())


@functools.cache
def teacher_logits(seed=0):
    """The teacher's logits for all images, from plain Keras."""
    return np.asarray(make_teacher(seed).predict(_data()[0], verbose=0))


def compiled(
    teacher, student=None, *, label_weight=LABEL_WEIGHT, optimizer=None, **modes
):
    distiller = Distiller(
        student=student or make_student(),
        teacher=teacher,
        temperature=TEMPERATURE,
        label_weight=label_weight,
    )
    modes.setdefault("loss", LabelCrossEntropy())
    distiller.compile(optimizer or keras.optimizers.SGD(RATE), **modes)
    return distiller


def fit(distiller, x=None, y=None, **options):
    """Trains for two epochs in the given order; returns the history."""
    if x is None:
        x, y = examples()
    if y is not None:
        options.setdefault("batch_size", BATCH)
    options = {"epochs": 2, "verbose": 0, "shuffle": False, **options}
    return distiller.fit(x, y, **options).history


# The same by plain Keras, without the package.


def _label_loss(y_true, y_pred):
    return keras.losses.sparse_categorical_crossentropy(
        y_true[:, 0], ops.cast(y_pred, "float32"), from_logits=True
    )


def _kd_loss(y_true, y_pred):
    own = ops.log_softmax(ops.cast(y_pred, "float32") / TEMPERATURE)
    theirs = ops.log_softmax(y_true[:, 1:] / TEMPERATURE)
    divergence = ops.sum(ops.exp(theirs) * (theirs - own), axis=-1)
    return TEMPERATURE**2 * divergence


def _total(label_weight):
    def loss(y_true, y_pred):
        kd = (1.0 - label_weight) * _kd_loss(y_true, y_pred)
        return label_weight * _label_loss(y_true, y_pred) + kd

    return loss


def train_plainly(
    student=None,
    *,
    label_weight=LABEL_WEIGHT,
    optimizer=None,
    start=0,
    count=COUNT,
    taught=None,
    epochs=2,
    **options,
):
    """History and weights of plain training; terms logged as metrics."""
    student = student or make_student()
    # Keras logs metrics by the name of the function.
    student.compile(
        optimizer or keras.optimizers.SGD(RATE),
        loss=_total(label_weight),
        metrics=[
            keras.metrics.MeanMetricWrapper(_kd_loss, name="kd_loss"),
            keras.metrics.MeanMetricWrapper(_label_loss, name="label_loss"),
        ],
    )
    images, labels = examples(count)
    taught = teacher_logits() if taught is None else taught
    targets = np.concatenate([labels[:, None], taught[:count]], axis=1)
    images, targets = images[start:], targets[start:].astype("float32")
    history = fit(student, images, targets, epochs=epochs, **options)
    return history, student.get_weights()


@functools.cache
def plain_reference(**options):
    return train_plainly(**options)


def assert_weights(found, expected, tolerance=1e-5):
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


def distance(weights, others):
    return max(
        np.abs(a - b).max() for a, b in zip(weights, others, strict=True)
    )


def assert_is_distillation(
    distiller, history, reference, tolerance=1e-5, *, of_terms=None
):
    """Terms, their sum, the student and the untouched teacher are right."""
    expected_history, expected_weights = reference
    for name in TERMS:
        np.testing.assert_allclose(
            history[name],
            expected_history[name],
            rtol=of_terms or 10 * tolerance,
        )
    assert_sums(history)
    assert_weights(distiller.student.get_weights(), expected_weights, tolerance)
    assert_untouched(distiller.teacher.models[0])


def assert_sums(history, label_weight=LABEL_WEIGHT, rest=0.0):
    kd, label = (np.array(history[name]) for name in TERMS[1:])
    total = label_weight * label + (1 - label_weight) * kd + rest
    np.testing.assert_allclose(history["loss"], total, rtol=1e-5)


@functools.cache
def _fresh(seed, **options):
    return make_teacher(seed, **options).get_weights()


def assert_untouched(teacher, seed=0, **options):
    assert_weights(teacher.get_weights(), _fresh(seed, **options), 0.0)
    assert all(layer.trainable for layer in teacher.layers)


def kd_by_hand(teacher, student):
    """Hinton's loss of each image in float64."""
    p, q = (
        x - np.logaddexp.reduce(x, axis=-1, keepdims=True)
        for x in (
            np.asarray(logits, "float64") / TEMPERATURE
            for logits in (teacher, student)
        )
    )
    return TEMPERATURE**2 * np.sum(np.exp(p) * (p - q), axis=-1)


def label_by_hand(labels, student):
    student = np.asarray(student, "float64")
    log_q = student - np.logaddexp.reduce(student, axis=-1, keepdims=True)
    return -log_q[np.arange(len(labels)), labels]


def first_logits(student):
    """What an untrained student says in its first step."""
    images, _ = examples(BATCH)
    return run(student, images, training=True).astype("float64")
