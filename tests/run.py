"""Runs the tests on every installed backend, two processes at a time.

Usage: python tests/run.py [pytest arguments]

TensorFlow runs everything; JAX and PyTorch run what is marked `backend`.
Ends with one summary line for all of them.
"""

import concurrent.futures
import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
AT_ONCE = 2
# The longest first. Export and notebooks run TensorFlow in processes of
# their own, so they are a job apart.
JOBS = {
    "jax": ("jax", "backend"),
    "tensorflow": ("tensorflow", "not export and not notebook and not browser"),
    "export and notebooks": ("tensorflow", "export or notebook"),
    "torch": ("torch", "backend"),
}


def run_job(name: str) -> tuple[str, int, str]:
    backend, marker = JOBS[name]
    # PyTorch's threads wait by spinning: more of them than cores stand still.
    threads = str(max(1, (os.cpu_count() or 1) // AT_ONCE))
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", marker, *sys.argv[1:]],
        cwd=ROOT,
        env={
            "OMP_NUM_THREADS": threads,
            # As `gnsmall` has it: some processors' steps take half the time.
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
    return name, done.returncode, done.stdout


def main() -> int:
    jobs = [
        name
        for name, (backend, _) in JOBS.items()
        if importlib.util.find_spec(backend)
    ]
    print(
        f"== testing: {', '.join(jobs)}; two at a time, minutes of silence",
        flush=True,
    )
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(run_job, jobs))
    counts = dict.fromkeys(("passed", "failed", "skipped", "error"), 0)
    for _, _, output in results:
        for kind in counts:
            for number in re.findall(
                rf"(\d+) {kind}", output.splitlines()[-1] if output else ""
            ):
                counts[kind] += int(number)
    bad = [name for name, status, _ in results if status]
    if bad:
        print(f"== failed on: {', '.join(bad)}")
    failed = max(counts["failed"] + counts["error"], len(bad))
    print(
        f"{counts['passed']} passed, {failed} failed, "
        f"{counts['skipped']} skipped"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
