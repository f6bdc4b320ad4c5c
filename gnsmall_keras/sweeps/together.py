"""Trains a sweep's runs several at a time, then executes their notebooks.

Usage: python -m gnsmall_keras.sweeps.together '{"configs": [...], "out": ...}'
"""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from gnsmall_keras import backend, fields
from gnsmall_keras.child import watch_starter
from gnsmall_keras.config import RunConfig, fits
from gnsmall_keras.lines import say
from gnsmall_keras.sweeps import process
from gnsmall_keras.sweeps.jobs import Ended, Engine, Job, Queue
from gnsmall_keras.sweeps.local import (
    compiled_programs,
    local_engine,
    visible_gpus,
)

LOG_FILE = "together.log"  # of the last program, in the folder of all runs


def together_engine(runs: int) -> Engine:
    """Returns what trains jobs as one program, so many at a time.

    The program leaves each run with its last checkpoint; each notebook then
    finds its run trained, measures and records it. Where JAX sees no GPU the
    runs train one by one, and a line says so.

    Args:
        runs: at most so many at a time, >= 2.

    Raises:
        ValueError: if there is one, or the backend is not JAX.
    """
    import keras

    if runs < 2:
        raise ValueError(
            f"`together` must be 2 runs or more. Received: {runs}. Leave it "
            "out to train one by one."
        )
    if keras.config.backend() != "jax":
        raise ValueError(
            "Runs train together on JAX. Received: the backend "
            f"{keras.config.backend()}. Set KERAS_BACKEND=jax, or leave "
            "`together` out."
        )
    if not backend.jax_sees_gpu():
        say(
            "JAX sees no GPU: the runs train one by one, which on a CPU takes "
            "less time than together."
        )
        return local_engine(1)
    return functools.partial(_run, runs=runs)


def _run(queue: Queue, *, runs: int) -> Iterator[Ended]:
    common = {**compiled_programs(visible_gpus(), queue.all), **os.environ}
    kept: list[Job] = []  # taken, but did not fit the group before
    while queue or kept:
        group, kept = _next_group(queue, kept, runs)
        error = _train(group, common) if len(group) > 1 else None
        for job in group:
            if error:
                yield Ended(job, error)
                continue
            ending = process.execute(job, common, folder=Path.cwd())
            yield Ended(job, ending.error)


def _next_group(
    queue: Queue, kept: list[Job], runs: int
) -> tuple[list[Job], list[Job]]:
    """Jobs that fit together, and those that were taken and do not."""
    group, others = [], []
    while kept or queue:
        job = kept.pop(0) if kept else queue.take()
        if job is None:  # the rest waits for those that it learns from
            break
        configs = [other.config for other in group]
        if not group or (len(group) < runs and fits(job.config, configs)):
            group.append(job)
        else:
            others.append(job)
        if len(group) == runs:
            break
    return group, [*others, *kept]


def _train(group: list[Job], environment: dict[str, str]) -> str | None:
    """Trains jobs in a process of their own; returns why that failed."""
    out = group[0].executed.parents[1]
    out.mkdir(parents=True, exist_ok=True)
    order = {
        "configs": [fields.plain(job.config) for job in group],
        "out": str(out),
    }
    log = out / LOG_FILE
    with log.open("wb") as file:
        child = subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the sweep, which ends it
        )
        try:
            while child.poll() is None:
                time.sleep(process.POLL_SECONDS)
        finally:
            if child.stdin:
                child.stdin.close()  # it writes checkpoints and ends
            child.wait()
    if child.returncode == 0:
        return None
    lines = log.read_text("utf-8", "replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    return (
        f"{len(group)} runs together ended with exit status "
        f"{child.returncode}, see {log}: {last.strip()}"
    )


def main() -> int:
    """Trains the runs of the one argument; returns the exit status."""
    from gnsmall_keras.training.interruption import TrainingInterrupted
    from gnsmall_keras.training.scan.together import train_together

    signal.signal(signal.SIGINT, signal.default_int_handler)
    watch_starter(lambda: os.kill(os.getpid(), signal.SIGINT))
    order = json.loads(sys.argv[1])
    configs = [RunConfig(**values) for values in order["configs"]]
    try:
        errors = train_together(configs, out=order["out"])
    except TrainingInterrupted as stopped:
        sys.stderr.write(f"{stopped}\n")
        return 75
    except (ValueError, OSError, MemoryError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for slug, error in errors.items():
        sys.stderr.write(f"{slug} is left to its notebook: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
