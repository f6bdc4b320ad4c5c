"""Sources of data, forms of labels, and weights of samples."""

import functools

import keras
import numpy as np
import pytest
from plain_distillation import (
    BACKEND,
    BATCH,
    CLASSES,
    COUNT,
    LABEL_WEIGHT,
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
    label_by_hand,
    make_student,
    make_teacher,
    plain_reference,
    teacher_logits,
    train_plainly,
)

from gnsmall_keras.data.batches import TrainingBatches
from gnsmall_keras.distill.distiller import Distiller
from gnsmall_keras.distill.features import FeaturePair
from gnsmall_keras.distill.losses import LabelAccuracy, LabelCrossEntropy
from gnsmall_keras.distill.teachers import TeacherEnsemble

pytestmark = pytest.mark.backend


def test_reference_tells_distillation_from_plain_training():
    """The other tests would notice a teacher that has no effect."""
    _, distilled = plain_reference()
    history, labels_only = plain_reference(label_weight=1.0)
    assert distance(distilled, labels_only) > 0.01
    np.testing.assert_allclose(history["loss"], history["label_loss"])
    assert_sums(plain_reference()[0])


class _Batches(keras.utils.PyDataset):
    def __init__(self, *arrays):
        super().__init__()
        self._arrays = arrays

    def __len__(self):
        return -(-len(self._arrays[0]) // BATCH)

    def __getitem__(self, index):
        part = slice(index * BATCH, (index + 1) * BATCH)
        return keras.tree.map_structure(lambda a: a[part], self._arrays)


def _tf_data(*arrays):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(arrays).batch(BATCH)


def _torch_loader(*arrays):
    torch = pytest.importorskip("torch")
    arrays = [torch.from_numpy(array) for array in arrays]
    data = torch.utils.data.TensorDataset(*arrays)
    return torch.utils.data.DataLoader(data, batch_size=BATCH)


SOURCES = {
    "pydataset": _Batches,
    "tf.data": _tf_data,
    "torch": _torch_loader,
}


def _source(name, *arrays):
    at_home = {"tf.data": "tensorflow", "torch": "torch"}
    if at_home.get(name, BACKEND) != BACKEND:
        pytest.skip("imports a second framework")
    return SOURCES[name](*arrays)


@pytest.mark.parametrize("name", SOURCES)
def test_sources_of_data(name):
    distiller = compiled(make_teacher())
    history = fit(distiller, _source(name, *examples()))
    assert_is_distillation(distiller, history, plain_reference())


@pytest.mark.parametrize("form", ["(n, 1)", "one-hot"])
def test_forms_of_labels(form):
    images, labels = examples()
    loss = LabelCrossEntropy()
    if form == "(n, 1)":
        labels = labels[:, None]
    else:
        labels = np.eye(CLASSES, dtype="float32")[labels]
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    distiller = compiled(make_teacher(), loss=loss)
    history = fit(distiller, images, labels)
    assert_is_distillation(distiller, history, plain_reference())


@pytest.mark.parametrize("text", [True, False])
def test_an_attribute_of_the_data_is_not_taken_for_its_labels(text):
    """Keras's own generators have class names there, others anything."""
    images, labels = examples()
    data = _Batches(images, labels)
    data.labels = labels.astype(str) if text else labels + CLASSES
    distiller = compiled(make_teacher())
    history = fit(distiller, data, validation_data=data)
    expected = plain_reference()[0]
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-4)


def test_an_attribute_of_the_data_does_not_spare_the_batches_a_check():
    images, labels = examples()
    data = _Batches(images, np.where(labels == 1, CLASSES, labels))
    data.labels = labels
    with pytest.raises(ValueError, match=f"Received: {CLASSES}"):
        fit(compiled(make_teacher()), data)


def _weights_of_samples():
    """Of 0 to 2, none in the short last batch but one."""
    weights = np.random.default_rng(3).uniform(0, 2, COUNT)
    weights[[1, 4, 5, 17, 18, 19]] = 0
    return weights.astype("float32")


@functools.cache
def _weighted_reference():
    return train_plainly(sample_weight=_weights_of_samples())


@pytest.mark.parametrize("source", ["arrays", "tf.data", "torch"])
def test_sample_weights(source):
    weights = _weights_of_samples()
    distiller = compiled(make_teacher())
    if source == "arrays":
        history = fit(distiller, sample_weight=weights)
    else:
        history = fit(distiller, _source(source, *examples(), weights))
    expected, student = _weighted_reference()
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-4)
    assert_sums(history)
    assert_weights(distiller.student.get_weights(), student)
    assert_untouched(distiller.teacher.models[0])


