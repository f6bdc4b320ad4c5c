"""The Distiller under whatever Keras offers: data, modes, devices, precision.

Each result is compared with plain Keras training of the same student, whose
labels carry the teacher's logits and whose loss is written down anew here.

Run as a script this file trains on two devices, which must be set up before a
framework starts: `python test_environments.py RESULT.npz`.
"""

import contextlib
import functools
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops
from support import run

from gnsmall_keras.distill.distiller import Distiller
from gnsmall_keras.distill.losses import LabelCrossEntropy
from gnsmall_keras.distill.teachers import FrozenTeacher

pytestmark = pytest.mark.backend

BACKEND = keras.config.backend()
CLASSES = 4
COUNT = 20  # with batches of 8 the last has 4
BATCH = 8
RATE = 0.1
TEMPERATURE = 2.0
LABEL_WEIGHT = 0.3
TERMS = ("loss", "kd_loss", "label_loss")


def _network(
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


def _student(**options):
    return _network(8, 1, **options)


def _teacher(seed=0, **options):
    return _network(16, seed, **options)


@functools.cache
def _data():
    generator = np.random.default_rng(7)
    images = generator.normal(size=(24, 8, 8, 3)).astype("float32")
    return images, generator.integers(0, CLASSES, 24).astype("int32")


def _examples(count=COUNT):
    return tuple(part[:count] for part in _data())


@functools.cache
def _taught(seed=0):
    """The teacher's logits for all images, from plain Keras."""
    return np.asarray(_teacher(seed).predict(_data()[0], verbose=0))


def _compiled(
    teacher, student=None, *, label_weight=LABEL_WEIGHT, optimizer=None, **modes
):
    distiller = Distiller(
        student=student or _student(),
        teacher=teacher,
        temperature=TEMPERATURE,
        label_weight=label_weight,
    )
    modes.setdefault("loss", LabelCrossEntropy())
    distiller.compile(optimizer or keras.optimizers.SGD(RATE), **modes)
    return distiller


def _fit(distiller, x=None, y=None, **options):
    """Trains for two epochs in the given order; returns the history."""
    if x is None:
        x, y = _examples()
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


def _plain(
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
    student = student or _student()
    # Keras logs metrics by the name of the function.
    student.compile(
        optimizer or keras.optimizers.SGD(RATE),
        loss=_total(label_weight),
        metrics=[
            keras.metrics.MeanMetricWrapper(_kd_loss, name="kd_loss"),
            keras.metrics.MeanMetricWrapper(_label_loss, name="label_loss"),
        ],
    )
    images, labels = _examples(count)
    taught = _taught() if taught is None else taught
    targets = np.concatenate([labels[:, None], taught[:count]], axis=1)
    images, targets = images[start:], targets[start:].astype("float32")
    history = _fit(student, images, targets, epochs=epochs, **options)
    return history, student.get_weights()


@functools.cache
def _reference(**options):
    return _plain(**options)


def _assert_weights(found, expected, tolerance=1e-5):
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


def _distance(weights, others):
    return max(
        np.abs(a - b).max() for a, b in zip(weights, others, strict=True)
    )


def _assert_is_distillation(
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
    _assert_sums(history)
    _assert_weights(
        distiller.student.get_weights(), expected_weights, tolerance
    )
    _assert_untouched(distiller.teacher.models[0])


def _assert_sums(history, label_weight=LABEL_WEIGHT, rest=0.0):
    kd, label = (np.array(history[name]) for name in TERMS[1:])
    total = label_weight * label + (1 - label_weight) * kd + rest
    np.testing.assert_allclose(history["loss"], total, rtol=1e-5)


@functools.cache
def _fresh(seed, **options):
    return _teacher(seed, **options).get_weights()


def _assert_untouched(teacher, seed=0, **options):
    _assert_weights(teacher.get_weights(), _fresh(seed, **options), 0.0)
    assert all(layer.trainable for layer in teacher.layers)


def test_reference_tells_distillation_from_plain_training():
    """The other tests would notice a teacher that has no effect."""
    _, distilled = _reference()
    history, labels_only = _reference(label_weight=1.0)
    assert _distance(distilled, labels_only) > 0.01
    np.testing.assert_allclose(history["loss"], history["label_loss"])
    _assert_sums(_reference()[0])


# Devices. Both distributions split the batch of 8 into two parts.

# Of TensorFlow each replica has its own batch statistics, unless it is told to
# synchronise them; JAX computes those of the whole batch.
DEVICE_CASES = {
    "no norm": {"norm": False},
    "norm": {"synchronized": BACKEND == "tensorflow"},
}


def _train_on_two_devices(result):
    """What the script does, for each case: one epoch of 3 steps, twice."""
    scope = _two_devices()
    arrays = {}
    for case, options in DEVICE_CASES.items():
        with scope():
            teacher = _teacher()
            distiller = _compiled(teacher, _student(**options))
        history = _fit(distiller, *_examples(24), epochs=1)
        arrays |= {f"{case}/{name}": history[name] for name in TERMS}
        for index, weight in enumerate(distiller.student.get_weights()):
            arrays[f"{case}/weight{index}"] = weight
        _assert_untouched(teacher)
        distiller.label_weight.assign(1.0)
        history = _fit(distiller, *_examples(24), epochs=1)
        arrays[f"{case}/labels_only"] = [history[name][0] for name in TERMS]
    np.savez(result, **arrays)


def _two_devices():
    """Sets two devices up; returns what makes the scope of a model."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        part = tf.config.LogicalDeviceConfiguration()
        tf.config.set_logical_device_configuration(cpu, [part, part])
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        assert strategy.num_replicas_in_sync == 2
        return strategy.scope
    distribution = keras.distribution.DataParallel()
    assert distribution.device_mesh.devices.size == 2
    keras.distribution.set_distribution(distribution)
    return contextlib.nullcontext


@pytest.fixture(scope="module")
def on_two_devices(tmp_path_factory):
    if BACKEND not in ("tensorflow", "jax"):
        pytest.skip("Keras distributes on TensorFlow and JAX")
    result = tmp_path_factory.mktemp("devices") / "result.npz"
    flag = " --xla_force_host_platform_device_count=2"
    environment = {
        **os.environ,
        "KERAS_BACKEND": BACKEND,
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + flag,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run(
        [sys.executable, __file__, str(result)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    with np.load(result) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("case", DEVICE_CASES)
def test_two_devices_train_as_one(case, on_two_devices):
    found = on_two_devices
    student = _student(norm=case == "norm")
    history, weights = _plain(student, count=24, epochs=1)
    for name in TERMS:  # not scaled by the number of replicas
        np.testing.assert_allclose(
            found[f"{case}/{name}"], history[name], rtol=1e-5
        )
    _assert_weights(
        [found[f"{case}/weight{index}"] for index in range(len(weights))],
        weights,
    )
    loss, kd, label = found[f"{case}/labels_only"]
    assert loss == pytest.approx(label, rel=1e-6)
    assert abs(kd - label) > 0.01


# Precision.

HALF = ("mixed_bfloat16", "mixed_float16")
# Half the distance of neighbours near 1: what one rounding may change.
ROUNDING = {"mixed_bfloat16": 2.0**-8, "mixed_float16": 2.0**-11}


@pytest.mark.parametrize("dtype", HALF)
def test_student_in_mixed_precision(dtype):
    distiller = _compiled(_teacher(), _student(dtype=dtype))
    history = _fit(distiller)
    scaled = isinstance(
        distiller.optimizer, keras.optimizers.LossScaleOptimizer
    )
    assert scaled == (dtype == "mixed_float16")
    assert all(
        weight.dtype == "float32" for weight in distiller.student.weights
    )
    reference = _plain(_student(dtype=dtype))
    # Right to one rounding of the way that the weights have gone: processors
    # round gradients differently.
    gone = _distance(reference[1], _student(dtype=dtype).get_weights())
    _assert_is_distillation(
        distiller,
        history,
        reference,
        ROUNDING[dtype] * gone,
        of_terms=2 * ROUNDING[dtype],
    )
    assert _distance(reference[1], _reference()[1]) > 0


def test_loss_scale_does_not_show():
    """Gradients are multiplied by 2^15 for float16, then divided again."""
    reference = _reference()
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(RATE))
    distiller = _compiled(_teacher(), optimizer=optimizer)
    history = _fit(distiller)
    _assert_is_distillation(distiller, history, reference)


def _kd_by_hand(teacher, student):
    """Hinton's loss of each image in float64."""
    p, q = (
        x - np.logaddexp.reduce(x, axis=-1, keepdims=True)
        for x in (
            np.asarray(logits, "float64") / TEMPERATURE
            for logits in (teacher, student)
        )
    )
    return TEMPERATURE**2 * np.sum(np.exp(p) * (p - q), axis=-1)


def _label_by_hand(labels, student):
    student = np.asarray(student, "float64")
    log_q = student - np.logaddexp.reduce(student, axis=-1, keepdims=True)
    return -log_q[np.arange(len(labels)), labels]


def _first_logits(student, count=BATCH):
    """What an untrained student says in its first step."""
    images, _ = _examples(count)
    return run(student, images, training=True).astype("float64")


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("dtype", HALF)
def test_teacher_is_not_rounded_for_a_student_in_half_precision(dtype, cached):
    """Near 6000 bfloat16 steps by 32 and float16 by 4, float32 by 0.0005."""
    offset = 6000.0
    images, labels = _examples(BATCH)
    exact = _taught()[:BATCH] + np.float32(offset)
    distiller = _compiled(_teacher(offset=offset), _student(dtype=dtype))
    expected = _kd_by_hand(exact, _first_logits(distiller.student)).mean()
    rounded = exact.astype("float16")
    of_rounded = _kd_by_hand(rounded, _first_logits(distiller.student)).mean()
    assert abs(of_rounded - expected) > 0.2 * expected
    if cached:
        images = {"images": images, "teacher_logits": exact}
    logs = distiller.train_on_batch(images, labels, return_dict=True)
    assert logs["kd_loss"] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_teacher_in_half_precision(dtype):
    """It computes in its own precision; the student stays in float32."""
    teacher = _teacher(dtype=dtype)
    taught = np.asarray(teacher.predict(_data()[0], verbose=0), "float32")
    assert 0 < np.abs(taught - _taught()).max() < 0.1
    distiller = _compiled(teacher)
    history = _fit(distiller)
    expected, weights = _plain(taught=taught)
    # Compiled with the student, a half-precision sum may round otherwise.
    for name in TERMS:
        np.testing.assert_allclose(history[name], expected[name], rtol=1e-2)
    _assert_weights(distiller.student.get_weights(), weights, 1e-3)
    _assert_sums(history)
    _assert_untouched(teacher, dtype=dtype)


# Variables that a callback moves.


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
    distiller = _compiled(_teacher())
    history = _fit(distiller, callbacks=[callback(label_weight=1.0)])
    first, second = (
        {name: history[name][epoch] for name in TERMS} for epoch in (0, 1)
    )
    _assert_sums(first)
    _assert_sums(second, label_weight=1.0)
    assert abs(second["kd_loss"] - second["label_loss"]) > 0.01
    _assert_weights(distiller.student.get_weights(), _then_labels_only())
    _assert_untouched(distiller.teacher.models[0])


@functools.cache
def _then_labels_only():
    """Weights after an epoch of both terms and one of labels."""
    student = _student()
    _plain(student, epochs=1)
    return _plain(student, label_weight=1.0, epochs=1)[1]


def test_callback_moves_the_temperature():
    """With no learning the terms differ by the temperature alone."""
    distiller = _compiled(_teacher(), optimizer=keras.optimizers.SGD(0.0))
    taught, labels = _taught()[:BATCH], _examples(BATCH)[1]
    own = _first_logits(distiller.student)
    history = _fit(
        distiller, *_examples(BATCH), callbacks=[_Assign(temperature=5.0)]
    )
    found = history["kd_loss"]
    at_two = _kd_by_hand(taught, own).mean()
    at_five = (2.5**2 * _kd_by_hand(taught / 2.5, own / 2.5)).mean()
    assert abs(at_two - at_five) > 0.05 * at_two
    np.testing.assert_allclose(found, [at_two, at_five], rtol=1e-4)
    label = _label_by_hand(labels, own).mean()
    np.testing.assert_allclose(history["label_loss"], label, rtol=1e-4)
    assert float(distiller.temperature) == 5.0


def test_callback_moves_a_variable_in_the_middle_of_an_epoch():
    """On JAX the callback has to ask for the state first."""

    class Switch(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 1:
                if BACKEND == "jax":
                    self.model.jax_state_sync()
                self.model.label_weight.assign(1.0)

    distiller = _compiled(_teacher())
    _fit(distiller, epochs=1, callbacks=[Switch()])
    assert float(distiller.label_weight) == 1.0
    student = _student()
    _plain(student, count=BATCH, epochs=1)
    _, weights = _plain(student, start=BATCH, label_weight=1.0, epochs=1)
    _assert_weights(distiller.student.get_weights(), weights)


# Errors.


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
    distiller = _compiled(_teacher())
    with pytest.raises(_Stop):
        _fit(distiller, callbacks=[_RaiseAfter(1)])
    _, weights = _plain(count=2 * BATCH, epochs=1)
    _assert_weights(distiller.student.get_weights(), weights)
    _assert_untouched(distiller.teacher.models[0])


def test_callback_that_raises_in_a_later_fit():
    distiller = _compiled(_teacher())
    _fit(distiller, epochs=1)
    with pytest.raises(_Stop):
        _fit(distiller, callbacks=[_RaiseAfter(1, epoch=1)])
    student = _student()
    _plain(student)
    _, weights = _plain(student, count=2 * BATCH, epochs=1)
    _assert_weights(distiller.student.get_weights(), weights)
    _assert_untouched(distiller.teacher.models[0])


def _raising_teacher():
    """A teacher whose images cannot be prepared, once it is in use."""

    def preprocess(images):
        if flags["raises"]:
            raise _Stop
        return images

    flags = {"raises": False}
    return FrozenTeacher(_teacher(), preprocess=preprocess), flags


def test_error_while_tracing_leaves_the_weights():
    teacher, flags = _raising_teacher()
    distiller = _compiled(teacher)
    flags["raises"] = True
    with pytest.raises(_Stop):
        _fit(distiller)
    student = distiller.student
    _assert_weights(student.get_weights(), _student().get_weights(), 0.0)
    _assert_untouched(teacher.model)
    assert float(distiller.temperature) == TEMPERATURE
    flags["raises"] = False
    _assert_is_distillation(distiller, _fit(distiller), _reference())


@pytest.mark.parametrize("steps", [0, 2])
def test_bad_batch_leaves_the_weights(steps):
    """The batch after `steps` good ones has five channels."""
    images, labels = _examples(BATCH)

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            channels = 5 if index == steps else 3
            return np.resize(images, (BATCH, 8, 8, channels)), labels

    distiller = _compiled(_teacher())
    with pytest.raises(Exception, match="(?i)channel|depth|shape"):
        _fit(distiller, Batches())
    student = distiller.student
    moved = _distance(student.get_weights(), _student().get_weights())
    assert (moved > 0.01) == (steps > 0)
    _assert_untouched(distiller.teacher.models[0])
    assert np.isfinite(_fit(distiller)["loss"]).all()


def test_error_in_evaluate_leaves_the_weights():
    """After a fit Keras has built all and fails in the step itself."""
    distiller = _compiled(_teacher())
    history = _fit(distiller)
    images, labels = _examples()
    bad = np.resize(images, (COUNT, 8, 8, 5))
    with pytest.raises(Exception, match="(?i)channel|depth|shape"):
        distiller.evaluate(bad, labels, verbose=0)
    _assert_is_distillation(distiller, history, _reference())


# Another teacher.


def test_another_teacher_after_a_fit():
    distiller = _compiled(_teacher(), optimizer=keras.optimizers.SGD(0.0))
    student, images, labels = distiller.student, *_examples(BATCH)
    own = _first_logits(student)
    for seed in (0, 5):
        teacher = _teacher(seed)
        distiller.set_teacher(teacher)
        found = _fit(distiller, images, labels, epochs=1)["kd_loss"]
        expected = _kd_by_hand(_taught(seed)[:BATCH], own).mean()
        np.testing.assert_allclose(found, [expected], rtol=1e-4)
        _assert_untouched(teacher, seed)
    taught = _taught(0)[:BATCH], _taught(5)[:BATCH]
    one, other = (_kd_by_hand(logits, own).mean() for logits in taught)
    assert abs(one - other) > 0.1 * one


# Data.


class _Batches(keras.utils.PyDataset):
    def __init__(self, *arrays):
        super().__init__()
        self._arrays = arrays

    def __len__(self):
        return -(-len(self._arrays[0]) // BATCH)

    def __getitem__(self, index):
        part = slice(index * BATCH, (index + 1) * BATCH)
        return tuple(array[part] for array in self._arrays)


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
    distiller = _compiled(_teacher())
    history = _fit(distiller, _source(name, *_examples()))
    _assert_is_distillation(distiller, history, _reference())


@pytest.mark.parametrize("form", ["(n, 1)", "one-hot"])
def test_forms_of_labels(form):
    images, labels = _examples()
    loss = LabelCrossEntropy()
    if form == "(n, 1)":
        labels = labels[:, None]
    else:
        labels = np.eye(CLASSES, dtype="float32")[labels]
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    distiller = _compiled(_teacher(), loss=loss)
    history = _fit(distiller, images, labels)
    _assert_is_distillation(distiller, history, _reference())


def _weights_of_samples():
    """Of 0 to 2, none in the short last batch but one."""
    weights = np.random.default_rng(3).uniform(0, 2, COUNT)
    weights[[1, 4, 5, 17, 18, 19]] = 0
    return weights.astype("float32")


@functools.cache
def _weighted_reference():
    return _plain(sample_weight=_weights_of_samples())


@pytest.mark.parametrize("source", ["arrays", "tf.data", "torch"])
def test_sample_weights(source):
    weights = _weights_of_samples()
    distiller = _compiled(_teacher())
    if source == "arrays":
        history = _fit(distiller, sample_weight=weights)
    else:
        history = _fit(distiller, _source(source, *_examples(), weights))
    expected, student = _weighted_reference()
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-4)
    _assert_sums(history)
    _assert_weights(distiller.student.get_weights(), student)
    _assert_untouched(distiller.teacher.models[0])


def test_class_weights():
    class_weight = {0: 0.0, 1: 0.5, 2: 1.0, 3: 2.0}
    images, labels = _examples()
    weights = np.array([class_weight[int(label)] for label in labels])
    distiller = _compiled(_teacher())
    history = _fit(distiller, images, labels, class_weight=class_weight)
    expected, student = _plain(sample_weight=weights.astype("float32"))
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-4)
    _assert_sums(history)
    _assert_weights(distiller.student.get_weights(), student)


def test_samples_of_weight_zero_count_for_nothing():
    """By hand: a sum over weighted images, divided by all eight of them."""
    images, labels = _examples(BATCH)
    weights = _weights_of_samples()[:BATCH]
    distiller = _compiled(_teacher())
    own = _first_logits(distiller.student)
    kept = weights > 0
    kd = _kd_by_hand(_taught()[:BATCH][kept], own[kept])
    label = _label_by_hand(labels[kept], own[kept])
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
    student = _student(regularizer=keras.regularizers.L2(0.1))
    distiller = _compiled(_teacher(), student)
    own = _first_logits(student)
    extra = 0.1 * np.sum(np.square(student.get_weights()[0]))
    history = _fit(distiller)
    reference = _plain(_student(regularizer=keras.regularizers.L2(0.1)))
    for name in TERMS:
        np.testing.assert_allclose(history[name], reference[0][name], rtol=1e-4)
    _assert_weights(student.get_weights(), reference[1])
    student.set_weights(_student().get_weights())
    logs = distiller.train_on_batch(*_examples(BATCH), return_dict=True)
    kd = _kd_by_hand(_taught()[:BATCH], own).mean()
    label = _label_by_hand(_examples(BATCH)[1], own).mean()
    assert extra > 0.1
    assert logs["kd_loss"] == pytest.approx(kd, rel=1e-4)
    total = LABEL_WEIGHT * label + (1 - LABEL_WEIGHT) * kd + extra
    assert logs["loss"] == pytest.approx(total, rel=1e-4)


# Modes of execution and of the optimizer.


def test_several_steps_per_execution():
    """Three steps are an epoch; two leave one over."""
    if BACKEND == "torch":
        distiller = _compiled(_teacher(), steps_per_execution=2)
        with pytest.raises(ValueError, match="must be 1 with the PyTorch"):
            _fit(distiller)
        return
    distiller = _compiled(_teacher(), steps_per_execution=2)
    history = _fit(distiller)
    _assert_is_distillation(distiller, history, _reference())


# Not Adam: the bias before BatchNorm has a gradient of rounding errors, which
# it would scale up to whole steps.
OPTIMIZERS = {
    "accumulated": lambda: keras.optimizers.SGD(
        RATE, gradient_accumulation_steps=2
    ),
    "averaged": lambda: keras.optimizers.SGD(
        RATE, use_ema=True, ema_momentum=0.5
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name):
    distiller = _compiled(_teacher(), optimizer=OPTIMIZERS[name]())
    history = _fit(distiller)
    reference = _plain(optimizer=OPTIMIZERS[name]())
    _assert_is_distillation(distiller, history, reference)
    assert _distance(reference[1], _reference()[1]) > 1e-3


# Beside the default, which on TensorFlow depends on the device.
MODES = {
    "graph": {"jit_compile": False},
    "xla": {"jit_compile": True},
    "eager": {"run_eagerly": True},
}


@pytest.mark.parametrize("mode", MODES)
def test_modes_of_execution(mode):
    if BACKEND != "tensorflow":
        pytest.skip("TensorFlow's; JAX always compiles here, torch never")
    distiller = _compiled(_teacher(), **MODES[mode])
    history = _fit(distiller)
    _assert_is_distillation(distiller, history, _reference())


if __name__ == "__main__":
    _train_on_two_devices(sys.argv[1])
