"""The engine where processes fork, and threads are few or fail."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

from reference import Case, inputs_of

from gnsmall_keras import cores
from gnsmall_keras.native import build
from gnsmall_keras.native.engine import Engine

SMALL = Case(sides=(8, 16), batch=70)
forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def _in_child(work):
    """Runs it in a child of a fork, which must end well within a minute."""
    child = os.fork()
    if not child:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(60)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def _infer(engine, inputs):
    return engine.infer(inputs.parameters, inputs.moving, inputs.images)


@forking
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_computes_and_ends(compiled):
    engine, inputs = Engine(SMALL.plan(), threads=3), inputs_of(SMALL)
    wanted = _infer(engine, inputs)
    _, _, context = engine.forward(inputs.parameters, inputs.images)
    _, _, again = engine.forward(inputs.parameters, inputs.images)
    gradient = engine.backward(again, inputs.grad_logits)
    time.sleep(0.1)  # workers sleep in their condition variable

    def work():
        for _ in range(5):
            np.testing.assert_array_equal(_infer(engine, inputs), wanted)
            time.sleep(0.01)
        found = engine.backward(context, inputs.grad_logits)
        np.testing.assert_array_equal(found, gradient)
        _in_child(lambda: (_infer(engine, inputs), engine.__del__()))
        engine.__del__()

    _in_child(work)
    _in_child(engine.__del__)  # without any call
    np.testing.assert_array_equal(_infer(engine, inputs), wanted)


@forking
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_in_the_middle_of_another_thread_s_call(compiled):
    engine, inputs = Engine(SMALL.plan(), threads=2), inputs_of(SMALL)
    wanted, stop = _infer(engine, inputs), threading.Event()

    def call():
        while not stop.is_set():
            _infer(engine, inputs)

    def work():
        np.testing.assert_array_equal(_infer(engine, inputs), wanted)
        engine.__del__()

    calling = threading.Thread(target=call)
    calling.start()
    try:
        for _ in range(10):
            _in_child(work)
    finally:
        stop.set()
        calling.join()


def test_threads_that_fail_or_cannot_be_made(tmp_path):
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no compiler")
    program, folder = tmp_path / "threads", Path(__file__).parent
    sources = [folder / "threads.cc", build.SOURCES / "base/threads.cc"]
    flags = ["-std=c++17", "-pthread", f"-I{build.SOURCES}"]
    subprocess.run([compiler, *flags, *sources, "-o", program], check=True)
    done = subprocess.run(
        [program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("own", "files", "granted"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, [1.5]),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000\n"}, [2.0]),
        ("0::/a\n", {"a/cpu.max": "max 100000\n"}, []),
        (
            "3:cpuset:/x\n4:cpu,cpuacct:/host\n0::/\n",
            {
                "cpu/cpu.cfs_quota_us": "50000\n",
                "cpu/cpu.cfs_period_us": "100000\n",
            },
            [0.5],
        ),
        (
            "4:cpu,cpuacct:/\n",
            {
                "cpu/cpu.cfs_quota_us": "-1\n",
                "cpu/cpu.cfs_period_us": "100000\n",
            },
            [],
        ),
        ("0::/\n", {"cpu.max": "rubbish\n"}, []),
    ],
)
def test_a_container_s_share_of_cores(
    own, files, granted, tmp_path, monkeypatch
):
    for name, text in {"own": own, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(cores, "_GROUPS", tmp_path)
    monkeypatch.setattr(cores, "_OWN", tmp_path / "own")
    assert list(cores._granted()) == granted
    if granted and granted[0] <= 1:
        assert cores.usable_cores() == 1
