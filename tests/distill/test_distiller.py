"""The Distiller's step: what it computes, changes, saves and refuses."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

from gnsmall_keras.distill.distiller import Distiller
from gnsmall_keras.distill.features import FeaturePair
from gnsmall_keras.distill.losses import LabelCrossEntropy
from gnsmall_keras.distill.teachers import FrozenTeacher, TeacherEnsemble
from gnsmall_keras.models.saving.files import load_model

pytestmark = pytest.mark.backend

CLASSES = 4
STEP_RATE = 0.1
# Of one step at temperature 2, from the PyTorch backend.
LOSS, KD_LOSS, LABEL_LOSS = 1.6189732, 1.7555740, 1.4823726
PROJECTIONS = (  # of each new weight on seeded random values
    10.973158,
    0.5537254,
    -3.8240768,
    0.6659135,
    0.1304472,
    2.0152731,
    -0.1075890,
    0.6993234,
)


def _network(channels, seed, *, side=8, activation=None, regularizer=None):
    """A small classifier whose weights are the same on every backend."""
    inputs = keras.Input((side, side, 3))
    x = layers.Conv2D(channels, 3, kernel_regularizer=regularizer, name="conv")(
        inputs
    )
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(CLASSES, activation=activation, name="logits")(x)
    model = keras.Model(inputs, x)
    generator = np.random.default_rng(seed)
    model.set_weights(
        [
            generator.uniform(0.5, 1.5, w.shape)
            if np.all(w >= 0) and w.ndim == 1 and w.any()
            else generator.normal(0.0, 0.5, w.shape)
            for w in model.get_weights()
        ]
    )
    return model


def _batch(size=32):
    generator = np.random.default_rng(7)
    images = generator.normal(size=(size, 8, 8, 3)).astype("float32")
    return images, generator.integers(0, CLASSES, size)


def _compiled(student, teacher, **options):
    distiller = Distiller(student=student, teacher=teacher, **options)
    distiller.compile(
        keras.optimizers.SGD(STEP_RATE),
        loss=LabelCrossEntropy(),
        metrics=["accuracy"],
    )
    return distiller


def _trained(teacher, steps=2, **options):
    """The student's weights and the logs after some steps on one batch."""
    distiller = _compiled(_network(8, 1), teacher, **options)
    images, labels = _batch()
    for _ in range(steps):
        logs = distiller.train_on_batch(images, labels, return_dict=True)
    return distiller.student.get_weights(), logs


