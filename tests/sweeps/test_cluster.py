"""Notebooks on a Ray cluster: lost workers, files that go back, an end."""

import contextlib
import dataclasses
import json
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from support import wait_for

from gnsmall_keras import cli
from gnsmall_keras.records.run import (
    INDEX_FILE,
    MODEL_FILE,
    RECORD_FILE,
    read_records,
)
from gnsmall_keras.sweeps import cluster, connection, sweep
from gnsmall_keras.sweeps.jobs import Job
from gnsmall_keras.sweeps.notebook import parameters_of
from gnsmall_keras.sweeps.plan import SweepConfig

# A shell that starts tests in the background has them ignore Ctrl-C.
SWEEP = """
import json
import signal
import sys
from pathlib import Path
from gnsmall_keras.sweeps import cluster, plan, sweep

signal.signal(signal.SIGINT, signal.default_int_handler)
out, notebook, address, workers, *seeds = sys.argv[1:]
config = plan.SweepConfig(
    parameters={"strategy": "baseline"}, grid={"seed": [*map(int, seeds)]}
)
engine = cluster.ray_engine(int(workers), address or None)
for outcome in sweep.run_all(
    config.configs,
    out=Path(out),
    index=Path(out, "index.jsonl"),
    engine=engine,
    notebook=Path(notebook),
):
    print(json.dumps([outcome.config.seed, outcome.lost, outcome.error]))
"""


def _start(out, notebook, address, workers, *seeds):
    """Starts a sweep in a process, which has Ray's warnings for itself."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SWEEP, out, notebook, address]
        + [str(number) for number in (workers, *seeds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _sweep(*seeds):
    return SweepConfig(
        parameters={"strategy": "baseline"}, grid={"seed": seeds}
    )


def _ray_workers(out):
    """The workers and kernels that work in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            words = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if "sweeps.worker" in words and str(out) in words:
            found += [process, *process.children(recursive=True)]
    return found


