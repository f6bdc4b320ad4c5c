"""Names that Keras does not document must do what this package needs."""

import ast
import random
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from support import ROOT

from gnsmall_keras.models import keras_private
from gnsmall_keras.models.deploy import to_deploy

BACKEND = keras.config.backend()
PACKAGE = ROOT / "gnsmall_keras"
MODULES = sorted(PACKAGE.rglob("*.py"))
# Python documents these, of tuples with names and of `os`.
DOCUMENTED = {"_asdict", "_exit", "_fields", "_replace"}
# Where another module may read a private name of an object.
ALLOWED = {
    ("devices/checks.py", "_get_ops_details"),  # LiteRT has no other way
    ("native/on_torch.py", "_backward_hooks"),  # nor has PyTorch
}

pytestmark = pytest.mark.backend


def _model(**options):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2, name="last")(inputs))
    model.compile(**options)
    return model


@pytest.mark.parametrize("nested", [False, True])
def test_weights_that_are_set_are_computed_with(nested):
    """Keras's own `set_weights` leaves a Normalization's mean as it was."""

    def model():
        inputs = keras.Input((3,))
        x = keras.layers.Normalization(name="normalize")(inputs)
        inner = keras.Model(inputs, x, name="inner")
        if not nested:
            return inner
        outer = keras.Input((3,))
        return keras.Model(outer, inner(outer))

    source, found = model(), model()
    layer = source.get_layer("inner") if nested else source
    values = np.random.default_rng(0).normal(5.0, 3.0, (50, 3))
    layer.get_layer("normalize").adapt(values)
    keras_private.set_weights(found, source.get_weights())
    np.testing.assert_allclose(found.predict(values), source.predict(values))
    assert abs(np.mean(source.predict(values))) < 1e-3
    np.testing.assert_allclose(
        to_deploy(source).predict(values), source.predict(values)
    )


def test_a_symbolic_tensor_names_its_operation():
    model = _model()
    last = keras_private.operation_of(model.outputs[0])
    assert last is model.get_layer("last")


def test_a_symbolic_tensor_names_those_before_it():
    """Also of a layer that is called twice."""
    model = _model()
    before = keras_private.tensors_before(model.outputs[0])
    assert [id(x) for x in before] == [id(model.inputs[0])]
    other = keras.Input((3,))
    outputs = model.get_layer("last")(other)
    assert keras_private.tensors_before(outputs)[0] is other
    assert keras_private.tensors_before(other) == []


def test_a_layer_says_whether_it_is_called_once():
    last = _model().get_layer("last")
    assert keras_private.is_called_once(last)
    last(keras.Input((3,)))
    assert not keras_private.is_called_once(last)


def test_a_model_names_its_inputs_as_its_data_are():
    one, other = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    added = keras.layers.Add()([one, other])
    for inputs in ({"a": one, "b": other}, [one, other]):
        model = keras.Model(inputs, added)
        found = keras_private.inputs_of(model)
        assert [x.name for x in keras.tree.flatten(found)] == ["a", "b"]
        keras.tree.assert_same_structure(found, inputs)
    sequential = keras.Sequential([one, keras.layers.Dense(2)])
    assert keras_private.inputs_of(sequential).shape == (None, 3)
    assert keras_private.inputs_of(_model()).shape == (None, 3)
    assert keras_private.inputs_of(keras.Sequential()) is None


def test_a_layer_names_its_parts_at_any_depth():
    model = _model()
    outer = keras.Sequential([keras.Input((3,)), model])
    parts = keras_private.parts_of(outer)
    assert model in parts
    assert model.get_layer("last") in parts
    assert outer not in parts
    assert keras_private.parts_of(model.get_layer("last")) == []
    outputs = keras.ops.relu(keras.Input((3,)))
    assert keras_private.parts_of(keras_private.operation_of(outputs)) == []


def test_a_layer_names_what_reads_it():
    model = _model()
    last = model.get_layer("last")
    assert keras_private.readers_of(model.layers[0]) == [last]
    assert keras_private.readers_of(last) == []


def test_a_functional_model_names_its_calls():
    model = _model()
    named = {node.operation.name for node in keras_private.nodes_of(model)}
    assert named == {layer.name for layer in model.layers}
    assert keras_private.nodes_of(keras.Sequential()) == []


def test_the_compiled_loss_is_a_function_or_none():
    assert keras_private.compiled_loss(_model(loss=None)) is None
    model = _model(loss="mse")
    labels, outputs = np.zeros((4, 2), "float32"), np.ones((4, 2), "float32")
    weights = np.array([2.0, 0.0, 0.0, 0.0], "float32")
    loss = keras_private.compiled_loss(model)
    assert float(loss(labels, outputs, None)) == pytest.approx(1.0)
    assert float(loss(labels, outputs, weights)) == pytest.approx(0.5)


def test_a_regulariser_on_one_device_counts_once():
    loss = keras.ops.convert_to_tensor(3.0)
    assert float(keras_private.scale_loss(_model(), loss)) == 3.0


@pytest.mark.skipif(BACKEND != "jax", reason="JAX's state")
def test_a_model_on_jax_has_its_weights_before_and_after_fit():
    model = _model(loss="mse", optimizer="sgd")
    seen = []
    callback = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(
            keras_private.is_synced(model)
        )
    )
    data = np.zeros((4, 3), "float32"), np.zeros((4, 2), "float32")
    assert keras_private.is_synced(model)
    model.fit(*data, verbose=0, callbacks=[callback])
    assert keras_private.is_synced(model)
    model._jax_state_synced = False
    keras_private.set_synced(model)
    assert keras_private.is_synced(model)
    assert len(seen) == 1


