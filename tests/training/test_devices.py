"""Several devices that share a step, and devices that are not there."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from support import ROOT, TESTS

from gnsmall_keras import cli
from gnsmall_keras.config import RunConfig
from gnsmall_keras.data.batches import EvaluationBatches
from gnsmall_keras.models import kernels
from gnsmall_keras.training import run as fit
from gnsmall_keras.training.devices import (
    count_threads,
    on_devices,
    steps_at_once,
)

# Logical devices have to be asked for before a backend starts. In double
# precision, because in single one rounding errors grow tenfold in few steps.
SHARED = """
import json, os, sys
sys.path[:0] = [sys.argv[2]]
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
os.environ["JAX_ENABLE_X64"] = "1"
import keras, support
if keras.config.backend() == "tensorflow":
    import tensorflow as tf
    cpu, = tf.config.list_physical_devices("CPU")
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
from gnsmall_keras.config import RunConfig
from gnsmall_keras.models.saving.files import load_model
from gnsmall_keras.training import run as fit, fit as learn

def create(name, **options):
    keras.config.set_dtype_policy("float64")
    return support.tiny_branched_network(name, **options)

keras.config.set_floatx("float64")
learn.create_model = create
for devices in (1, 2):
    config = RunConfig(
        epochs=2,
        batch_size=128 // devices,
        devices=devices,
        ema_momentum=0.9,
    )
    record = fit.train(config, out=sys.argv[1], progress=False)
    weights = load_model(f"{sys.argv[1]}/{record.slug}/model.keras").weights
    print(json.dumps([
        record.history,
        [record.validation_accuracy, record.test_accuracy],
        [weight.numpy().tolist() for weight in weights],
        record.hardware["devices"],
    ]))
"""


@pytest.mark.slow  # half a minute
@pytest.mark.backend
def test_two_devices_train_as_one_with_their_summed_batch(tmp_path):
    """Twenty steps, statistics of the batch and the last one included."""
    if keras.config.backend() == "torch":
        pytest.skip("a training has one device on PyTorch")
    done = subprocess.run(
        [sys.executable, "-c", SHARED, tmp_path, TESTS],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    one, two = map(json.loads, done.stdout.splitlines()[-2:])
    for name, values in one[0].items():
        assert two[0][name] == pytest.approx(values, abs=1e-5), name
    assert two[1] == one[1]
    for ours, theirs in zip(two[2], one[2], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-7)
    assert (one[3], two[3]) == (["cpu:0"], ["cpu:0", "cpu:1"])


@pytest.mark.backend
def test_a_gpu_that_is_not_there_is_asked_for(tmp_path, capsys):
    if gpus():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match="Leave `device` out to train on the"):
        fit.train(RunConfig(), out=tmp_path, device="gpu")
    command = ["train", "--device", "gpu", "--out", str(tmp_path)]
    assert cli.main(command) == 2
    assert "finds no GPU" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.backend
def test_more_devices_than_there_are():
    cure = "one training for each"
    if keras.config.backend() != "torch":
        cure = "must not exceed the devices there are"
    with pytest.raises(ValueError, match=cure), on_devices("cpu", 3):
        pass


def test_kinds_of_devices_have_names():
    with pytest.raises(ValueError, match="must be one of"), on_devices("tpu"):
        pass


@pytest.mark.backend
def test_networks_are_made_where_they_are_asked_for():
    with on_devices("cpu") as names:
        value = keras.ops.zeros(())
    assert names == ["cpu:0"]
    assert "cpu" in str(value.device).lower()


def test_batches_of_several_devices_are_filled_up_without_weight():
    images = np.full((7, 2, 2, 3), 9, "uint8")
    batches = EvaluationBatches(images, np.arange(7), batch_size=5, devices=2)
    assert len(batches) == 2
    pixels, labels, weights = batches[1]
    assert pixels.shape == (4, 2, 2, 3)
    assert not pixels[3].any()
    assert labels.tolist() == [4, 5, 6, 0]
    assert weights.tolist() == [1, 1, 1, 0]


def gpus():
    try:
        with on_devices("gpu"):
            return True
    except ValueError:
        return False


@pytest.mark.backend
def test_float32_is_whole_while_a_training_runs():
    switches = _switches()
    before = [read() for read, _ in switches]
    with on_devices("cpu"):
        assert [read() for read, _ in switches] == [w for _, w in switches]
    assert [read() for read, _ in switches] == before


def _switches():
    """What says whether float32 is whole, and what it is then."""
    backend = keras.config.backend()
    if backend == "jax":
        import jax

        return [(lambda: jax.config.jax_default_matmul_precision, "highest")]
    if backend == "torch":
        import torch

        return [
            (lambda: torch.backends.cudnn.allow_tf32, False),
            (lambda: torch.backends.cuda.matmul.allow_tf32, False),
        ]
    import tensorflow as tf

    return [(tf.config.experimental.tensor_float_32_execution_enabled, False)]


@pytest.mark.backend
def test_what_is_done_on_a_gpu_is_not_done_on_a_cpu_beside_it(monkeypatch):
    assert not kernels.is_jax_on_gpu()
    if keras.config.backend() != "jax":
        return
    import jax

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert kernels.is_jax_on_gpu()
    assert steps_at_once() > 1
    with keras.device("cpu:0"):
        assert not kernels.is_jax_on_gpu()
        assert steps_at_once() == 1
    shared = keras.distribution.DataParallel(devices=["cpu:0"])
    with shared.scope():
        assert not kernels.is_jax_on_gpu()


@pytest.mark.any_backend
def test_threads_are_counted_as_they_were_asked_for(monkeypatch):
    assert count_threads()["backend"] >= 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert count_threads()["native"] == 3
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    monkeypatch.setenv("NPROC", "5")
    assert count_threads() == {"backend": 5, "native": 3}
    monkeypatch.setenv("PJRT_NPROC", "many")
    assert count_threads()["backend"] == 5
    monkeypatch.delenv("NPROC")
    monkeypatch.setattr(
        "os.sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False
    )
    assert count_threads()["backend"] == 4
