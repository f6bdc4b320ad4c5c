"""Training and answering by native kernels, against Keras's own.

Networks are of width 0.25 and see a dozen images: both sides compute in
float32, and what differs is the order of sums.
"""

from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from support import Unseen, run, slow_on_tensorflow

from gnsmall_keras.distill.distiller import Distiller
from gnsmall_keras.distill.features import FeaturePair
from gnsmall_keras.distill.losses import LabelCrossEntropy
from gnsmall_keras.distill.teachers import FrozenTeacher
from gnsmall_keras.models import flat
from gnsmall_keras.models.ghostnet import ghostnetv3_small
from gnsmall_keras.native import choice
from gnsmall_keras.native.engine import Engine
from gnsmall_keras.native.match import Mismatch, match
from gnsmall_keras.recipes import RECIPES
from gnsmall_keras.training.evaluation import predict_logits
from gnsmall_keras.training.fit import compile_model
from gnsmall_keras.training.optimizers.muon import CoupledSGD, PointwiseMuon

# On JAX "auto" stays with Keras, which is compiled for minutes.
ON_JAX = keras.config.backend() == "jax"
pytestmark = [pytest.mark.backend, *([pytest.mark.slow] if ON_JAX else [])]


# Keras's side takes TensorFlow 10 s and more: PyTorch runs these always.
ON_TENSORFLOW = keras.config.backend() == "tensorflow"
LONG = [pytest.mark.slow] if ON_TENSORFLOW else []

SIDE, IMAGES, CLASSES = 16, 12, 4
# Of a gradient: both kernels are some 1e-5 of it from float64's.
TOLERANCE = 2e-3


@pytest.fixture(autouse=True)
def _no_default(monkeypatch):
    monkeypatch.delenv("GNSMALL_KERNELS", raising=False)


def _network(seed=0):
    keras.utils.set_random_seed(seed)
    return ghostnetv3_small(
        0.25, classes=CLASSES, input_shape=(SIDE, SIDE, 3), head_units=16
    )


def _batch(dtype="float32"):
    generator = np.random.default_rng(7)
    images = generator.normal(size=(IMAGES, SIDE, SIDE, 3)).astype(dtype)
    return images, generator.integers(0, CLASSES, IMAGES)


def _compiled(kernels, *, recipe="quick", student=None, **options):
    distiller = Distiller(
        student=student or _network(), kernels=kernels, **options
    )
    compile_model(distiller, RECIPES[recipe], steps=20)
    if kernels == "keras" and keras.config.backend() == "tensorflow":
        distiller.run_eagerly = True  # a step or two take less than a trace
    return distiller


def _trained(kernels, batch, steps=2, **options):
    """Weights before and after some steps, and the last logs."""
    distiller = _compiled(kernels, **options)
    assert distiller.chosen_kernels == kernels
    before = distiller.student.get_weights()
    for _ in range(steps):
        logs = distiller.train_on_batch(*batch, return_dict=True)
    return before, distiller.student.get_weights(), logs, distiller


def _relative_error(before, ours, theirs):
    """Of how far all weights have moved, their errors' part."""
    moved, errors = 0.0, 0.0
    for first, our, their in zip(before, ours, theirs, strict=True):
        moved += np.sum((their - first) ** 2)
        errors += np.sum((our - their) ** 2)
    assert moved > 0
    return (errors / moved) ** 0.5


def _assert_same(batch, steps=2, **options):
    """Asserts that both kernels train alike; returns both Distillers."""
    before, ours, logs, native = _trained("native", batch, steps, **options)
    _, theirs, expected, own = _trained("keras", batch, steps, **options)
    for name, value in expected.items():
        assert logs[name] == pytest.approx(value, rel=2e-4), name
    assert _relative_error(before, ours, theirs) < TOLERANCE
    for variable, our, their in zip(
        native.student.variables, ours, theirs, strict=True
    ):
        if variable.name.endswith(("moving_mean", "moving_variance")):
            np.testing.assert_allclose(our, their, rtol=1e-3, atol=1e-4)
    return native, own