def _assert_equal(weights, others, tolerance=0.0):
    for ours, theirs in zip(weights, others, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


def test_one_step_is_the_same_on_every_backend():
    weights, logs = _trained(_network(16, 0), steps=1, temperature=2.0)
    expected = {"loss": LOSS, "kd_loss": KD_LOSS, "label_loss": LABEL_LOSS}
    for name, value in expected.items():
        assert logs[name] == pytest.approx(value, rel=1e-5), name
    generator = np.random.default_rng(3)
    found = [
        float(np.sum(weight * generator.normal(size=weight.shape)))
        for weight in weights
    ]
    np.testing.assert_allclose(found, PROJECTIONS, rtol=1e-4, atol=1e-5)


def test_the_total_is_the_weighted_sum_of_its_terms():
    _, logs = _trained(_network(16, 0), steps=1, label_weight=0.3)
    total = 0.3 * logs["label_loss"] + 0.7 * logs["kd_loss"]
    assert logs["loss"] == pytest.approx(total, rel=1e-5)


def test_the_teacher_is_left_as_it_was():
    teacher = _network(16, 0)
    before = teacher.get_weights()
    _trained(teacher)
    _assert_equal(teacher.get_weights(), before)
    assert teacher.trainable
    assert all(layer.trainable for layer in teacher.layers)
    assert len(teacher.trainable_variables) == 6


def test_batch_statistics_move_once_a_step():
    student = _network(8, 1)
    images, labels = _batch()
    norm = student.get_layer("norm")
    mean = norm.get_weights()[2]
    features = student.get_layer("conv")(images)
    batch_mean = keras.ops.convert_to_numpy(features).mean(axis=(0, 1, 2))
    _compiled(student, _network(16, 0)).train_on_batch(images, labels)
    momentum = norm.momentum
    expected = momentum * mean + (1 - momentum) * batch_mean
    np.testing.assert_allclose(norm.get_weights()[2], expected, atol=1e-5)


def test_label_weight_one_is_the_baseline():
    alone, _ = _trained(None)
    weighted, _ = _trained(_network(16, 0), label_weight=1.0)
    _assert_equal(alone, weighted, 1e-6)


def test_without_teacher_it_is_plain_keras_training():
    student = _network(8, 1)
    student.compile(keras.optimizers.SGD(STEP_RATE), loss=LabelCrossEntropy())
    images, labels = _batch()
    for _ in range(2):
        student.train_on_batch(images, labels)
    _assert_equal(_trained(None)[0], student.get_weights(), 1e-6)


@pytest.mark.parametrize("combine", ["probabilities", "logits", "per_teacher"])
def test_ensemble_of_one_is_its_teacher(combine):
    teacher = _network(16, 0)
    alone, _ = _trained(teacher)
    one, _ = _trained(TeacherEnsemble([teacher], combine=combine))
    _assert_equal(alone, one, 1e-6)


@pytest.mark.parametrize("combine", ["probabilities", "logits", "per_teacher"])
def test_weight_zero_leaves_a_teacher_out(combine):
    first, second = _network(16, 0), _network(12, 5)
    alone, _ = _trained(second)
    ensemble = TeacherEnsemble([first, second], combine=combine, weights=(0, 1))
    _assert_equal(alone, _trained(ensemble)[0], 1e-6)


def test_probabilities_are_averaged_at_the_temperature():
    teachers = [_network(16, 0), _network(12, 5)]
    images, labels = _batch()
    targets = TeacherEnsemble(teachers, weights=(3, 1)).targets(
        images, labels, 2.0
    )
    found = _softmax(_array(targets["teacher_logits"]) / 2.0)
    first, second = (
        _softmax(teacher.predict_on_batch(images) / 2.0) for teacher in teachers
    )
    np.testing.assert_allclose(found, 0.75 * first + 0.25 * second, atol=1e-6)


def test_confidence_weighs_by_the_labels_probability():
    teachers = [_network(16, 0), _network(12, 5)]
    images, labels = _batch()
    targets = TeacherEnsemble(
        teachers, combine="per_teacher", weights="confidence"
    ).targets(images, labels, 2.0)
    of_label = np.stack(
        [
            _softmax(teacher.predict_on_batch(images))[range(32), labels]
            for teacher in teachers
        ],
        axis=1,
    )
    expected = of_label / of_label.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        _array(targets["teacher_weights"]), expected, rtol=1e-4
    )


def test_per_teacher_is_the_weighted_mean_of_losses():
    teachers = [_network(16, 0), _network(12, 5)]
    losses = [_trained(t, steps=1)[1]["kd_loss"] for t in teachers]
    ensemble = TeacherEnsemble(teachers, combine="per_teacher", weights=(1, 3))
    found = _trained(ensemble, steps=1)[1]["kd_loss"]
    expected = 0.25 * losses[0] + 0.75 * losses[1]
    assert found == pytest.approx(expected, rel=1e-5)


def test_stored_targets_are_the_live_teachers():
    teacher = _network(16, 0)
    live, _ = _trained(teacher)
    images, labels = _batch()
    logits = teacher.predict_on_batch(images)
    distiller = _compiled(_network(8, 1), None, expects_teacher=True)
    for _ in range(2):
        distiller.train_on_batch(
            {"images": images, "teacher_logits": logits}, labels
        )
    _assert_equal(live, distiller.student.get_weights(), 1e-5)


def test_regularisers_count():
    images, labels = _batch()
    logs = {}
    for name, regularizer in (("plain", None), ("l2", "l2")):
        student = _network(8, 1, regularizer=regularizer)
        distiller = _compiled(student, _network(16, 0))
        kernel = student.get_layer("conv").get_weights()[0]
        logs[name] = distiller.train_on_batch(images, labels, return_dict=True)
    expected = logs["plain"]["loss"] + 0.01 * np.sum(kernel**2)
    assert logs["l2"]["loss"] == pytest.approx(expected, rel=1e-5)


def test_evaluate_and_predict_are_the_students():
    images, labels = _batch()
    distiller = _compiled(_network(8, 1), _network(16, 0))
    student = distiller.student
    found = distiller.evaluate(images, labels, verbose=0, return_dict=True)
    assert sorted(found) == ["accuracy", "loss"]
    logits = student.predict(images, verbose=0)
    np.testing.assert_array_equal(distiller.predict(images, verbose=0), logits)
    assert found["accuracy"] == np.mean(logits.argmax(-1) == labels)


