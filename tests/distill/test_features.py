"""Pairs of layers: maps that say nothing, layers in two pairs, new teachers."""

import keras
import numpy as np
import pytest
from keras import layers

from gnsmall_keras.distill.distiller import Distiller
from gnsmall_keras.distill.features import FeaturePair, feature_loss, term_names
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


def test_pairs_may_share_a_layer_and_have_terms_of_their_own(tmp_path):
    pairs = [
        _pair("conv"),
        _pair("conv", weight=2.0, loss="attention"),
        _pair("relu", "conv"),
    ]
    teacher = _network(16, 0)
    distiller = _compiled(*pairs, teacher=teacher)
    images, labels = _batch()
    apart = [
        _compiled(pair, teacher=teacher).train_on_batch(
            images, labels, return_dict=True
        )
        for pair in pairs[1:2]
    ]
    logs = distiller.train_on_batch(images, labels, return_dict=True)
    assert list(logs) == [
        "conv_2_loss",
        "conv_loss",
        "kd_loss",
        "label_loss",
        "loss",
        "relu_loss",
    ]
    assert logs["conv_2_loss"] == pytest.approx(apart[0]["conv_loss"])
    features = sum(
        pair.weight * logs[f"{name}_loss"]
        for pair, name in zip(pairs, ("conv", "conv_2", "relu"), strict=True)
    )
    total = 0.5 * (logs["kd_loss"] + logs["label_loss"]) + features
    assert logs["loss"] == pytest.approx(total, rel=1e-5)
    for layer in (*distiller.student.layers, *teacher.layers):
        assert "call" not in vars(layer)
    distiller.save(tmp_path / "distiller.keras")
    read = keras.saving.load_model(tmp_path / "distiller.keras")
    read.set_teacher(teacher)
    again = read.train_on_batch(images, labels, return_dict=True)
    expected = distiller.train_on_batch(images, labels, return_dict=True)
    assert again == pytest.approx(expected, rel=1e-5)


def test_a_layer_named_like_a_loss_has_a_term_of_its_own():
    pair = _pair("kd")
    assert term_names([pair, pair], ["kd_loss"]) == ["kd_2_loss", "kd_3_loss"]


@pytest.mark.parametrize("channels", [1, 8, 32])
def test_another_teacher_before_training_has_adapters_of_its_own(channels):
    distiller = _compiled(_pair("conv"), teacher=_network(16, 0))
    distiller.set_teacher(_network(channels, 2))
    count = len(distiller.student.trainable_weights) + (channels != 8)
    assert len(distiller.trainable_weights) == count
    logs = distiller.train_on_batch(*_batch(), return_dict=True)
    assert logs["conv_loss"] > 0
    shapes = [
        adapter.kernel.shape for adapter in distiller._adapters if adapter
    ]
    assert shapes == ([] if channels == 8 else [(8, channels)])


def test_another_teacher_must_fit_adapters_that_are_trained():
    teacher = _network(16, 0)
    distiller = _compiled(_pair("conv"), teacher=teacher)
    images, labels = _batch()
    distiller.train_on_batch(images, labels)
    with pytest.raises(ValueError, match=r"need \[1\] units, not \[16\]"):
        distiller.set_teacher(_network(1, 2))
    assert distiller.teacher.models == [teacher]
    distiller.set_teacher(_network(16, 2))
    distiller.train_on_batch(images, labels)


def _first(channels=8, seed=1, rest=()):
    """`_network`, with its channels first after the convolution."""
    like = _network(channels, seed)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(channels, 3, use_bias=False)(inputs)
    x = layers.Permute((3, 1, 2), name="moved")(x)
    x = layers.ZeroPadding2D(0, "channels_first", name="padded")(x)
    x = layers.BatchNormalization(
        axis=1, center=False, scale=False, epsilon=1e-9, name="conv"
    )(x)
    for layer in rest:
        x = layer(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.Maximum(name="both")([x, 0.5 * x])
    x = layers.GlobalAveragePooling2D(data_format="channels_first")(x)
    model = keras.Model(inputs, layers.Dense(CLASSES)(x))
    model.get_layer("conv").trainable = False  # gives what it takes
    for mine, its in zip(
        model.trainable_weights, like.trainable_weights, strict=True
    ):
        mine.assign(its)
    return model


@pytest.mark.parametrize("channels", [6, 16])
def test_channels_may_come_first(channels):
    """Of the teacher or of both; 6 are as many as rows, without an error."""
    makers = (_network, _first)
    names = (
        ["conv", "conv", "relu", "relu"],
        ["padded", "conv", "relu", "both"],
    )
    terms, kernels = [], []
    for ours, theirs in ((0, 0), (1, 1), (0, 1)):
        pairs = [
            _pair(*layer_names, loss=loss)
            for layer_names in zip(names[ours], names[theirs], strict=True)
            for loss in ("mse", "attention")
        ]
        distiller = _compiled(
            *pairs, student=makers[ours](6), teacher=makers[theirs](channels, 0)
        )
        distiller.run_eagerly = True  # one step each: nothing to compile
        adapters = [adapter for adapter in distiller._adapters if adapter]
        kernels = kernels or [adapter.get_weights() for adapter in adapters]
        for adapter, kernel in zip(adapters, kernels, strict=True):
            adapter.set_weights(kernel)
        logs = distiller.train_on_batch(*_batch(), return_dict=True)
        terms.append([logs[name] for name in term_names(pairs, ["kd_loss"])])
    np.testing.assert_allclose(terms, terms[:1] * 3, rtol=1e-4)


class _Own(layers.Layer):
    def call(self, inputs):
        return inputs


def test_a_layer_whose_channels_may_be_anywhere_is_refused():
    own = _Own(name="own")
    for pair in (_pair("own", "relu"), _pair("moved", "relu")):
        with pytest.raises(ValueError, match="which axis has .* Received: '"):
            _compiled(pair, student=_first(rest=[own]))
    own.data_format = "channels_first"
    _compiled(_pair("own", "relu"), student=_first(rest=[own]))


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (_pair("photo", "conv"), "must compute something. Received: 'photo'"),
        (_pair("pool", loss="attention"), "two or more. Received: .*'pool'"),
    ],
)
def test_layers_that_say_nothing_are_refused(pair, message):
    with pytest.raises(ValueError, match=message):
        _compiled(pair)
