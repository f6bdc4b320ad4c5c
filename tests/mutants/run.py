"""Applies seeded faults one at a time; the tests have to notice each.

Usage: python tests/mutants/run.py [--now] [words of names]

Each mutant of `table.py` is put into a copy of the checkout, and the default
tier of its test files is run there until the first failure. Prints a table,
and ends with status 1 if a mutant survives. First the files are run without
any fault, for a test that always fails notices nothing; not with `--now`.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from table import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
# Not copied: what is made, and what no test reads.
LEFT_OUT = (".git", ".venv", ".cache", "__pycache__", ".pytest_cache")
PASSED, FAILED = 0, 1  # exit statuses of pytest


def run_tests(checkout: Path, files: Iterable[str]) -> tuple[int, str]:
    """Returns pytest's exit status and the first test that failed."""
    options = ["-x", "-q", "-m", "not slow and not browser"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-p", "no:cacheprovider"]
        + [f"tests/{file}" for file in files],
        cwd=checkout,
        env={
            "KERAS_BACKEND": "tensorflow",
            "OMP_NUM_THREADS": "1",
            "TF_NUM_INTRAOP_THREADS": "1",
            "TF_NUM_INTEROP_THREADS": "1",
            **os.environ,
            # Not the installed package: the copy.
            "PYTHONPATH": str(checkout),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"^(?:FAILED|ERROR) tests/(\S+)", done.stdout, re.M)
    if done.returncode not in (PASSED, FAILED):
        print(done.stdout[-2000:], done.stderr[-2000:])
    return done.returncode, found[1] if found else ""


def apply(checkout: Path, mutant: Mutant) -> tuple[Path, str]:
    """Puts a fault in; returns the file and what it was.

    Raises:
        ValueError: if its place is not there exactly once.
    """
    path = checkout / "gnsmall_keras" / mutant.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        raise ValueError(
            f"{mutant.name!r}: the text must stand once in {mutant.file}. "
            f"Received: {text.count(mutant.old)} times. Look where it has "
            "gone, and change tests/mutants/table.py."
        )
    changed = text.replace(mutant.old, mutant.new)
    path.write_text(changed, encoding="utf-8")
    return path, text


def main() -> int:
    words = [word for word in sys.argv[1:] if word != "--now"]
    chosen = [m for m in MUTANTS if all(word in m.name for word in words)]
    survived = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        checkout = Path(folder, "checkout")
        shutil.copytree(
            ROOT, checkout, ignore=shutil.ignore_patterns(*LEFT_OUT)
        )
        for mutant in chosen:  # all of them, before minutes are spent
            path, text = apply(checkout, mutant)
            path.write_text(text, encoding="utf-8")
        files = sorted({file for m in chosen for file in m.tests})
        print(f"== {len(chosen)} mutants, {len(files)} files of tests")
        status, failed = PASSED, ""
        if "--now" not in sys.argv:
            status, failed = run_tests(checkout, files)
        if status != PASSED:
            print(f"== without any fault there fails: {failed}")
            return 1
        for mutant in chosen:
            path, text = apply(checkout, mutant)
            began = time.perf_counter()
            status, failed = run_tests(checkout, mutant.tests)
            path.write_text(text, encoding="utf-8")
            survived += status != FAILED
            outcome = f"killed by {failed}" if status == FAILED else "SURVIVED"
            seconds = time.perf_counter() - began
            print(f"{mutant.name:40} {seconds:4.0f} s  {outcome}", flush=True)
    print(f"{len(chosen) - survived} killed, {survived} survived")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
