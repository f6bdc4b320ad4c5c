"""One execution of a notebook, in a process of its own on this machine."""

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from gnsmall_keras.sweeps.jobs import Job
from gnsmall_keras.sweeps.notebook import KERNEL
from gnsmall_keras.sweeps.worker import ERROR_SUFFIX, KERNEL_DIED

POLL_SECONDS = 0.2
# What keeps frameworks from taking a whole GPU that they share.
SHARING = {
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}
_WORKER = "gnsmall_keras.sweeps.worker"


class RunningJob(NamedTuple):
    """A notebook that is being executed."""

    job: Job
    process: subprocess.Popen[bytes]
    log: Path  # what the process prints


class Ending(NamedTuple):
    """How an execution ended."""

    error: str | None  # why it failed, in one line
    killed: bool = False  # from outside: it may well succeed elsewhere


def start(
    job: Job, environment: Mapping[str, str], *, folder: Path | None = None
) -> RunningJob:
    """Starts the process of a job.

    Args:
        job: what to execute.
        environment: all its variables.
        folder: which it works in; None: that of this process.
    """
    job.executed.parent.mkdir(parents=True, exist_ok=True)
    order = {
        "input_path": str(job.notebook),
        "output_path": str(job.executed),
        "parameters": job.parameters,
        "kernel_name": KERNEL,
        "progress_bar": False,
    }
    log = job.executed.with_suffix(".log")
    log.with_suffix(ERROR_SUFFIX).unlink(missing_ok=True)
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", _WORKER, json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            env=environment,
            cwd=folder,
            start_new_session=True,  # Ctrl-C is for the sweep; it ends them
        )
    return RunningJob(job, process, log)


def ending_of(run: RunningJob) -> Ending:
    """Returns how an execution ended that is over."""
    _release(run)
    status = run.process.returncode
    if status == 0:
        run.log.unlink()
        return Ending(None)
    killed = status < 0 or status == KERNEL_DIED
    reason = run.log.with_suffix(ERROR_SUFFIX)
    if reason.exists():
        text = reason.read_text("utf-8")
        reason.unlink()
        return Ending(text, killed)
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    where = f"{run.log.name} beside the notebook"
    return Ending(f"The worker ended by {how}; see {where}.", killed)


def execute(
    job: Job, environment: Mapping[str, str], *, folder: Path
) -> Ending:
    """Executes a job to its end; an interrupted one writes a checkpoint."""
    run = start(job, environment, folder=folder)
    wait(run)
    return ending_of(run)


def wait(run: RunningJob) -> None:
    """Waits for the end of what runs; an interruption ends it as well."""
    try:
        # A wait without end would not see Ray's interruption.
        while run.process.poll() is None:
            time.sleep(POLL_SECONDS)
    finally:
        stop([run])


def stop(running: Iterable[RunningJob]) -> None:
    """Ends what still runs: a worker goes when its standard input ends."""
    running = list(running)
    for run in running:
        _release(run)
    for run in running:
        run.process.wait()


def _release(run: RunningJob) -> None:
    if run.process.stdin:
        run.process.stdin.close()
