"""Where Keras computes: subclasses with a step of their own, frozen layers."""

import keras
import numpy as np
import pytest

from gnsmall_keras.distill.distiller import Distiller
from gnsmall_keras.distill.losses import LabelCrossEntropy
from gnsmall_keras.models.ghostnet import ghostnetv3_small
from gnsmall_keras.native import choice, match, network
from gnsmall_keras.training.optimizers.muon import CoupledSGD

SIDE, IMAGES, CLASSES = 16, 12, 4
ON_JAX = keras.config.backend() == "jax"
pytestmark = [pytest.mark.backend, *([pytest.mark.slow] if ON_JAX else [])]


@pytest.fixture(autouse=True)
def _no_default(monkeypatch):
    monkeypatch.delenv("GNSMALL_KERNELS", raising=False)


def _network():
    keras.utils.set_random_seed(0)
    return ghostnetv3_small(
        0.25, classes=CLASSES, input_shape=(SIDE, SIDE, 3), head_units=16
    )


def _batch():
    generator = np.random.default_rng(7)
    images = generator.normal(size=(IMAGES, SIDE, SIDE, 3)).astype("float32")
    return images, generator.integers(0, CLASSES, IMAGES)


@pytest.mark.skipif(
    keras.config.backend() != "torch", reason="a traced step stays as it was"
)
@pytest.mark.parametrize("within_fit", [True, False])
def test_a_layer_that_is_frozen_later_stays(within_fit):
    distiller = Distiller(student=_network())
    distiller.compile(CoupledSGD(0.1), loss=LabelCrossEntropy())
    stem = distiller.student.get_layer("stem")
    kept = []

    def freeze(batch=None, logs=None):
        stem.trainable = False
        kept.extend(distiller.student.get_weights())

    if within_fit:
        callback = keras.callbacks.LambdaCallback(on_train_batch_end=freeze)
        freezing = {"callbacks": [callback], "batch_size": IMAGES // 2}
        distiller.fit(*_batch(), verbose=0, **freezing)
    else:
        distiller.train_on_batch(*_batch())
        assert distiller._frozen.native
        freeze()
        distiller.train_on_batch(*_batch())
    assert not distiller._frozen.native
    stems = {id(weight) for weight in stem.weights}
    for variable, before, after in zip(
        distiller.student.weights,
        kept[: len(distiller.student.weights)],
        distiller.student.get_weights(),
        strict=True,
    ):
        if variable.name == "kernel":
            assert np.array_equal(before, after) == (id(variable) in stems)


@pytest.mark.skipif(
    keras.config.backend() != "torch", reason="hooks are PyTorch's"
)
@pytest.mark.parametrize(
    "register", ["register_hook", "register_post_accumulate_grad_hook"]
)
def test_hooks_of_gradients_are_called(register):
    """And native steps leave no gradient of an earlier step."""
    distiller = Distiller(student=_network())
    distiller.compile(CoupledSGD(0.1), loss=LabelCrossEntropy())
    weight = distiller.student.get_layer("stem").kernel.value
    seen = []
    hook = getattr(weight, register)(lambda gradient: seen.append(1))
    assert distiller.chosen_kernels == "keras"
    distiller.train_on_batch(*_batch())
    assert seen
    assert weight.grad is not None
    hook.remove()
    assert distiller.chosen_kernels == "native"
    distiller.train_on_batch(*_batch())
    assert weight.grad is None
    getattr(weight, register)(lambda gradient: seen.append(1))
    distiller.train_on_batch(*_batch())  # as a callback of a fit may do
    assert len(seen) == 2
    with pytest.raises(ValueError, match="calls a hook"):
        _ = Distiller(
            student=distiller.student, kernels="native"
        ).chosen_kernels


@pytest.mark.skipif(not ON_JAX, reason="test_seam has it of the others")
@pytest.mark.parametrize("training", [False, True])
def test_a_call_outside_of_a_step_is_keras_s(training):
    """Native kernels have no gradient to the images."""
    import jax

    distiller = Distiller(student=_network(), kernels="native")
    assert distiller.chosen_kernels == "native"
    states = [
        [variable.value for variable in variables]
        for variables in (
            distiller.trainable_variables,
            distiller.non_trainable_variables,
        )
    ]

    def logits(images):
        return distiller.stateless_call(*states, images, training=training)[0]

    assert "callback" not in str(jax.make_jaxpr(logits)(_batch()[0]))


class _WithCall(Distiller):
    def call(self, inputs, training=None):
        return 2.0 * super().call(inputs, training)


class _WithLoss(Distiller):
    def compute_loss(self, *args, **kwargs):
        self.add_loss(keras.ops.sum(self.student.trainable_weights[0] ** 2))
        return super().compute_loss(*args, **kwargs)


class _WithWeight(Distiller):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.scale = self.add_weight(name="scale", shape=())


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (_WithCall, "its own call"),
        (_WithLoss, "its own compute_loss"),
        (_WithWeight, "its own trainable weights"),
        (type("Named", (Distiller,), {}), ""),
    ],
)
def test_subclasses_with_a_step_of_their_own_are_keras_s(kind, reason):
    """Native kernels would leave these parts out without a word."""
    distiller = kind(student=_network(), kernels="native")
    if reason:
        with pytest.raises(ValueError, match=reason):
            _ = distiller.chosen_kernels
    else:
        assert distiller.chosen_kernels == "native"


@pytest.mark.skipif(ON_JAX, reason="Keras's anyway")
@pytest.mark.parametrize(
    ("module", "name"), [(choice, "library"), (network, "Engine")], ids=str
)
@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("No usable temporary directory"),
        RuntimeError("Could not determine\nhome directory"),
        ValueError("The native kernels do not fit this network"),
        MemoryError(),
    ],
    ids=str,
)
def test_whatever_stands_in_the_way_is_one_line(
    module, name, error, monkeypatch, capsys
):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(module, name, fail)
    monkeypatch.setattr(
        choice, "_why_unavailable", choice._why_unavailable.__wrapped__
    )
    # Its engine may live in other tests.
    monkeypatch.setattr(network, "_engines", {})
    choice._say_once.cache_clear()
    student = _network()
    assert Distiller(student=student).chosen_kernels == "keras"
    said = capsys.readouterr().err
    told = " ".join(str(error).split()) or type(error).__name__
    assert told in said
    assert said.count("\n") == 1
    assert choice.network_for_inference(student) is None
    with pytest.raises(ValueError, match="is not possible") as caught:
        _ = Distiller(student=student, kernels="native").chosen_kernels
    assert told in str(caught.value)


def test_nothing_is_said_of_a_model_that_is_no_ghostnet(capsys):
    inputs, shared = keras.Input((4,)), keras.layers.Dense(4)
    model = keras.Model(inputs, shared(shared(inputs)))
    choice._say_once.cache_clear()
    assert Distiller(student=model).chosen_kernels == "keras"
    assert not capsys.readouterr().err
    with pytest.raises(match.Mismatch, match="is no GhostNet"):
        match.match(model)
