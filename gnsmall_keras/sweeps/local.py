"""Executes notebooks on this machine, each in a process of its own."""

import collections
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from gnsmall_keras.sweeps.jobs import Ended, Engine, Job
from gnsmall_keras.sweeps.notebook import KERNEL
from gnsmall_keras.sweeps.worker import ERROR

_WORKER = "gnsmall_keras.sweeps.worker"
_POLL_SECONDS = 0.2
_DEVICES = "CUDA_VISIBLE_DEVICES"
# What keeps frameworks from taking a whole GPU that they share.
_SHARING = {
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}


class _Running(NamedTuple):
    job: Job
    process: subprocess.Popen[bytes]
    log: Path  # what the process prints
    environment: dict[str, str]


def local_engine(workers: int | None = None) -> Engine:
    """Returns what executes jobs in processes of this machine.

    Several workers have a GPU each, in turn, where there are any.

    Args:
        workers: processes at a time; None: one for each GPU, at least one.

    Raises:
        ValueError: if there is no worker; when it is called, if a run on
            several devices would see one GPU alone.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"`workers` must be >= 1. Received: {workers}.")
    return functools.partial(_run, workers=workers)


def _run(jobs: Sequence[Job], *, workers: int | None) -> Iterator[Ended]:
    gpus = visible_gpus()
    free = worker_environments(gpus, workers or max(1, len(gpus)))
    wide = max((job.config.devices for job in jobs), default=1)
    if wide > 1 and gpus and len(free) > 1:
        raise ValueError(
            f"{len(free)} workers have one GPU each. Received: a run with "
            f"devices={wide}. Set the number of workers to 1."
        )
    waiting = collections.deque(jobs)
    running: list[_Running] = []
    try:
        while waiting or running:
            while waiting and free:
                running.append(_start(waiting.popleft(), free.pop(0)))
            for run in running.copy():
                if run.process.poll() is not None:
                    running.remove(run)
                    free.append(run.environment)
                    yield Ended(run.job, _error(run))
            time.sleep(_POLL_SECONDS)
    finally:
        _stop(running)


def visible_gpus() -> list[str]:
    """Returns the GPUs a run may use, as CUDA_VISIBLE_DEVICES names them."""
    given = os.environ.get(_DEVICES)
    if given is None:
        command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        try:
            given = subprocess.run(
                command, capture_output=True, text=True, check=True
            ).stdout.replace("\n", ",")
        except (OSError, subprocess.CalledProcessError):
            return []
    names = [name.strip() for name in given.split(",") if name.strip()]
    return [] if "-1" in names else names  # CUDA's way to hide all


def worker_environments(
    gpus: Sequence[str], workers: int
) -> list[dict[str, str]]:
    """Returns the variables that each worker has of its own."""
    if not gpus or workers == 1:
        return [{} for _ in range(workers)]
    shared = _SHARING if workers > len(gpus) else {}
    return [
        {_DEVICES: gpus[number % len(gpus)], **shared}
        for number in range(workers)
    ]


def _start(job: Job, environment: dict[str, str]) -> _Running:
    job.executed.parent.mkdir(parents=True, exist_ok=True)
    order = {
        "input_path": str(job.notebook),
        "output_path": str(job.executed),
        "parameters": job.parameters,
        "kernel_name": KERNEL,
        "progress_bar": False,
    }
    log = job.executed.with_suffix(".log")
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", _WORKER, json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            env={**os.environ, **environment},
            start_new_session=True,  # Ctrl-C is for the sweep; it ends them
        )
    return _Running(job, process, log, environment)


def _error(run: _Running) -> str | None:
    """Why a run failed, in one line; None if it did not."""
    _release(run)
    status = run.process.returncode
    if status == 0:
        run.log.unlink()
        return None
    lines = run.log.read_text("utf-8", errors="replace").splitlines()
    told = [line for line in lines if line.startswith(ERROR)]
    if told:
        return told[-1].removeprefix(ERROR)
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    return f"The worker ended by {how}; see {run.log}."


def _stop(running: list[_Running]) -> None:
    """Ends what still runs: a worker goes when its standard input ends."""
    for run in running:
        _release(run)
    for run in running:
        run.process.wait()


def _release(run: _Running) -> None:
    if run.process.stdin:
        run.process.stdin.close()
