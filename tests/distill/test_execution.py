"""Modes of execution and of the optimizer."""

import keras
import pytest
from plain_distillation import (
    BACKEND,
    RATE,
    assert_is_distillation,
    compiled,
    distance,
    examples,
    fit,
    make_teacher,
    plain_reference,
    train_plainly,
)

pytestmark = pytest.mark.backend


def test_several_steps_per_execution():
    """Three steps are an epoch; two leave one over."""
    if BACKEND == "torch":
        distiller = compiled(make_teacher(), steps_per_execution=2)
        with pytest.raises(ValueError, match="must be 1 with the PyTorch"):
            fit(distiller)
        return
    distiller = compiled(make_teacher(), steps_per_execution=2)
    history = fit(distiller)
    assert_is_distillation(distiller, history, plain_reference())


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
    distiller = compiled(make_teacher(), optimizer=OPTIMIZERS[name]())
    history = fit(distiller)
    reference = train_plainly(optimizer=OPTIMIZERS[name]())
    assert_is_distillation(distiller, history, reference)
    assert distance(reference[1], plain_reference()[1]) > 1e-3


# Beside the default, which on TensorFlow depends on the device.
MODES = {
    "graph": {"jit_compile": False},
    "xla": {"jit_compile": True},
    "eager": {"run_eagerly": True},
}


# Of no other backend, so not left to the fastest one.
@(pytest.mark.contract if BACKEND == "tensorflow" else pytest.mark.backend)
@pytest.mark.parametrize("mode", MODES)
def test_modes_of_execution(mode):
    if BACKEND != "tensorflow":
        pytest.skip("TensorFlow's; JAX always compiles here, torch never")
    distiller = compiled(make_teacher(), **MODES[mode])
    history = fit(distiller)
    assert_is_distillation(distiller, history, plain_reference())


@(pytest.mark.contract if BACKEND == "tensorflow" else pytest.mark.backend)
def test_a_replica_without_images_has_no_wrong_labels():
    if BACKEND != "tensorflow":
        pytest.skip("TensorFlow's replicas share the last batch of an epoch")
    distiller = compiled(make_teacher())
    images, labels = examples(4)
    _, checked = distiller._with_checked_labels((images[:0], labels[:0]))
    assert checked.shape[0] == 0