def test_agreement_is_reported_on_request():
    images, labels = _batch()
    teacher = _network(16, 0)
    distiller = _compiled(_network(8, 1), teacher, track_agreement=True)
    found = distiller.evaluate(images, labels, verbose=0, return_dict=True)
    same = np.mean(
        teacher.predict(images, verbose=0).argmax(-1)
        == distiller.predict(images, verbose=0).argmax(-1)
    )
    assert found["teacher_agreement"] == pytest.approx(same)


def test_teacher_may_need_other_images():
    images, labels = _batch()
    large = _network(16, 0, side=16)
    teacher = FrozenTeacher(large, preprocess=layers.Resizing(16, 16))
    distiller = _compiled(_network(8, 1), teacher)
    assert np.isfinite(distiller.train_on_batch(images, labels)[0])


class TestFeatures:
    """Layers inside student and teacher that shall agree."""

    def _nested(self, channels, seed):
        """The small classifier with its convolution inside a nested model."""
        inner = _network(channels, seed)
        backbone = keras.Model(
            inner.input, inner.get_layer("relu").output, name="backbone"
        )
        inputs = keras.Input((8, 8, 3))
        x = layers.GlobalAveragePooling2D()(backbone(inputs))
        return keras.Model(inputs, layers.Dense(CLASSES)(x))

    def test_mean_squared_error_of_nested_layers(self):
        student, teacher = self._nested(8, 1), self._nested(8, 0)
        pair = FeaturePair(
            student_layer="backbone/conv", teacher_layer="backbone/conv"
        )
        images, labels = _batch()
        ours, theirs = (
            _array(model.get_layer("backbone").get_layer("conv")(images))
            for model in (student, teacher)
        )
        distiller = _compiled(student, teacher, features=[pair])
        logs = distiller.train_on_batch(images, labels, return_dict=True)
        expected = np.mean((ours - theirs) ** 2)
        assert logs["backbone/conv_loss"] == pytest.approx(expected, rel=1e-4)

    def test_adapter_learns_and_stays_out_of_the_student(self):
        pair = FeaturePair(student_layer="relu", teacher_layer="relu")
        distiller = _compiled(_network(8, 1), _network(16, 0), features=[pair])
        images, labels = _batch()
        (adapter,) = [a for a in distiller._adapters if a]
        before = adapter.get_weights()[0]
        distiller.train_on_batch(images, labels)
        assert adapter.kernel.shape == (8, 16)
        assert np.abs(adapter.get_weights()[0] - before).max() > 0
        assert len(distiller.student.weights) == len(_network(8, 1).weights)

    def test_attention_needs_no_adapter(self):
        pair = FeaturePair(
            student_layer="relu", teacher_layer="relu", loss="attention"
        )
        distiller = _compiled(_network(8, 1), _network(16, 0), features=[pair])
        images, labels = _batch()
        logs = distiller.train_on_batch(images, labels, return_dict=True)
        ours = _energy(_network(8, 1), images, training=True)
        theirs = _energy(_network(16, 0), images, training=False)
        expected = np.mean((ours - theirs) ** 2)
        assert logs["relu_loss"] == pytest.approx(expected, rel=1e-4)

    @pytest.mark.parametrize(
        ("pair", "message"),
        [
            (("relu", "logits"), "agree in all but their channels"),
            (("none", "relu"), "No layer 'none'"),
            (("relu", "conv/inside"), "No layer 'inside' in 'conv'"),
        ],
    )
    def test_layers_that_do_not_fit_are_refused(self, pair, message):
        pair = FeaturePair(student_layer=pair[0], teacher_layer=pair[1])
        with pytest.raises(ValueError, match=message):
            Distiller(
                student=_network(8, 1),
                teacher=_network(16, 0),
                features=[pair],
            )

    def test_bad_pairs_are_refused(self):
        with pytest.raises(ValueError, match="`loss` must be one of"):
            FeaturePair(student_layer="a", teacher_layer="b", loss="cosine")
        for weight in (0.0, "1"):
            with pytest.raises(ValueError, match="must be finite and > 0"):
                FeaturePair(student_layer="a", teacher_layer="b", weight=weight)
        with pytest.raises(ValueError, match="names. Received: Dense"):
            FeaturePair(student_layer=layers.Dense(2), teacher_layer="b")