@pytest.mark.contract
def test_a_step_is_the_engine_s():
    """By hand: logits, their gradient, and plain SGD."""
    images, labels = _batch()
    network = _network()
    plan, parameters, statistics = match(network)
    vector, moving = map(_vector, (parameters, statistics))
    engine = Engine(plan, threads=1)
    logits, found, context = engine.forward(vector, images)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    of_logits = (shares - np.eye(CLASSES)[labels]) / IMAGES
    gradient = engine.backward(context, of_logits.astype("float32"))

    distiller = Distiller(student=network, kernels="native")
    distiller.compile(CoupledSGD(0.1, momentum=0.0), loss=LabelCrossEntropy())
    loss = distiller.train_on_batch(images, labels)
    expected = -np.log(shares[np.arange(IMAGES), labels]).mean()
    assert float(np.ravel(loss)[0]) == pytest.approx(expected, rel=1e-5)
    tolerance = {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(
        _vector(parameters), vector - 0.1 * gradient, **tolerance
    )
    np.testing.assert_allclose(
        _vector(statistics), 0.9 * moving + 0.1 * found, **tolerance
    )


def _vector(variables):
    return np.concatenate(
        [keras.ops.convert_to_numpy(v.value).ravel() for v in variables]
    )


@pytest.mark.parametrize("recipe", [pytest.param("quick", marks=LONG), "best"])
def test_steps_of_sgd_and_muon_are_keras_s(recipe):
    steps = 1 if ON_TENSORFLOW else 2  # the second one's velocity
    native, own = _assert_same(_batch(), recipe=recipe, steps=steps)
    assert int(native.optimizer.iterations.value) == steps
    for ours, theirs in zip(
        native.optimizer.variables, own.optimizer.variables, strict=True
    ):
        found, expected = map(
            keras.ops.convert_to_numpy, (ours.value, theirs.value)
        )
        scale = np.abs(expected).max() + 1e-3
        assert np.abs(found - expected).max() < 0.02 * scale, ours.path


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("live", marks=LONG),
        pytest.param("cached", marks=LONG),
        pytest.param("smoothed", marks=LONG),
    ],
)
def test_distillation_is_keras_s(kind):
    images, labels = _batch()
    if kind == "live":
        _assert_same((images, labels), teacher=_network(5), steps=1)
        return
    logits = np.random.default_rng(1).normal(size=(IMAGES, CLASSES))
    cached = {"images": images, "teacher_logits": logits.astype("float32")}
    if kind == "cached":
        options = {"expects_teacher": True, "label_weight": 0.3}
        _assert_same((cached, labels), steps=1, **options)
        return
    shares = np.eye(CLASSES, dtype="float32")[labels] * 0.8 + 0.05
    _assert_same((images, shares), steps=1, recipe="best")


on_torch = pytest.mark.skipif(
    keras.config.backend() != "torch", reason="PyTorch is enough"
)


@on_torch
def test_muon_leaves_no_thread_of_numpy_spinning(monkeypatch):
    """NumPy's products would: see docs/adr/0023-native-kernels.md."""
    monkeypatch.delattr(PointwiseMuon, "_newton_schulz")
    _trained("native", _batch(), recipe="best")


@on_torch
def test_weights_laid_out_otherwise_are_moved_too():
    batch, moved = _batch(), []
    for turns in (False, True):
        distiller = _compiled("native")
        for weight in distiller.student.weights if turns else []:
            if len(weight.shape) > 1 and min(weight.shape[-2:]) > 1:
                weight.value.data = weight.value.data.mT.contiguous().mT
                assert not weight.value.is_contiguous()
        distiller.train_on_batch(*batch)
        moved.append(distiller.student.get_weights())
    for found, expected in zip(*moved, strict=True):
        np.testing.assert_array_equal(found, expected)


