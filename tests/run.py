"""Runs the tests on every installed backend, a process for each core.

Usage: python tests/run.py [--all] [pytest options, such as -k words]

TensorFlow runs everything but what is marked `slow`; JAX and PyTorch run what
is marked `contract`, the results that must be the same on every backend. What
is marked `any_backend`, the package's own bookkeeping, and `backend`, what
passes on each, PyTorch runs where it is installed, in a third of the time.
With `--all` nothing is left out, and `backend` is run on every backend. Prints
the 40 slowest tests, and ends with one summary line for all.
"""

import concurrent.futures
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
AT_ONCE = max(2, os.cpu_count() or 1)  # more would only wait for each other
SLOWEST = 40  # tests to print
# In an order that lets cores end together, with PyTorch and without it. Export
# and notebooks run TensorFlow in processes of their own, so they are a job
# apart; its other tests are two jobs.
TRAINING = ("commands", "distill", "native", "training")
OTHERS = sorted(
    path.name
    for path in Path(__file__).parent.iterdir()
    if path.is_dir() and path.name not in TRAINING
)
FASTEST = "torch"  # runs what is marked `any_backend` or `backend`
PLAIN = "not export and not notebook and not browser"


class Job(NamedTuple):
    """What runs in one process."""

    backend: str
    marker: str
    left_out: tuple[str, ...] = ()  # patterns of paths in tests/


JOBS = {
    "torch": Job("torch", "contract"),
    "tensorflow, training": Job("tensorflow", PLAIN, (*OTHERS, "test_*.py")),
    "tensorflow": Job("tensorflow", PLAIN, TRAINING),
    "export and notebooks": Job("tensorflow", "(export or notebook)"),
    "jax": Job("jax", "contract"),
}


class Done(NamedTuple):
    """What came of one job."""

    name: str
    status: int  # of pytest
    counts: dict[str, int]
    seconds: list[tuple[float, str]]  # of each test, with its setup


def tests_of(name: str, everything: bool) -> str:
    """Returns the marks of a job's tests."""
    backend, marker, _ = JOBS[name]
    if everything:
        return marker.replace("contract", "(contract or backend)")
    if marker == PLAIN and find_spec(FASTEST):
        marker += " and (contract or not any_backend and not backend)"
    elif backend == FASTEST:
        marker = f"({marker} or (any_backend or backend) and {PLAIN})"
    return f"{marker} and not slow"


def _kept_programs(backend: str, folder: str) -> dict[str, str]:
    """Variables by which JAX compiles equal programs once a job.

    Tests build the same small networks anew, and processes that they start
    compile what their parents have: a third of JAX's time.
    """
    if backend != "jax":
        return {}
    return {
        "JAX_COMPILATION_CACHE_DIR": str(Path(folder, "programs")),
        # By default programs of a second and more.
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }


def run_job(name: str, everything: bool, arguments: list[str]) -> Done:
    backend, _, left_out = JOBS[name]
    # PyTorch's threads wait by spinning: more of them than cores stand still.
    threads = str(max(1, (os.cpu_count() or 1) // AT_ONCE))
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "junit.xml")
        command = [sys.executable, "-m", "pytest", "-q"]
        command += [f"--ignore-glob={ROOT}/tests/{path}" for path in left_out]
        began = time.perf_counter()
        done = subprocess.run(
            [
                *command,
                "-m",
                tests_of(name, everything),
                f"--junitxml={report}",
                *arguments,
            ],
            cwd=ROOT,
            env={
                **_kept_programs(backend, folder),
                "OMP_NUM_THREADS": threads,
                "TF_NUM_INTRAOP_THREADS": threads,
                "TF_NUM_INTEROP_THREADS": threads,
                # As `gnsmall` has it: some processors' steps take half the
                # time.
                "TF_ENABLE_ONEDNN_OPTS": "1",
                **os.environ,
                "KERAS_BACKEND": backend,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - began
        print(f"== {name}: {seconds:.0f} s", done.stdout, sep="\n", flush=True)
        return Done(name, done.returncode, *read_report(report, name))


def read_report(
    path: Path, job: str
) -> tuple[dict[str, int], list[tuple[float, str]]]:
    """Returns counts of results, and the seconds of each test."""
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    seconds = []
    if not path.is_file():  # pytest itself has failed
        return counts, seconds
    for suite in ET.parse(path).iter("testsuite"):
        for kind in counts:
            counts[kind] += int(suite.get(kind, 0))
    for case in ET.parse(path).iter("testcase"):
        where = f"{case.get('classname')}::{case.get('name')}"
        seconds.append((float(case.get("time", 0)), f"{job}: {where}"))
    return counts, seconds


def main() -> int:
    arguments = sys.argv[1:]
    everything = "--all" in arguments
    if everything:
        arguments.remove("--all")
    jobs = [name for name, job in JOBS.items() if find_spec(job.backend)]
    print(
        f"== testing: {', '.join(jobs)}; {AT_ONCE} at a time, minutes of "
        "silence",
        flush=True,
    )
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(
            pool.map(lambda name: run_job(name, everything, arguments), jobs)
        )
    print(f"== the {SLOWEST} slowest tests")
    slowest = sorted(row for done in results for row in done.seconds)
    for seconds, name in slowest[: -SLOWEST - 1 : -1]:
        print(f"{seconds:7.1f} s  {name}")
    counts = {
        kind: sum(done.counts[kind] for done in results)
        for kind in ("tests", "failures", "errors", "skipped")
    }
    bad = [f"{done.name} ({done.status})" for done in results if done.status]
    if bad:
        print(f"== failed on, with exit status: {', '.join(bad)}")
    failed = counts["failures"] + counts["errors"]
    passed = counts["tests"] - failed - counts["skipped"]
    print(
        f"{passed} passed, {max(failed, len(bad))} failed, "
        f"{counts['skipped']} skipped"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