def test_class_weights():
    class_weight = {0: 0.0, 1: 0.5, 2: 1.0, 3: 2.0}
    images, labels = examples()
    weights = np.array([class_weight[int(label)] for label in labels])
    distiller = compiled(make_teacher())
    history = fit(distiller, images, labels, class_weight=class_weight)
    expected, student = train_plainly(sample_weight=weights.astype("float32"))
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-4)
    assert_sums(history)
    assert_weights(distiller.student.get_weights(), student)


def test_samples_of_weight_zero_count_for_nothing():
    """By hand: a sum over weighted images, divided by all eight of them."""
    images, labels = examples(BATCH)
    weights = _weights_of_samples()[:BATCH]
    distiller = compiled(make_teacher())
    own = first_logits(distiller.student)
    kept = weights > 0
    kd = kd_by_hand(teacher_logits()[:BATCH][kept], own[kept])
    label = label_by_hand(labels[kept], own[kept])
    kd, label = ((weights[kept] * x).sum() / BATCH for x in (kd, label))
    other = labels.copy()
    other[~kept] = (other[~kept] + 1) % CLASSES  # nobody looks there
    logs = distiller.train_on_batch(
        images, other, sample_weight=weights, return_dict=True
    )
    assert logs["kd_loss"] == pytest.approx(kd, rel=1e-4)
    assert logs["label_loss"] == pytest.approx(label, rel=1e-4)
    total = LABEL_WEIGHT * label + (1 - LABEL_WEIGHT) * kd
    assert logs["loss"] == pytest.approx(total, rel=1e-4)


def test_regularisers_are_added_whole():
    student = make_student(regularizer=keras.regularizers.L2(0.1))
    distiller = compiled(make_teacher(), student)
    own = first_logits(student)
    extra = 0.1 * np.sum(np.square(student.get_weights()[0]))
    history = fit(distiller)
    reference = train_plainly(
        make_student(regularizer=keras.regularizers.L2(0.1))
    )
    for name in TERMS:
        np.testing.assert_allclose(history[name], reference[0][name], rtol=1e-4)
    assert_weights(student.get_weights(), reference[1])
    student.set_weights(make_student().get_weights())
    logs = distiller.train_on_batch(*examples(BATCH), return_dict=True)
    kd = kd_by_hand(teacher_logits()[:BATCH], own).mean()
    label = label_by_hand(examples(BATCH)[1], own).mean()
    assert extra > 0.1
    assert logs["kd_loss"] == pytest.approx(kd, rel=1e-4)
    total = LABEL_WEIGHT * label + (1 - LABEL_WEIGHT) * kd + extra
    assert logs["loss"] == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize(
    ("cached", "expects"), [(True, True), (True, False), (False, False)]
)
def test_an_agreement_that_nothing_measured_is_not_reported(cached, expects):
    """Validation has no cached targets, plain training no teacher."""
    images, labels = examples(BATCH)
    distiller = Distiller(
        make_student(),
        track_agreement=True,
        expects_teacher=expects,
    )
    distiller.compile("sgd", loss=LabelCrossEntropy())
    data = images
    if cached:
        logits = teacher_logits()[:BATCH]
        data = {"images": images, "teacher_logits": logits}
    history = fit(distiller, data, labels, validation_data=(images, labels))
    reported = {"val_loss", *TERMS, "teacher_agreement"} if cached else None
    assert history.keys() == (reported or {"loss", "val_loss"})


def test_what_was_read_from_a_file_is_evaluated_without_its_teacher(tmp_path):
    distiller = Distiller(make_student(), make_teacher(), track_agreement=True)
    distiller.compile("sgd", loss=LabelCrossEntropy())
    distiller.save(tmp_path / "distiller.keras")
    read = keras.saving.load_model(tmp_path / "distiller.keras")
    images, labels = examples(BATCH)
    found = read.evaluate(images, labels, verbose=0, return_dict=True)
    assert found.keys() == {"loss"}
    with pytest.raises(ValueError, match="set_teacher"):
        fit(read, images, labels)


class _Shown(keras.callbacks.Callback):
    """Which epoch of its batches each epoch has shown."""

    def __init__(self, batches):
        super().__init__()
        self.epochs = []
        self._batches = batches

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(self._batches._epoch)