@slow_on_tensorflow
def test_other_optimisers_get_gradients():
    images, labels = _batch()
    weights = []
    for kernels in ("native", "keras"):
        distiller = Distiller(student=_network(), kernels=kernels)
        distiller.compile(
            keras.optimizers.SGD(0.05, momentum=0.9, clipnorm=1.0),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        if kernels == "keras" and keras.config.backend() == "tensorflow":
            distiller.run_eagerly = True
        distiller.train_on_batch(images, labels)
        weights.append(distiller.student.get_weights())
    first = _network().get_weights()
    assert _relative_error(first, *weights) < TOLERANCE


@slow_on_tensorflow
def test_answers_are_keras_s():
    images, labels = _batch()
    network = _network()
    # With statistics of these images logits are of usual size.
    plan, parameters, statistics = match(network)
    engine = Engine(plan, threads=1)
    _, found, _ = engine.forward(_vector(parameters), images)
    for variable, value in zip(
        statistics,
        flat.split(found, flat.shapes_of(statistics)),
        strict=True,
    ):
        variable.assign(value)
    expected = network.predict_on_batch(images)
    # Each is within 1e-5 of float64 (test_engine.py), forty layers deep.
    atol = 3e-5 * np.abs(expected).max()
    native = _compiled("native", student=network)
    np.testing.assert_allclose(
        native.predict(images, verbose=0), expected, atol=atol
    )
    own = _compiled("keras", student=network)
    losses = [
        distiller.evaluate(images, labels, verbose=0, return_dict=True)["loss"]
        for distiller in (native, own)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    pixels = np.random.default_rng(0).integers(0, 256, images.shape, "uint8")
    found = predict_logits(network, pixels)
    with choice.using("keras"):
        np.testing.assert_allclose(
            found, predict_logits(network, pixels), atol=atol
        )


def test_a_call_of_ones_own_is_keras_s():
    """Whatever has run before: it has a gradient, and can be exported."""
    if ON_JAX:
        pytest.skip("test_fallback has it")
    distiller = _compiled("native")
    images, _ = _batch()
    distiller.predict(images, verbose=0)
    assert distiller._frozen.inference
    if ON_TENSORFLOW:
        import tensorflow as tf

        @tf.function
        def slope(images):
            with tf.GradientTape() as tape:
                tape.watch(images)
                total = tf.reduce_sum(distiller(images, training=False))
            return tape.gradient(total, images)

        graph = slope.get_concrete_function(tf.constant(images)).graph
        assert "PyFunc" not in {each.type for each in graph.get_operations()}
        assert graph.structured_outputs is not None
        return
    import torch

    values = torch.tensor(images, requires_grad=True)
    with (
        distiller._frozen.call.having(answers=True),  # in this thread
        ThreadPoolExecutor(1) as other,
    ):
        other.submit(lambda: distiller(values).sum().backward()).result()
    assert values.grad.abs().max() > 0


@slow_on_tensorflow
def test_a_training_that_goes_on_ends_the_same():
    """Weights and the optimiser's variables, put into a new Distiller."""
    whole = _compiled("native", recipe="best")
    part = _compiled("native", recipe="best")
    batch = _batch()
    for _ in range(4):
        whole.train_on_batch(*batch)
    for _ in range(2):
        part.train_on_batch(*batch)
    rest = _compiled("native", recipe="best", student=_network(3))
    for found, given in zip(
        (*rest.variables, *rest.optimizer.variables),
        (*part.variables, *part.optimizer.variables),
        strict=True,
    ):
        found.assign(keras.ops.convert_to_numpy(given.value))
    for _ in range(2):
        rest.train_on_batch(*batch)
    for ours, theirs in zip(
        whole.student.get_weights(), rest.student.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_fit_with_validation():
    """Its steps are those of its batches, one by one."""
    images, labels = _batch()
    fitted, stepped = _compiled("native"), _compiled("native")
    stepped.run_eagerly = ON_TENSORFLOW  # six steps take less than a trace
    history = fitted.fit(
        images,
        labels,
        batch_size=5,  # and a rest of 2
        epochs=2,
        shuffle=False,
        validation_data=(images, labels),
        verbose=0,
    ).history
    for _ in range(2):
        for first in range(0, IMAGES, 5):
            batch = slice(first, first + 5)
            stepped.train_on_batch(images[batch], labels[batch])
    for ours, theirs in zip(
        fitted.student.get_weights(), stepped.student.get_weights(), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    logits = run(stepped.student, images, training=False)
    accuracy = (logits.argmax(axis=1) == labels).mean()
    assert len(history["loss"]) == 2
    assert history["val_accuracy"][-1] == pytest.approx(accuracy)


@slow_on_tensorflow
def test_odd_arrays():
    images, labels = _batch()
    _, expected, _, _ = _trained("native", (images, labels), 1)
    turned = np.asfortranarray(images.astype("float64"))
    _, found, _, _ = _trained("native", (turned, labels), 1)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@slow_on_tensorflow
def test_images_that_are_no_numbers():
    images, labels = _batch()
    images[3, 2, 1, 0] = np.nan
    network = _network()
    logits = _compiled("native", student=network).predict(images, verbose=0)
    broken = np.isnan(logits).all(axis=1)
    assert broken.tolist() == [index == 3 for index in range(IMAGES)]
    *_, logs, _ = _trained("native", (images, labels), 1)
    assert np.isnan(logs["loss"])  # which stops a training


@pytest.mark.parametrize("kernels", ["native", "keras"])
def test_labels_out_of_range(kernels):
    distiller = _compiled(kernels)
    for wrong in (-1, CLASSES):
        images, labels = _batch()
        labels[2] = wrong
        rule = f"from 0 to {CLASSES - 1}.*Received: {wrong}"
        with pytest.raises(ValueError, match=rule):
            distiller.fit(images, labels, verbose=0)
        with pytest.raises(ValueError, match=rule):
            distiller.train_on_batch(images, labels)
    if kernels == "native":  # by batch: data nobody has seen as a whole
        with pytest.raises(ValueError, match=rule):
            distiller.fit(Unseen(images, labels), verbose=0)


def _freeze(network):
    network.get_layer("stem").trainable = False


def _soften(network):
    network.get_layer("blocks_3_0_se_relu").negative_slope = 0.1


def _regularise(network):
    network.get_layer("head_conv").kernel.regularizer = keras.regularizers.L2()


def _replace_call(network):
    layer = network.get_layer("head_relu")
    layer.call = keras.activations.tanh


@slow_on_tensorflow
@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (_freeze, "'stem' is frozen"),
        (_soften, "negative_slope=0.1"),
        (_regularise, "regulariser"),
        (_replace_call, "`call` of its own"),
    ],
)
def test_edited_layers_are_keras_s(edit, reason, capsys):
    network = _network()
    assert match(network)
    edit(network)
    with pytest.raises(Mismatch, match=reason):
        match(network)
    choice._say_once.cache_clear()
    distiller = _compiled("auto", student=network)
    assert distiller.chosen_kernels == "keras"
    said = capsys.readouterr().err
    assert "Keras computes this network" in said
    assert said.count("\n") == 1
    with pytest.raises(ValueError, match="kernels='native' is not possible"):
        _ = _compiled("native", student=network).chosen_kernels


def test_other_forms_are_keras_s():
    network = _network()
    inputs = keras.Input((SIDE, SIDE, 3))
    stem = network.get_layer("stem").output
    without_blocks = keras.layers.Conv2D(10, 1, name="classifier")(stem)
    for model in (
        keras.Model(network.input, network.get_layer("head_relu").output),
        keras.Model(network.input, keras.layers.Softmax()(network.output)),
        keras.Model(inputs, network(inputs)),
        keras.Model(network.input, without_blocks),
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]),
    ):
        with pytest.raises(Mismatch):
            match(model)
    assert match(keras.models.clone_model(network))