# Two machines that take jobs and one, the sweep's, that takes none. Ray's
# workers take a killed raylet for a live one until somebody waits for it.
CLUSTER = """
import os
import sys
import threading
import time
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
from ray.cluster_utils import Cluster

def reap():
    while True:
        time.sleep(0.2)
        for node in cluster.list_all_nodes():
            for kind in node.all_processes.values():
                for started in kind:
                    started.process.poll()

quick = {"health_check_period_ms": 1000, "health_check_failure_threshold": 3}
cluster = Cluster(
    initialize_head=True,
    head_node_args={"num_cpus": 0, "_system_config": quick},
)
for _ in range(2):
    cluster.add_node(num_cpus=1, num_gpus=1)
threading.Thread(target=reap, daemon=True).start()
print("address", cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def address():
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        lines = (line.split() for line in process.stdout)
        yield next(words[1] for words in lines if "address" in words)
        process.communicate()


@pytest.mark.slow
@pytest.mark.notebook
class TestCluster:
    def test_no_run_is_lost_with_a_process_or_a_machine(
        self, tmp_path, notebook, address
    ):
        out = tmp_path / "runs"
        done = _start(out, notebook, address, 2, 1, 3, 4, 5, 6)
        printed, errors = done.communicate(timeout=300)
        assert not errors
        # Ray prints of a lost worker as well.
        lines = [x for x in printed.splitlines() if x.startswith("[")]
        outcomes = sorted(json.loads(line) for line in lines)
        assert outcomes[0] == [1, 0, "ValueError: no luck, on two lines"]
        assert outcomes[1:] == [[seed, 1, None] for seed in (3, 4, 5, 6)]
        records = [record.digest for record in read_records(out / INDEX_FILE)]
        expected = [run.digest for run in _sweep(3, 4, 5, 6).configs]
        assert sorted(records) == sorted(expected)
        executed = out / _sweep(3).configs[0].slug / "train.ipynb"
        assert '"0\\n"' in executed.read_text(), "the GPU that Ray gave"
        failed = _sweep(1).configs[0]
        assert failed.digest in (out / "failed.jsonl").read_text()
        assert "no luck" in (out / failed.slug / "train.ipynb").read_text()

    def test_a_killed_sweep_takes_its_runs_along(
        self, tmp_path, notebook, address
    ):
        out = tmp_path / "runs"
        process = _start(out, notebook, address, 1, 2)
        wait_for((out / "waiting").exists)
        running = _ray_workers(out)
        assert len(running) == 2
        process.kill()
        process.communicate()
        wait_for(lambda: not any(p.is_running() for p in running))
        todo = sweep.list_todo(_sweep(2), out / INDEX_FILE)
        assert [run.seed for run in todo.pending] == [2]

    def test_an_interrupted_sweep_ends_its_runs_and_its_ray(
        self, tmp_path, notebook
    ):
        out = tmp_path / "runs"
        process = _start(out, notebook, "", 1, 2)
        wait_for((out / "waiting").exists)
        mine = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert (out / "interrupted").exists(), "so a training can be saved"
        wait_for(lambda: not any(p.is_running() for p in mine))


def _task(tmp_path, notebook, token, **files):
    (config,) = _sweep(0).configs
    config = dataclasses.replace(config, strategy="kd", teachers=("teacher",))
    home = tmp_path / "home"
    for name in ("teacher", config.slug):
        (home / name).mkdir(parents=True)
    (home / "teacher" / MODEL_FILE).write_bytes(b"2")
    job = Job(
        config,
        notebook,
        home / config.slug / "train.ipynb",
        parameters_of(config, home, home / INDEX_FILE),
    )
    job.executed.with_name("run.lock").write_text("this")
    models = cluster._read_models(job, home)
    return cluster._Task(
        job, notebook.read_text(), token, files, models, "nowhere", {}
    )


@pytest.mark.notebook
def test_a_machine_without_the_folder_sends_the_files_home(tmp_path, notebook):
    task = _task(tmp_path, notebook, "other", checkpoint=b"1")
    result = cluster._perform(task)
    folder = task.job.executed.parent
    assert [path.name for path in folder.iterdir()] == ["run.lock"]
    assert set(result.files) == {RECORD_FILE, "train.ipynb", "checkpoint"}
    (folder / "old").touch()
    cluster._bring_home(result, task.job)
    assert {path.name for path in folder.iterdir()} == {
        *result.files,
        "run.lock",
    }
    (record,) = read_records(task.job.parameters["index"])
    assert record.digest == task.job.config.digest


def test_an_interrupted_task_sends_its_files_home(
    tmp_path, notebook, interrupted
):
    task = _task(tmp_path, notebook, "other", checkpoint=b"1")
    result = cluster._perform(task)
    assert "exit status 3" in result.ending.error
    assert result.files == {"checkpoint": b"1"}
    assert len(interrupted) == 1


def test_variables_that_decide_results_are_the_sweep_s(monkeypatch):
    for name, value in {
        "KERAS_BACKEND": "jax",
        "OMP_NUM_THREADS": "1",
        "GNSMALL_DATA": "/node",
        "GNSMALL_LOOP": "chunks",
    }.items():
        monkeypatch.setenv(name, value)
    sent = {"KERAS_BACKEND": "torch", "GNSMALL_DATA": "/sweep"}
    found = cluster._environment(sent)
    assert "GNSMALL_LOOP" not in found
    assert found["KERAS_BACKEND"] == "torch"
    assert found["GNSMALL_DATA"] == "/node"
    assert "OMP_NUM_THREADS" not in found


def test_no_home_folder_is_no_token(monkeypatch):
    def fail(path):
        raise RuntimeError("Could not determine home directory.")

    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", fail)
    monkeypatch.setattr(Path, "home", fail)
    assert not connection.has_token()


@pytest.mark.parametrize(
    ("devices", "places", "gpus", "share"),
    [(2, 1, 0, 0), (1, 2, 2, 1), (1, 1, 4, 1), (4, 1, 4, 4), (1, 3, 1, 0.3333)],
)
def test_gpus_are_shared_where_there_are_more_workers(
    devices, places, gpus, share
):
    assert cluster.gpu_share(devices, places, gpus) == share


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "slurm"], "--engine"),
        (["--address", "here:1"], "Add --engine ray"),
        (["--engine", "ray", "--address", "here"], "must be host:port"),
        (["--engine", "ray", "--address", "127.0.0.1:1"], "No Ray cluster"),
        (["--engine", "ray", "--workers", "0"], "`workers` must be >= 1"),
    ],
)
def test_what_no_engine_can_do_is_one_line(
    tmp_path, capsys, arguments, message
):
    (tmp_path / "sweep.toml").write_text('[[runs]]\nstrategy = "baseline"\n')
    command = ["sweep", str(tmp_path / "sweep.toml")]
    out = tmp_path / "runs"
    assert cli.main([*command, "--out", str(out), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize("greets", [True, False])
def test_a_port_that_is_not_a_cluster_s_is_named(greets, monkeypatch):
    """Such as a web server's, or one that never answers."""
    pytest.importorskip("ray")
    monkeypatch.setattr(connection, "_ANSWER_SECONDS", 2)
    run = connection.subprocess.run
    code = "import gnsmall_keras.sweeps.connection as c, sys; "
    code += "c._ANSWER_SECONDS = 2; sys.exit(c._ask_head(sys.argv[1]))"
    monkeypatch.setattr(
        connection.subprocess,
        "run",
        lambda words, **k: run([words[0], "-c", code, words[-1]], **k),
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        if greets:
            threading.Thread(target=_greet, args=[server], daemon=True).start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        message = f"at {address} is not the head of a Ray cluster: it gave no"
        with pytest.raises(ValueError, match=message) as error:
            cluster.ray_engine(1, address)
    assert "6379" in str(error.value)
    assert "\n" not in str(error.value)


def _greet(server):
    with contextlib.suppress(OSError):
        while True:
            with server.accept()[0] as client:
                client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_a_missing_ray_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match="gnsmall-keras\\[cluster\\]"):
        cluster.ray_engine()