@pytest.mark.skipif(BACKEND != "jax", reason="JAX's state")
def test_a_model_on_jax_takes_what_it_was_brought_when_asked():
    model = _model(loss="mse", optimizer="sgd")
    before = [v.numpy() for v in model.trainable_variables]
    brought = {"trainable_variables": [value + 1 for value in before]}
    keras_private.bring_state(model, brought)
    assert not keras_private.is_synced(model)
    model.jax_state_sync()
    for variable, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value + 1)
    keras_private.bring_state(model, brought)
    keras_private.drop_state(model)
    assert keras_private.is_synced(model)


def test_the_schedule_is_the_one_that_was_given():
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 10)
    optimizer = keras.optimizers.SGD(schedule)
    assert keras_private.schedule_of(optimizer) is schedule


def test_a_seed_is_keras_s():
    drawn = []
    for module in (keras_private, keras.utils):
        module.set_random_seed(7)
        normal = keras.ops.convert_to_numpy(keras.random.normal((3,)))
        drawn.append((random.random(), np.random.rand(), *normal))  # noqa: NPY002
    assert drawn[0] == drawn[1]


@pytest.mark.skipif(BACKEND == "tensorflow", reason="of the others")
@(pytest.mark.contract if BACKEND == "torch" else pytest.mark.slow)
def test_training_and_files_do_without_tensorflow(tmp_path):
    """On JAX, where a step compiles for long, the seed alone."""
    code = (
        "import sys, numpy as np, gnsmall_keras as gns\n"
        "from gnsmall_keras.models.keras_private import set_random_seed\n"
        "set_random_seed(7)\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    if BACKEND == "torch":
        code += (
            "model = gns.ghostnetv3_small(0.25, input_shape=(16, 16, 3))\n"
            "distiller = gns.Distiller(student=model)\n"
            "distiller.compile('sgd', loss=gns.LabelCrossEntropy())\n"
            "images = np.ones((2, 16, 16, 3), 'float32')\n"
            "distiller.train_on_batch(images, np.zeros(2, int))\n"
            "gns.save_model(model, sys.argv[1])\n"
            "gns.to_deploy(gns.load_model(sys.argv[1]))\n"
            "assert 'tensorflow' not in sys.modules"
        )
    path = str(tmp_path / "model.keras")
    subprocess.run([sys.executable, "-c", code, path], check=True)


class Recorded(keras_private.Optimizer):
    """Adds the gradient; notes how it was called."""

    calls = 0

    def update_all(self, gradients, variables, learning_rate):
        self.calls += 1
        super().update_all(gradients, variables, learning_rate)

    def update_step(self, gradient, variable, learning_rate):
        self.assign_add(variable, gradient)


def test_an_optimiser_moves_all_variables_in_one_call():
    first, second = (keras.Variable([1.0, 2.0], name=n) for n in "ab")
    optimizer = Recorded(0.1, use_ema=True, ema_momentum=0.5)
    optimizer.exclude_from_weight_decay([second])
    optimizer.build([first, second])
    gradients = [keras.ops.ones(2), keras.ops.zeros(2)]
    optimizer.apply(gradients)
    assert optimizer.calls == 1
    values = keras.ops.convert_to_numpy(first.value)
    np.testing.assert_allclose(values, [2.0, 3.0])
    assert [optimizer.index_of(each) for each in (first, second)] == [0, 1]
    assert optimizer.decays(first)
    assert not optimizer.decays(second)
    assert list(optimizer.built_variables) == [first, second]
    values = keras.ops.convert_to_numpy(optimizer.averages[0].value)
    np.testing.assert_allclose(values, [2.0, 3.0])  # the first step's
    assert Recorded(0.1).averages == []


def test_a_scope_without_state_is_known_as_one():
    assert not keras_private.is_stateless()
    with keras.StatelessScope():
        assert keras_private.is_stateless()
    assert not keras_private.is_stateless()


@pytest.mark.any_backend
def test_no_other_module_reads_private_names_of_objects():
    found = {
        (path.relative_to(PACKAGE).as_posix(), name)
        for path in MODULES
        if path.name != "keras_private.py"
        for name in _read_of_others(path) - DOCUMENTED
    }
    assert found <= ALLOWED


def _read_of_others(path):
    """Private attributes of anything but `self` and `cls`."""
    return {
        node.attr
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute)
        and re.match(r"_[^_]", node.attr)
        and getattr(node.value, "id", "") not in ("self", "cls")
    }


@pytest.mark.any_backend
def test_no_subclass_uses_these_names_either():
    used = {path: _private_names(path) for path in MODULES}
    (own,) = (path for path in MODULES if path.name == "keras_private.py")
    names = used.pop(own)
    assert "_compile_loss" in names
    assert [path.name for path in used if names & used[path]] == []


def _private_names(path):
    """Attributes and methods whose names begin with one underscore."""
    names = {
        getattr(node, "attr", None) or getattr(node, "name", None) or ""
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute | ast.FunctionDef)
    }
    return {name for name in names if re.match(r"_[^_]", name)}