@slow_on_tensorflow
def test_features_are_keras_s():
    pair = FeaturePair(student_layer="head_relu", teacher_layer="head_relu")
    options = {"teacher": _network(5), "features": [pair]}
    distiller = _compiled("auto", **options)
    assert distiller.chosen_kernels == "keras"
    with pytest.raises(ValueError, match="`features`"):
        _ = _compiled("native", **options).chosen_kernels


def test_half_precision_is_keras_s():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        with pytest.raises(Mismatch, match="mixed_bfloat16"):
            match(_network())
    finally:
        keras.config.set_dtype_policy("float32")


def test_names_of_kernels(monkeypatch):
    with pytest.raises(ValueError, match="`kernels` must be one of"):
        Distiller(student=_network(), kernels="fast")
    monkeypatch.setenv("GNSMALL_KERNELS", "keras")
    assert choice.check_kernels("auto") == "keras"
    assert choice.check_kernels("native") == "native"
    with choice.using("native"):
        assert choice.check_kernels("auto") == "native"
    monkeypatch.setenv("GNSMALL_KERNELS", "fast")
    with pytest.raises(ValueError, match="GNSMALL_KERNELS"):
        choice.check_kernels("auto")


@slow_on_tensorflow
def test_a_teacher_answers_natively():
    teacher = FrozenTeacher(_network())
    images, _ = _batch()
    found = keras.ops.convert_to_numpy(teacher.logits(images))
    expected = teacher.model.predict_on_batch(images)
    atol = 3e-5 * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, atol=atol)
    if keras.config.backend() != "jax":  # where it has to be asked for
        assert teacher._native["auto"] is not None


def test_no_library_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(choice, "_why_unavailable", lambda: "No compiler.")
    choice._say_once.cache_clear()
    assert _compiled("auto").chosen_kernels == "keras"
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(ValueError, match="No compiler"):
        _ = _compiled("native").chosen_kernels