@pytest.mark.parametrize("listed", [True, False])
def test_batches_show_the_epoch_that_keras_counts(listed):
    """Also where Keras has looked at data, and in a training that goes on."""
    images = np.zeros((BATCH, 8, 8, 3), np.uint8)
    batches = TrainingBatches(
        images, examples(BATCH)[1], batch_size=BATCH // 2, seed=0
    )
    shown = _Shown(batches)
    distiller = compiled(make_teacher(), weighted_metrics=["accuracy"])
    callbacks = [shown]
    if not listed:
        callbacks = keras.callbacks.CallbackList(
            callbacks, add_history=True, model=distiller
        )
    fit(distiller, batches, callbacks=callbacks, epochs=2)
    fit(distiller, batches, callbacks=callbacks, initial_epoch=5, epochs=7)
    distiller.fit(batches, None, None, 1, 0, callbacks)  # by position
    assert shown.epochs == [0, 1, 5, 6, 0]


@pytest.mark.parametrize("form", ["array", "batches", "validation"])
@pytest.mark.parametrize(
    ("wrong", "received"),
    [
        (lambda labels: labels + 0.5, r"Received: \d\.5\. Give class numbers"),
        (lambda labels: labels / CLASSES, r"Received: 0\.\d+\. Give class"),
        (lambda labels: np.eye(5)[labels], "Received: rows of 5"),
        (lambda labels: {"out": labels}, "Received: a dict"),
    ],
    ids=["halves", "probabilities", "columns", "dict"],
)
def test_labels_of_another_form_are_refused(form, wrong, received):
    images, labels = examples(BATCH)
    labels = wrong(labels)
    data, options = (images, labels), {}
    if form == "batches":
        data = (_Batches(images, labels),)
    elif form == "validation":
        data, options = examples(), {"validation_data": data}
    distiller = compiled(make_teacher())
    with pytest.raises(ValueError, match=received):
        fit(distiller, *data, **options)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"image": 3, "teacher_logits": CLASSES}, "'images' and 'teacher_log"),
        ({"images": 3}, r"Received: \['images'\]"),
        ({"images": 3, "teacher_logits": 1}, r"4 classes. Received: \(8, 1\)"),
        ({"images": 3, "teacher_logits": 12}, r"Received: \(8, 12\)"),
        ({"images": 3, "teacher_logits": 0}, r"Received: \(8,\)"),
    ],
    ids=["name", "no targets", "a column", "other classes", "a vector"],
)
@pytest.mark.parametrize("loss", [LabelCrossEntropy(), None])
def test_cached_targets_that_do_not_fit_are_refused(parts, message, loss):
    """A column would be taken for the logits of each class."""
    images, labels = examples(BATCH)
    data = {name: np.zeros((BATCH, n)) for name, n in parts.items() if n != 3}
    data |= {name: images for name, n in parts.items() if n == 3}
    if parts.get("teacher_logits") == 0:
        data["teacher_logits"] = np.zeros(BATCH)
    with pytest.raises(ValueError, match=message):
        fit(compiled(None, loss=loss), data, labels, epochs=1)


