"""The Distiller on two devices against plain training on one."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from plain_distillation import (
    BACKEND,
    TERMS,
    assert_weights,
    make_student,
    train_plainly,
)

# PyTorch, the fastest, does not distribute: TensorFlow always runs these.
pytestmark = (
    pytest.mark.contract if BACKEND == "tensorflow" else pytest.mark.backend
)
SCRIPT = Path(__file__).with_name("two_devices.py")


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
        [sys.executable, SCRIPT, result],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    with np.load(result) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("case", ["no norm", "norm"])
def test_two_devices_train_as_one(case, on_two_devices):
    found = on_two_devices
    student = make_student(norm=case == "norm")
    history, weights = train_plainly(student, count=24, epochs=1)
    for name in TERMS:  # not scaled by the number of replicas
        np.testing.assert_allclose(
            found[f"{case}/{name}"], history[name], rtol=1e-5
        )
    assert_weights(
        [found[f"{case}/weight{index}"] for index in range(len(weights))],
        weights,
    )
    loss, kd, label = found[f"{case}/labels_only"]
    assert loss == pytest.approx(label, rel=1e-6)
    assert abs(kd - label) > 0.01


def test_native_kernels_are_for_one_device(on_two_devices):
    """Also outside of the scope that the network was built in."""
    assert not on_two_devices["alone"]
