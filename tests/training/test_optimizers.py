"""The optimiser and the schedule against the original's own numbers."""

import keras
import numpy as np
import pytest
from support import TESTS

from gnsmall_keras.models import kernels
from gnsmall_keras.models.ghostnet import ghostnetv3_small
from gnsmall_keras.training.optimizers.muon import CoupledSGD, PointwiseMuon
from gnsmall_keras.training.optimizers.schedules import (
    WarmupCosine,
    WarmupLinear,
)

pytestmark = pytest.mark.contract


def _pytorch_sgd(weight, gradients, rates, momentum, weight_decay):
    """`torch.optim.SGD(nesterov=True)`, from its documentation."""
    velocity = 0.0
    for gradient, rate in zip(gradients, rates, strict=True):
        gradient = gradient + weight_decay * weight
        velocity = momentum * velocity + gradient
        weight = weight - rate * (gradient + momentum * velocity)
    return weight


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_steps_are_pytorchs(weight_decay):
    generator = np.random.default_rng(0)
    weight = generator.normal(size=5).astype("float32")
    gradients = generator.normal(size=(4, 5)).astype("float32")
    rates = [0.1, 0.2, 0.05, 0.01]
    optimizer = CoupledSGD(0.1, momentum=0.9, weight_decay=weight_decay)
    variable = keras.Variable(weight)
    for gradient, rate in zip(gradients, rates, strict=True):
        optimizer.learning_rate = rate
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
    expected = _pytorch_sgd(weight, gradients, rates, 0.9, weight_decay)
    found = keras.ops.convert_to_numpy(variable.value)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_spared_variables_do_not_decay():
    kernel = keras.Variable(np.ones(2, "float32"), name="kernel")
    gamma = keras.Variable(np.ones(2, "float32"), name="conv_gamma")
    optimizer = CoupledSGD(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["gamma"])
    zero = keras.ops.zeros(2)
    optimizer.apply([zero, zero], [kernel, gamma])
    assert keras.ops.convert_to_numpy(kernel.value)[0] < 1
    assert keras.ops.convert_to_numpy(gamma.value)[0] == 1


def test_muon_makes_singular_values_one():
    """Of 1x1 kernels' steps, for each branch; other steps are SGD's."""
    generator = np.random.default_rng(0)
    shapes = {"kernel": (3, 1, 1, 6, 4), "gamma": (5,)}
    variables = [
        keras.Variable(np.zeros(shape, "float32"), name=name)
        for name, shape in shapes.items()
    ]
    gradients = [
        generator.normal(size=shape).astype("float32")
        for shape in shapes.values()
    ]
    optimizer = PointwiseMuon(0.5, momentum=0.9, muon_scale=0.1)
    optimizer.apply([*map(keras.ops.convert_to_tensor, gradients)], variables)
    kernel, gamma = (keras.ops.convert_to_numpy(v.value) for v in variables)
    # Five iterations bring them into [0.7, 1.2].
    values = np.linalg.svd(kernel[:, 0, 0], compute_uv=False)
    assert np.all(np.abs(values / (0.5 * 0.1 * 6**0.5) - 0.95) < 0.3)
    # Downhill: against the gradient.
    assert np.all((kernel * gradients[0]).sum(axis=(1, 2, 3, 4)) < 0)
    expected = _pytorch_sgd(np.zeros(5), [gradients[1]], [0.5], 0.9, 0.0)
    np.testing.assert_allclose(gamma, expected, rtol=1e-5)


def test_muon_of_all_matrices_at_once_is_that_of_each(monkeypatch):
    """As on JAX with a GPU; of standing, lying and branched kernels."""
    shapes = [(1, 1, 6, 4), (3, 1, 1, 6, 4), (1, 1, 40, 10), (1, 1, 20, 33)]
    generator = np.random.default_rng(0)
    gradients = [generator.normal(size=shape) for shape in (*shapes, (5,))]
    found, calls = {}, []
    make_orthogonal = PointwiseMuon._make_orthogonal

    def count(self, momentum):
        calls[-1] += 1
        return make_orthogonal(self, momentum)

    monkeypatch.setattr(PointwiseMuon, "_make_orthogonal", count)
    for at_once in (False, True):
        monkeypatch.setattr(kernels, "is_jax_on_gpu", lambda a=at_once: a)
        variables = [
            keras.Variable(np.ones(gradient.shape, "float32"), name="kernel")
            for gradient in gradients
        ]
        optimizer = PointwiseMuon(0.5, muon_weight_decay=0.1)
        calls.append(0)
        optimizer.apply(
            [keras.ops.cast(g, "float32") for g in gradients], variables
        )
        found[at_once] = [keras.ops.convert_to_numpy(v) for v in variables]
    assert calls == [4, 2]  # those of up to 16 rows, and the one of 20
    for each, together in zip(found[False], found[True], strict=True):
        assert not np.allclose(each, 1)
        np.testing.assert_allclose(together, each, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("gates", [True, False])
def test_muon_leaves_the_classifier_and_larger_kernels_to_sgd(gates):
    model = ghostnetv3_small(0.25)
    optimizer = PointwiseMuon(0.1, muon_gates=gates)
    optimizer.build(model.trainable_variables)
    chosen = {
        variable.path.split("/")[-2]
        for variable, matrix in zip(
            model.trainable_variables, optimizer._matrices, strict=True
        )
        if matrix
    }
    assert "head_conv" in chosen
    assert "blocks_0_0_ghost1_primary" in chosen
    assert ("blocks_3_0_se_expand" in chosen) is gates
    assert not chosen & {"classifier", "stem", "blocks_0_0_ghost1_cheap"}
    # By its shape, (1, 1, 5, channels), as the published networks had it.
    assert "blocks_2_0_ghost1_gate_row" in chosen
    assert "blocks_2_0_ghost1_gate_column" not in chosen


@pytest.mark.parametrize("kind", [CoupledSGD, PointwiseMuon])
def test_optimizer_comes_back_from_its_config(kind):
    optimizer = kind(WarmupCosine(0.1, 10), weight_decay=0.5)
    config = keras.optimizers.serialize(optimizer)
    twin = keras.optimizers.deserialize(config)
    assert twin.get_config() == optimizer.get_config()


def test_schedule_is_the_originals():
    with np.load(TESTS / "parity/schedule_1000_steps.npz") as fixture:
        expected = fixture["learning_rate"]
    schedule = WarmupCosine(0.01, 1000, warmup_fraction=0.3)
    found = [float(schedule(step)) for step in range(1000)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-9)


def test_triangle_rises_and_falls_linearly():
    schedule = WarmupLinear(2.0, 10, 0.2)
    rates = [float(schedule(step)) for step in range(11)]
    falling = [2.0 * (10 - step) / 9 for step in range(1, 10)]
    np.testing.assert_allclose(rates, [1.0, *falling, 0.0], rtol=1e-5)


def test_schedule_stays_at_its_end():
    schedule = WarmupCosine(0.01, 10)
    assert float(schedule(10)) == pytest.approx(1e-8, abs=1e-9)
    assert float(schedule(99)) == pytest.approx(1e-8, abs=1e-9)


@pytest.mark.parametrize(("steps", "fraction"), [(0, 0.3), (10, 1.0)])
def test_schedule_rules_are_checked(steps, fraction):
    with pytest.raises(ValueError, match="must be"):
        WarmupCosine(0.01, steps, fraction)