class TestWithoutLabels:
    """A student may learn from its teacher alone, and from nothing else."""

    @pytest.mark.parametrize(
        ("options", "received"),
        [
            ({"loss": LabelCrossEntropy()}, "but a compiled loss"),
            ({"metrics": ["accuracy"]}, "but compiled metrics"),
            ({"weighted_metrics": [LabelAccuracy()]}, "but compiled metrics"),
            ({"kind": "dkd"}, "but the loss 'dkd'"),
            ({"teacher": "sure"}, "but an ensemble with confidence"),
            ({"teacher": None}, "but no teacher"),
        ],
        ids=["loss", "metrics", "weighted", "dkd", "confidence", "alone"],
    )
    @pytest.mark.parametrize("form", ["array", "batches"])
    def test_what_needs_them_is_named(self, options, received, form):
        distiller = _without_labels(**options)
        images = examples(BATCH)[0]
        data = images if form == "array" else _Batches(images)
        with pytest.raises(ValueError, match=received) as error:
            distiller.fit(data, verbose=0)
        assert "with the loss 'kd', 'standardized_kd' or 'dist'" in str(
            error.value
        )

    @pytest.mark.parametrize("form", ["array", "batches", "cached"])
    def test_a_teacher_alone_teaches(self, form):
        images = examples(BATCH)[0]
        cached = {
            "images": images,
            "teacher_logits": np.zeros((BATCH, CLASSES)),
        }
        data = {"array": images, "batches": _Batches(images), "cached": cached}
        teacher = None if form == "cached" else make_teacher()
        distiller = _without_labels(teacher=teacher)
        history = distiller.fit(data[form], verbose=0).history
        assert history.keys() == {"loss", "kd_loss"}
        assert history["loss"][0] == pytest.approx(history["kd_loss"][0] / 2)

    def test_evaluation_and_validation_say_the_same(self):
        images, labels = examples(BATCH)
        distiller = _without_labels(loss=LabelCrossEntropy())
        with pytest.raises(ValueError, match="Without labels"):
            distiller.evaluate(images, verbose=0)
        with pytest.raises(ValueError, match="Without labels"):
            distiller.fit(
                images, labels, validation_data=(images, None), verbose=0
            )

    def test_neither_teacher_nor_loss_is_nothing_to_learn_from(self):
        with pytest.raises(ValueError, match="nothing to learn from"):
            _without_labels(teacher=None).fit(*examples(BATCH), verbose=0)

    @pytest.mark.parametrize("cached", [True, False])
    def test_a_label_weight_of_one_leaves_nothing_to_learn(self, cached):
        distiller = _without_labels()
        distiller.label_weight = 1.0
        images = examples(BATCH)[0]
        logits = np.zeros((BATCH, CLASSES))
        batch = {"images": images, "teacher_logits": logits}
        data = batch if cached else images
        for call in (distiller.fit, distiller.train_on_batch):
            with pytest.raises(ValueError, match="Received: label_weight=1"):
                call(data)

    @pytest.mark.parametrize("featured", [True, False])
    def test_validation_has_the_loss_of_training(self, featured):
        """No step moves a weight, and no layer is another in training."""
        student, teacher = make_student(norm=False), make_teacher(norm=False)
        ours, theirs = (m.layers[1].name for m in (student, teacher))
        pair = FeaturePair(student_layer=ours, teacher_layer=theirs)
        distiller = Distiller(
            student,
            teacher,
            features=[pair] if featured else [],
            track_agreement=True,
        )
        distiller.compile(keras.optimizers.SGD(0.0))
        images = examples(BATCH)[0]
        logs = fit(distiller, images, epochs=1, validation_data=(images,))
        terms = {"loss", "kd_loss", "teacher_agreement"}
        terms |= {f"{ours}_loss"} if featured else set()
        assert logs.keys() == terms | {f"val_{name}" for name in terms}
        for name in terms:
            expected = pytest.approx(logs[name][0], rel=1e-5)
            assert logs[f"val_{name}"][0] == expected
        found = distiller.evaluate(images, verbose=0, return_dict=True)
        assert found["loss"] == pytest.approx(logs["loss"][0], rel=1e-5)

    def test_validation_by_nothing_is_refused_before_a_step(self):
        images = examples(BATCH)[0]
        logits = np.zeros((BATCH, CLASSES))
        batch = {"images": images, "teacher_logits": logits}
        distiller = _without_labels(teacher=None)
        before = distiller.student.get_weights()
        with pytest.raises(ValueError, match="nothing to measure"):
            distiller.fit(batch, validation_data=(images,), verbose=0)
        assert_weights(distiller.student.get_weights(), before, 0.0)
        with pytest.raises(ValueError, match="nothing to measure"):
            distiller.evaluate(*examples(BATCH), verbose=0)
        found = distiller.evaluate(batch, verbose=0, return_dict=True)
        assert found.keys() == {"loss", "kd_loss"}

    @pytest.mark.parametrize(
        ("labels", "received"),
        [
            ([0, 1], "Received: a list"),
            (np.array(["cat", "dog"]), "Received: an array of <U3"),
            (np.array([None, None]), "Received: an array of object"),
        ],
        ids=["list", "texts", "objects"],
    )
    def test_labels_that_are_no_numbers_are_refused(self, labels, received):
        distiller = _without_labels(loss=LabelCrossEntropy())
        with pytest.raises(ValueError, match=received):
            distiller.fit(examples(2)[0], labels, verbose=0)


def _without_labels(*, teacher="one", kind="kd", **compiled_with):
    if teacher == "one":
        teacher = make_teacher()
    elif teacher == "sure":
        teacher = TeacherEnsemble([make_teacher()], weights="confidence")
    distiller = Distiller(student=make_student(), teacher=teacher, loss=kind)
    distiller.compile("sgd", **compiled_with)
    return distiller
