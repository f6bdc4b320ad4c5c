"""Executes notebooks on this machine, each in a process of its own."""

import functools
import os
import subprocess
import time
from collections.abc import Iterator, Sequence

from gnsmall_keras.sweeps import process
from gnsmall_keras.sweeps.jobs import Ended, Engine, Job, Queue, check_workers

_DEVICES = "CUDA_VISIBLE_DEVICES"
_COMPILED = "JAX_COMPILATION_CACHE_DIR"


def local_engine(workers: int | None = None) -> Engine:
    """Returns what executes jobs in processes of this machine.

    Several workers have a GPU each, in turn, where there are any.

    Args:
        workers: processes at a time; None: one for each GPU, at least one.

    Raises:
        ValueError: if there is no worker; when it is called, if a run on
            several devices would see one GPU alone.
    """
    check_workers(workers)
    return functools.partial(_run, workers=workers)


def _run(queue: Queue, *, workers: int | None) -> Iterator[Ended]:
    gpus = visible_gpus()
    free = worker_environments(gpus, workers or max(1, len(gpus)))
    common = {**compiled_programs(gpus, queue.all), **os.environ}
    wide = max((job.config.devices for job in queue.all), default=1)
    if wide > 1 and gpus and len(free) > 1:
        raise ValueError(
            f"{len(free)} workers have one GPU each. Received: a run with "
            f"devices={wide}. Set the number of workers to 1."
        )
    running: list[tuple[process.RunningJob, dict[str, str]]] = []
    try:
        while queue or running:
            while free and (job := queue.take()):
                own = free.pop(0)
                started = process.start(job, {**common, **own})
                running.append((started, own))
            for run, own in running.copy():
                if run.process.poll() is not None:
                    running.remove((run, own))
                    free.append(own)
                    yield Ended(run.job, process.ending_of(run).error)
            time.sleep(process.POLL_SECONDS)
    finally:
        process.stop(run for run, _ in running)


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


def compiled_programs(
    gpus: Sequence[str], jobs: Sequence[Job]
) -> dict[str, str]:
    """Returns what lets JAX's runs on GPUs share what they compile.

    There a network takes a minute or more to compile; runs that differ in
    their seed alone have one program. The folder is beside those of the runs;
    it may be deleted.

    Args:
        gpus: of this machine.
        jobs: of one sweep.
    """
    if not gpus or not jobs:
        return {}
    runs = jobs[0].executed.resolve().parents[1]
    return {_COMPILED: str(runs / "jax-cache")}


def worker_environments(
    gpus: Sequence[str], workers: int
) -> list[dict[str, str]]:
    """Returns the variables that each worker has of its own."""
    if not gpus or workers == 1:
        return [{} for _ in range(workers)]
    shared = process.SHARING if workers > len(gpus) else {}
    return [
        {_DEVICES: gpus[number % len(gpus)], **shared}
        for number in range(workers)
    ]
