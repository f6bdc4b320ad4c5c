"""Variables that a callback moves, and steps that fail."""

import functools
import threading
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from plain_distillation import (
    BACKEND,
    BATCH,
    COUNT,
    LABEL_WEIGHT,
    TEMPERATURE,
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

from gnsmall_keras.distill.teachers import FrozenTeacher, TeacherEnsemble

pytestmark = pytest.mark.backend


class _Assign(keras.callbacks.Callback):
    """Assigns to the Distiller's variables before an epoch, 1 the second."""

    def __init__(self, epoch=1, **values):
        super().__init__()
        self._epoch = epoch
        self._values = values

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self._epoch:
            for name, value in self._values.items():
                getattr(self.model, name).assign(value)


class _AssignAtEnd(_Assign):
    """After an epoch instead: by then Keras has put JAX's state back."""

    def on_epoch_begin(self, epoch, logs=None):
        pass

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_begin(epoch + 1)


@pytest.mark.parametrize("callback", [_Assign, _AssignAtEnd])
def test_callback_moves_the_label_weight(callback):
    distiller = compiled(make_teacher())
    history = fit(distiller, callbacks=[callback(label_weight=1.0)])
    first, second = (
        {name: history[name][epoch] for name in TERMS} for epoch in (0, 1)
    )
    assert_sums(first)
    assert_sums(second, label_weight=1.0)
    assert abs(second["kd_loss"] - second["label_loss"]) > 0.01
    assert_weights(distiller.student.get_weights(), _then_labels_only())
    assert_untouched(distiller.teacher.models[0])


@functools.cache
def _then_labels_only():
    """Weights after an epoch of both terms and one of labels."""
    student = make_student()
    train_plainly(student, epochs=1)
    return train_plainly(student, label_weight=1.0, epochs=1)[1]


def test_callback_moves_the_temperature():
    """With no learning the terms differ by the temperature alone."""
    distiller = compiled(make_teacher(), optimizer=keras.optimizers.SGD(0.0))
    taught, labels = teacher_logits()[:BATCH], examples(BATCH)[1]
    own = first_logits(distiller.student)
    history = fit(
        distiller, *examples(BATCH), callbacks=[_Assign(temperature=5.0)]
    )
    found = history["kd_loss"]
    at_two = kd_by_hand(taught, own).mean()
    at_five = (2.5**2 * kd_by_hand(taught / 2.5, own / 2.5)).mean()
    assert abs(at_two - at_five) > 0.05 * at_two
    np.testing.assert_allclose(found, [at_two, at_five], rtol=1e-4)
    label = label_by_hand(labels, own).mean()
    np.testing.assert_allclose(history["label_loss"], label, rtol=1e-4)
    assert float(distiller.temperature) == 5.0


def test_callback_moves_a_variable_in_the_middle_of_an_epoch():
    """On JAX too, where Keras keeps the state elsewhere within `fit`."""
    read = []
    distiller = compiled(make_teacher())  # Keras's `model` brings it itself

    class Switch(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 1:
                config = distiller.get_config()
                read.extend((float(distiller.temperature), config))
                distiller.label_weight.assign(1.0)

        def on_train_batch_end(self, batch, logs=None):
            read.append(float(distiller.label_weight))

    fit(distiller, epochs=1, callbacks=[Switch()])
    temperature, config = read.pop(1), read.pop(1)
    assert temperature == config["temperature"] == TEMPERATURE
    assert read[0] == pytest.approx(LABEL_WEIGHT)
    assert set(read[1:]) == {1.0}
    assert float(distiller.label_weight) == 1.0
    student = make_student()
    train_plainly(student, count=BATCH, epochs=1)
    _, weights = train_plainly(student, start=BATCH, label_weight=1.0, epochs=1)
    assert_weights(distiller.student.get_weights(), weights)


class _Plainly(keras.callbacks.Callback):
    """Sets both by `=`, before or after the first batch."""

    def __init__(self, when):
        super().__init__()
        self._when = when

    def _set(self, when, batch):
        if when == self._when and batch == (when == "begin"):
            self.model.label_weight = 1.0
            self.model.temperature = np.float32(5.0)

    def on_train_batch_begin(self, batch, logs=None):
        self._set("begin", batch)

    def on_train_batch_end(self, batch, logs=None):
        self._set("end", batch)


@pytest.mark.parametrize("when", ["begin", "end"])
def test_callback_sets_a_variable_by_plain_assignment(when):
    distiller = compiled(make_teacher())
    variables = distiller.label_weight, distiller.temperature
    fit(distiller, epochs=1, callbacks=[_Plainly(when)])
    assert (distiller.label_weight, distiller.temperature) == variables
    assert [float(variable) for variable in variables] == [1.0, 5.0]
    student = make_student()
    train_plainly(student, count=BATCH, epochs=1)
    _, weights = train_plainly(student, start=BATCH, label_weight=1.0, epochs=1)
    assert_weights(distiller.student.get_weights(), weights)


def test_values_out_of_range_are_not_assigned():
    distiller = compiled(make_teacher())
    for name, value in (
        ("label_weight", 7.0),
        ("label_weight", np.float32(-1)),
        ("label_weight", None),
        ("temperature", 0.0),
        ("temperature", distiller.label_weight - LABEL_WEIGHT),
    ):
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            setattr(distiller, name, value)
    assert float(distiller.label_weight) == pytest.approx(LABEL_WEIGHT)
    assert float(distiller.temperature) == TEMPERATURE


class _Stop(Exception):
    pass


class _RaiseAfter(keras.callbacks.Callback):
    def __init__(self, batch, epoch=0):
        super().__init__()
        self._when = epoch, batch
        self._epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self._epoch, batch) == self._when:
            raise _Stop


def test_callback_that_raises_leaves_the_steps_done():
    distiller = compiled(make_teacher())
    with pytest.raises(_Stop):
        fit(distiller, callbacks=[_RaiseAfter(1)])
    _, weights = train_plainly(count=2 * BATCH, epochs=1)
    assert_weights(distiller.student.get_weights(), weights)
    assert_untouched(distiller.teacher.models[0])


def test_callback_that_raises_in_a_later_fit():
    distiller = compiled(make_teacher())
    fit(distiller, epochs=1)
    with pytest.raises(_Stop):
        fit(distiller, callbacks=[_RaiseAfter(1, epoch=1)])
    student = make_student()
    train_plainly(student)
    _, weights = train_plainly(student, count=2 * BATCH, epochs=1)
    assert_weights(distiller.student.get_weights(), weights)
    assert_untouched(distiller.teacher.models[0])


def _raising_teacher():
    """A teacher whose images cannot be prepared, once it is in use."""

    def preprocess(images):
        if flags["raises"]:
            raise _Stop
        return images

    flags = {"raises": False}
    return FrozenTeacher(make_teacher(), preprocess=preprocess), flags


def test_error_while_tracing_leaves_the_weights():
    teacher, flags = _raising_teacher()
    distiller = compiled(teacher)
    flags["raises"] = True
    with pytest.raises(_Stop):
        fit(distiller)
    student = distiller.student
    assert_weights(student.get_weights(), make_student().get_weights(), 0.0)
    assert_untouched(teacher.model)
    assert float(distiller.temperature) == TEMPERATURE
    flags["raises"] = False
    assert_is_distillation(distiller, fit(distiller), plain_reference())


@pytest.mark.parametrize("steps", [0, 2])
def test_bad_batch_leaves_the_weights(steps):
    """The batch after `steps` good ones has five channels."""
    images, labels = examples(BATCH)

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            channels = 5 if index == steps else 3
            return np.resize(images, (BATCH, 8, 8, channels)), labels

    distiller = compiled(make_teacher())
    with pytest.raises(Exception, match="(?i)channel|depth|shape"):
        fit(distiller, Batches())
    student = distiller.student
    moved = distance(student.get_weights(), make_student().get_weights())
    assert (moved > 0.01) == (steps > 0)
    assert_untouched(distiller.teacher.models[0])
    assert np.isfinite(fit(distiller)["loss"]).all()


def test_error_in_evaluate_leaves_the_weights():
    """After a fit Keras has built all and fails in the step itself."""
    distiller = compiled(make_teacher())
    history = fit(distiller)
    images, labels = examples()
    bad = np.resize(images, (COUNT, 8, 8, 5))
    with pytest.raises(Exception, match="(?i)channel|depth|shape"):
        distiller.evaluate(bad, labels, verbose=0)
    assert_is_distillation(distiller, history, plain_reference())


def test_another_teacher_after_a_fit():
    distiller = compiled(make_teacher(), optimizer=keras.optimizers.SGD(0.0))
    student, images, labels = distiller.student, *examples(BATCH)
    own = first_logits(student)
    for seed in (0, 5):
        teacher = make_teacher(seed)
        distiller.set_teacher(teacher)
        found = fit(distiller, images, labels, epochs=1)["kd_loss"]
        expected = kd_by_hand(teacher_logits(seed)[:BATCH], own).mean()
        np.testing.assert_allclose(found, [expected], rtol=1e-4)
        assert_untouched(teacher, seed)
    taught = teacher_logits(0)[:BATCH], teacher_logits(5)[:BATCH]
    one, other = (kd_by_hand(logits, own).mean() for logits in taught)
    assert abs(one - other) > 0.1 * one


class _SetTeacher(keras.callbacks.Callback):
    """Changes the teacher at one of Keras's hooks."""

    def __init__(self, hook, teacher):
        super().__init__()
        setattr(self, hook, lambda *_, logs=None: self._set())
        self._teacher = teacher

    def _set(self):
        self.model.set_teacher(self._teacher)


@pytest.mark.parametrize(
    ("hook", "seed"),
    [("on_epoch_begin", 5), ("on_train_batch_end", None), ("on_test_begin", 5)],
)
def test_a_teacher_stays_during_a_fit(hook, seed):
    """Its step would be gone, and on JAX its weights another's."""
    distiller = compiled(make_teacher())
    other = seed and make_teacher(seed)
    with pytest.raises(ValueError, match="Received: set_teacher during fit"):
        fit(
            distiller,
            callbacks=[_SetTeacher(hook, other)],
            validation_data=examples(BATCH),
        )
    assert_untouched(distiller.teacher.models[0])
    distiller.set_teacher(other)
    assert np.isfinite(fit(distiller, epochs=1)["loss"]).all()


def test_a_teacher_stays_during_evaluation():
    distiller = compiled(make_teacher())
    with pytest.raises(ValueError, match="fit, evaluate or predict"):
        distiller.predict(
            examples(BATCH)[0],
            callbacks=[_SetTeacher("on_predict_begin", None)],
            verbose=0,
        )


@pytest.mark.skipif(BACKEND == "jax", reason="Keras keeps weights elsewhere")
def test_threads_that_predict_leave_nothing_behind():
    """The first to begin is the first to end."""
    distiller = compiled(make_teacher())
    images, _ = examples(BATCH)
    begun, ended, jobs = threading.Event(), threading.Event(), []

    def predict(hook):
        callback = keras.callbacks.LambdaCallback(on_predict_begin=hook)
        return distiller.predict(images, callbacks=[callback], verbose=0)

    with ThreadPoolExecutor(1) as other:

        def first(logs):
            second = lambda logs: (begun.set(), ended.wait(60))  # noqa: E731
            jobs.append(other.submit(predict, second))
            assert begun.wait(60)

        predict(first)
        with pytest.raises(ValueError, match="fit, evaluate or predict"):
            distiller.set_teacher(None)
        ended.set()
        jobs[0].result()
    distiller.set_teacher(None)


def test_without_its_teacher_training_is_plain():
    distiller = compiled(make_teacher())
    fit(distiller, epochs=1)
    distiller.set_teacher(None)
    assert not distiller.expects_teacher
    history = fit(distiller, epochs=1)
    assert history.keys() == {"loss"}
    student = make_student()
    train_plainly(student, epochs=1)
    _, weights = train_plainly(student, label_weight=1.0, epochs=1)
    assert_weights(distiller.student.get_weights(), weights)


def test_ensembles_are_of_single_teachers():
    inner = TeacherEnsemble([make_teacher(), make_teacher(5)])
    with pytest.raises(ValueError, match="Received: a TeacherEnsemble"):
        TeacherEnsemble([inner, make_teacher()])
    with pytest.raises(ValueError, match="a list of models.*: Functional"):
        TeacherEnsemble(make_teacher())
