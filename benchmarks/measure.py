"""Seconds and peak memory of tasks. Memory on Linux only."""

import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

_STATUS = pathlib.Path("/proc/self/status")


def medians(
    tasks: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, float]:
    """Runs all tasks in turn, `rounds` times; returns their median seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            began = time.perf_counter()
            task()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(s) for name, s in seconds.items()}


def peak_of(task: Callable[[], object]) -> float:
    """Runs `task`; returns the peak over what was resident before, in MiB."""
    # Writing 5 sets the high-water mark to what is resident now.
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    task()
    return (_resident("VmHWM") - before) / 1024


def in_own_process(script: str, *arguments: str) -> str:
    """Returns the last word that a Python script prints."""
    done = subprocess.run(
        [sys.executable, script, *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.split()[-1]


def _resident(field):
    return int(_STATUS.read_text().split(field + ":")[1].split()[0])
