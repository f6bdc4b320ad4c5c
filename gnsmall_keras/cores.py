"""How many cores a process may use."""

import contextlib
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

_GROUPS, _OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def asked_threads(variable: str = "OMP_NUM_THREADS") -> int | None:
    """Returns as many as a variable says; None for all cores."""
    given = os.environ.get(variable, "").partition(",")[0].strip()
    is_count = re.fullmatch("0*[1-9][0-9]{0,3}", given)
    return int(given) if is_count else None


def process_cores() -> int:
    """Returns how many cores the system lets this process run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_cores() -> int:
    """Returns how many cores there are for this process, at least one.

    A container often has all cores and the time of a few: threads beyond
    those wait in the middle of their work.
    """
    count = process_cores()
    least = min(_granted(), default=math.inf)
    return count if math.isinf(least) else max(1, min(count, math.ceil(least)))


def _granted() -> Iterator[float]:
    """The cores' time that each control group above this process has."""
    groups = ""
    with contextlib.suppress(OSError):
        groups = _OWN.read_text(errors="replace")
    for line in groups.splitlines():  # "0::/a/b", before version 2 "4:cpu:/a"
        _, kinds, path = line.split(":", 2)
        if kinds and "cpu" not in kinds.split(","):
            continue
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        root = _GROUPS / "cpu" if kinds else _GROUPS
        folder = root / path.lstrip("/")
        for place in (folder, *folder.parents):
            with contextlib.suppress(OSError, ValueError):
                files = names if kinds else ("cpu.max",)
                texts = [(place / name).read_text() for name in files]
                quota, period = map(int, " ".join(texts).split())
                if quota > 0 < period:
                    yield quota / period
            if place == root:
                break
