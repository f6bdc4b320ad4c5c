"""Peak resident memory of a task, in a process of its own. Linux only."""

import pathlib
import subprocess
import sys
from collections.abc import Callable

_STATUS = pathlib.Path("/proc/self/status")


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
