"""Damages files at random and reads them: `make fuzz COUNT=50 SEED=1`.

Usage: python tests/fuzz/run.py [COUNT] [SEED] [words of kinds]

Each kind has a worker process, which is started again when it dies or takes
too long. A file may be accepted or refused, in one line and by a ValueError or
OSError; all else is a fault and is printed with its seed. Ends with status 1
if there is one.
"""

import json
import resource
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from kinds import ROOT, kinds, quiet

MOST_SECONDS = 10.0
MOST_BYTES = 2 * 2**30
_START_SECONDS = 120.0  # of a worker's imports
_ALIVE = "ready"


class Counts:
    """What came of a kind's trials."""

    def __init__(self):
        self.trials = self.refused = self.accepted = 0
        self.faults: list[str] = []
        self.slowest = 0.0
        self.memory = 0  # bytes, of the worker with its children

    def add(self, seed: int, told: dict[str, Any], seconds: float) -> None:
        """Counts a trial."""
        self.trials += 1
        self.slowest = max(self.slowest, seconds)
        self.memory = max(self.memory, told.get("memory", 0))
        self.refused += told["ending"] == "refused"
        self.accepted += told["ending"] == "accepted"
        if told["ending"] == "fault":
            self.faults.append(f"seed {seed}: {told['error']}")
        elif seconds > MOST_SECONDS:
            self.faults.append(f"seed {seed}: took {seconds:.1f} s")
        elif told.get("memory", 0) > MOST_BYTES:
            self.faults.append(f"seed {seed}: took {told['memory']:,} bytes")


class Worker:
    """A process that makes a kind's trials; another takes its place."""

    def __init__(self, kind: str):
        self._kind = kind
        self._start()

    def _start(self):
        self._process = subprocess.Popen(
            [sys.executable, __file__, "worker", self._kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
        )
        if self._read(_START_SECONDS) != _ALIVE:
            self.stop()
            raise SystemExit(f"{self._kind}: the worker does not start")

    def _read(self, seconds):
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        line = self._process.stdout.readline() if ready else ""
        return line.strip()

    def make_trial(self, seed: int) -> dict[str, Any]:
        """Returns how a trial ended."""
        self._process.stdin.write(f"{seed}\n")
        line = self._read(6 * MOST_SECONDS)
        if line:
            return json.loads(line)
        status = self._process.poll()
        self.stop()
        self._start()
        how = "no end" if status is None else f"the process ended by {status}"
        return {"ending": "fault", "error": how}

    def stop(self) -> None:
        """Ends the process."""
        self._process.kill()
        with self._process:
            pass


def work(kind: str) -> None:
    """Makes the trials whose seeds come on standard input."""
    quiet()
    with tempfile.TemporaryDirectory(prefix="gnsmall-fuzz-") as name:
        trial = kinds()[kind](Path(name))
        out, sys.stdout = sys.stdout, sys.stderr
        print(_ALIVE, file=out, flush=True)
        for line in sys.stdin:
            told = _attempt(trial, int(line))
            used = (
                resource.getrusage(who).ru_maxrss
                for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
            )
            told["memory"] = 1024 * max(used)
            print(json.dumps(told), file=out, flush=True)


def _attempt(trial, seed):
    try:
        trial(np.random.default_rng(seed))
    except (ValueError, OSError) as error:
        if "\n" in str(error):
            return {"ending": "fault", "error": f"lines: {str(error)!r}"}
        return {"ending": "refused"}
    except Exception as error:
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return {"ending": "fault", "error": text[:300]}
    return {"ending": "accepted"}


def main(count: int, seed: int, words: list[str]) -> int:
    """Makes the trials of all kinds; returns the exit status."""
    print(f"{count} files of each kind, seeds from {seed}; {ROOT.name}")
    head = ("kind", "trials", "refused", "accepted", "faults", "slowest", "MB")
    row = "{:26} {:>6} {:>8} {:>9} {:>7} {:>8} {:>6}"
    print(row.format(*head))
    faults = []
    for kind in kinds():
        if words and not any(word in kind for word in words):
            continue
        counts, worker = Counts(), Worker(kind)
        for number in range(seed, seed + count):
            began = time.perf_counter()
            told = worker.make_trial(number)
            counts.add(number, told, time.perf_counter() - began)
        worker.stop()
        print(
            row.format(
                kind,
                counts.trials,
                counts.refused,
                counts.accepted,
                len(counts.faults),
                f"{counts.slowest:.2f} s",
                f"{counts.memory / 1e6:,.0f}",
            ),
            flush=True,
        )
        faults += [f"{kind}, {fault}" for fault in counts.faults]
    print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        work(sys.argv[2])
    else:
        numbers = [int(word) for word in sys.argv[1:] if word.isdecimal()]
        named = [word for word in sys.argv[1:] if not word.isdecimal()]
        count, seed = [*numbers, *(50, 0)[len(numbers) :]][:2]
        sys.exit(main(count, seed, named))