class TestFiles:
    """What is written holds the student and never the teacher."""

    def test_round_trip_without_the_teacher(self, tmp_path):
        pair = FeaturePair(student_layer="relu", teacher_layer="relu")
        images, labels = _batch()
        teacher = _network(16, 0)
        distiller = _compiled(
            _network(8, 1),
            teacher,
            features=[pair],
            temperature=2.0,
            loss="dkd",
        )
        distiller.train_on_batch(images, labels)
        distiller.save(tmp_path / "distiller.keras")
        read = keras.saving.load_model(tmp_path / "distiller.keras")
        assert read.teacher is None
        assert float(read.temperature) == 2.0
        _assert_equal(read.get_weights(), distiller.get_weights())
        with pytest.raises(ValueError, match="set_teacher"):
            read.train_on_batch(images, labels)
        read.set_teacher(teacher)
        logs = [
            model.train_on_batch(images, labels, return_dict=True)
            for model in (distiller, read)
        ]
        assert logs[0]["dkd_loss"] == pytest.approx(logs[1]["dkd_loss"])
        _assert_equal(read.get_weights(), distiller.get_weights(), 1e-6)

    def test_the_package_s_reader_returns_the_student(self, tmp_path):
        distiller = _compiled(_network(8, 1), _network(16, 0))
        distiller.save(tmp_path / "distiller.keras")
        read = load_model(tmp_path / "distiller.keras")
        assert not isinstance(read, Distiller)
        _assert_equal(read.get_weights(), distiller.student.get_weights())

    def test_keras_reads_them_in_a_new_process(self, tmp_path):
        distiller = _compiled(_network(8, 1), _network(16, 0))
        distiller.save(tmp_path / "distiller.keras")
        student = distiller.student
        student.compile("sgd", loss=LabelCrossEntropy())
        student.save(tmp_path / "student.keras")
        code = (
            "import gnsmall_keras, keras\n"
            "for name in ('distiller', 'student'):\n"
            "    model = keras.models.load_model(name + '.keras')\n"
            "    assert model.compiled\n"
        )
        subprocess.run(
            [sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=300
        )

    def test_keras_s_kernels_are_kept(self, tmp_path):
        """Native ones are not: the file may be read where there are none."""
        native = Distiller(_network(8, 1), kernels="native")
        assert native.get_config()["kernels"] == "auto"
        distiller = Distiller(_network(8, 1), kernels="keras")
        distiller.save(tmp_path / "distiller.keras")
        read = keras.saving.load_model(tmp_path / "distiller.keras")
        assert read.get_config()["kernels"] == "keras"
        config = distiller.get_config()
        del config["kernels"]
        assert Distiller.from_config(config).get_config()["kernels"] == "auto"

    def test_weights_are_the_students(self):
        distiller = _compiled(_network(8, 1), _network(16, 0))
        own = 2  # label_weight and temperature
        assert len(distiller.weights) == len(distiller.student.weights) + own


def test_networks_for_images_of_any_size_are_taken():
    pair = FeaturePair(student_layer="relu", teacher_layer="relu")
    resized = FrozenTeacher(_network(16, 0), preprocess=layers.Resizing(8, 8))
    for teacher, features in (
        (_network(16, 0, side=None), [pair]),
        (resized, []),
    ):
        student = _network(8, 1, side=None)
        distiller = _compiled(student, teacher, features=features)
        logs = distiller.train_on_batch(*_batch(), return_dict=True)
        assert logs["kd_loss"] > 0


def test_predicts_before_it_is_compiled():
    student = _network(8, 1)
    distiller = Distiller(student=student, teacher=_network(16, 0))
    images, _ = _batch()
    found = distiller.predict(images, verbose=0)
    _assert_equal([found], [student.predict(images, verbose=0)], 1e-6)


def test_features_are_refused_with_cached_targets():
    pair = FeaturePair(student_layer="relu", teacher_layer="relu")
    distiller = _compiled(_network(8, 1), _network(8, 0), features=[pair])
    images, labels = _batch()
    batch = {"images": images, "teacher_logits": np.zeros((32, CLASSES))}
    with pytest.raises(ValueError, match="cached targets has logits alone"):
        distiller.train_on_batch(batch, labels)


def _array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def _softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _energy(model, images, *, training):
    """Where the ReLU's map is strong, of unit length: the attention."""
    relu = keras.Model(model.input, model.get_layer("relu").output)
    features = _array(relu(images, training=training))
    energy = np.mean(features**2, axis=-1).reshape(32, -1)
    return energy / np.linalg.norm(energy, axis=-1, keepdims=True)
