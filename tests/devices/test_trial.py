"""Damaged .tflite files end a child process, not this one."""

import numpy as np
import pytest
from support import ROOT

from gnsmall_keras.devices import trial
from gnsmall_keras.devices.runtime import TFLiteModel, installed_runtimes

WHOLE = ROOT / "tflite" / "gns-w0.25-h320-cifar10-micro.tflite"
BLACK = np.zeros((1, 32, 32, 3), np.uint8)
RUNTIMES = [
    name
    for name in ("litert", "litert-reference", "tflite-micro")
    if name in installed_runtimes()
]


def _damaged(path, seed):
    """The file with random bytes changed, its identifier kept."""
    generator = np.random.default_rng(seed)
    data = np.frombuffer(WHOLE.read_bytes(), np.uint8).copy()
    places = 8 + generator.integers(len(data) - 8, size=60)
    data[places] = generator.integers(256, size=60)
    path.write_bytes(data.tobytes())
    return path


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("seed", range(4))
def test_damaged_file_runs_or_is_refused_in_one_line(tmp_path, seed, runtime):
    path = _damaged(tmp_path / "damaged.tflite", seed)
    told = f"does not run on {runtime}: "
    try:
        values = TFLiteModel(path, runtime=runtime).predict(BLACK)
    except ValueError as error:
        lines = str(error).splitlines()
    else:
        lines = [told]
        assert values.shape == (1, 10)
    assert len(lines) == 1
    assert told in lines[0]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_file_is_tried_once(runtime, monkeypatch):
    TFLiteModel(WHOLE, runtime=runtime)
    monkeypatch.setattr(trial.subprocess, "run", None)
    assert TFLiteModel(WHOLE, runtime=runtime).classes == 10


def test_crash_is_named(tmp_path, monkeypatch):
    code = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    python = trial.sys.executable
    run = trial.subprocess.run
    monkeypatch.setattr(
        trial.subprocess, "run", lambda _, **k: run([python, "-c", code], **k)
    )
    path = tmp_path / "copy.tflite"
    path.write_bytes(WHOLE.read_bytes())
    with pytest.raises(ValueError, match="ended by SIGSEGV"):
        TFLiteModel(path, runtime=RUNTIMES[0])


def test_endless_trial_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "_SECONDS", 0.01)
    path = tmp_path / "copy.tflite"
    path.write_bytes(WHOLE.read_bytes())
    with pytest.raises(ValueError, match="more than 0.01 s"):
        TFLiteModel(path, runtime=RUNTIMES[0])


def test_a_trial_that_no_thread_can_interrupt_ends(tmp_path, monkeypatch):
    """Nor is it left behind where its starter is gone."""
    code = (
        "import sys; from gnsmall_keras.devices import trial; "
        "trial._PROCESSOR_SECONDS = 1; trial._limit(sys.argv[1]); "
        "sum(range(10**12))"
    )
    python, run = trial.sys.executable, trial.subprocess.run
    monkeypatch.setattr(trial, "_PROCESSOR_SECONDS", 1)
    monkeypatch.setattr(
        trial.subprocess,
        "run",
        lambda command, **k: run([python, "-c", code, command[3]], **k),
    )
    path = tmp_path / "copy.tflite"
    path.write_bytes(WHOLE.read_bytes() + b"another")
    with pytest.raises(ValueError, match="more than 1 s of processor time"):
        TFLiteModel(path, runtime=RUNTIMES[0])
