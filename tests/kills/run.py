"""Kills commands at random and runs them again: `make kills COUNT=10 SEED=1`.

Usage: python tests/kills/run.py [COUNT] [SEED] [train] [sweep] [export]

Each command ends once without being killed. Then it is killed (SIGKILL, the
process alone, not its children), run again, killed again, and at last left to
end: weights and files must be the same to the bit, each run must have one
record, and no temporary file or process may be left. KERAS_BACKEND trains.
Ends with status 1 if something does not hold.
"""

import hashlib
import io
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

ROOT = Path(__file__).parents[2]
IN_ONE_PLACE = 3  # kills before a command is left to end
LEFT_SECONDS = 20.0  # for children to see that their starter is gone
EPOCHS = 8
SWEEP = """
[parameters]
data = "digits"
strategy = "baseline"
width = 0.25
epochs = 4

[grid]
seed = [1, 2]
"""


class Kind(NamedTuple):
    """What is killed, and what must come of it."""

    command: Callable[[Path], Sequence[str]]  # of a folder
    results: str  # pattern of the files that are compared
    records: str  # the file of records
    lines: int  # in it


def _train(folder: Path) -> Sequence[str]:
    options = f"--data digits --width 0.25 --epochs {EPOCHS} --seed 3"
    return ("train", *options.split(), "--out", str(folder))


def _sweep(folder: Path) -> Sequence[str]:
    file = folder.parent / "sweep.toml"
    file.write_text(SWEEP)
    return ("sweep", str(file), "--out", str(folder), "--workers", "2")


def _export(folder: Path) -> Sequence[str]:
    """Of a run, which is trained here once."""
    folder.mkdir(exist_ok=True)
    runs = folder.parents[1] / "run"
    if not runs.is_dir():
        words = [sys.executable, "-m", "gnsmall_keras", *_train(runs)]
        subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    (network,) = runs.glob("*/model.keras")
    options = ("--exports", str(folder / "exports.jsonl"))
    out = ("--out", str(folder / "file.tflite"))
    return ("export", str(network), "--data", "digits", *out, *options)


KINDS = {
    "train": Kind(_train, "*/model.keras", "index.jsonl", 1),
    "sweep": Kind(_sweep, "*/model.keras", "index.jsonl", 2),
    "export": Kind(_export, "*.tflite", "exports.jsonl", 1),
}


def digest(path: Path) -> str:
    """Of a file; of a .keras file, of its weights alone, without dates."""
    data = path.read_bytes()
    if path.suffix != ".keras":
        return hashlib.sha256(data).hexdigest()
    import h5py

    sha = hashlib.sha256()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        weights = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(weights, "r") as file:

        def add(name, item):
            if isinstance(item, h5py.Dataset):
                sha.update(f"{name}{item.shape}".encode() + item[()].tobytes())

        file.visititems(add)
    return sha.hexdigest()


def start(kind: Kind, folder: Path) -> "subprocess.Popen[bytes]":
    temporary = folder.parent / "tmp"
    temporary.mkdir(exist_ok=True)
    with (folder.parent / "output.txt").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "gnsmall_keras", *kind.command(folder)],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(temporary)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def left_behind(folder: Path) -> list[str]:
    """Temporary files and processes, once they had time to go."""
    end = time.monotonic() + LEFT_SECONDS
    while True:
        # Compilers' caches and the like are not ours.
        left = [
            str(path)
            for path in (folder.parent / "tmp").iterdir()
            if path.name.startswith("gnsmall")
        ]
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if any(str(folder.parent) in word for word in words):
                left.append(f"process {process.pid}: {shlex.join(words)}")
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.5)


def results(kind: Kind, folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): digest(path)
        for path in sorted(folder.glob(kind.results))
    }


def check(kind: Kind, folder: Path, expected: dict[str, str]) -> list[str]:
    faults = []
    if (found := results(kind, folder)) != expected:
        faults.append(f"results differ: {found}, not {expected}")
    path = folder / kind.records
    lines = path.read_bytes().count(b"\n") if path.is_file() else 0
    if lines != kind.lines:
        faults.append(f"{lines} records in {path}, not {kind.lines}")
    left = [
        str(path)
        for path in folder.rglob("*")
        if path.name.endswith((".unfinished", ".tmp"))
    ]
    if left := left + left_behind(folder):
        faults.append(f"left: {left}")
    return faults


def try_kind(name: str, count: int, seed: int) -> list[str]:
    """Kills a command `count` times; returns what does not hold."""
    kind, generator, faults = KINDS[name], random.Random(seed), []
    with tempfile.TemporaryDirectory(prefix="kills-") as place:
        whole = Path(place, "whole", name)
        whole.parent.mkdir()
        began = time.monotonic()
        status = start(kind, whole).wait()
        seconds = time.monotonic() - began
        expected = results(kind, whole)
        if status or not expected:
            output = (whole.parent / "output.txt").read_text(errors="replace")
            return [f"{name} ended with {status}: {output[-2000:]}"]
        faults += check(kind, whole, expected)
        kills = 0
        while kills < count:
            folder = Path(place, f"killed {kills}", name)
            folder.parent.mkdir()
            for _ in range(min(IN_ONE_PLACE, count - kills)):
                process = start(kind, folder)
                wait = generator.uniform(0, seconds)
                try:
                    process.wait(wait)
                    break  # it was done
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    kills += 1
                faults += [
                    f"killed after {wait:.1f} s: left: {left}"
                    for left in left_behind(folder)
                ]
            if status := start(kind, folder).wait():
                faults.append(f"it ended with {status}")
            faults += check(kind, folder, expected)
            shutil.rmtree(folder.parent, ignore_errors=True)
    sys.stdout.write(
        f"{name:8} {os.environ.get('KERAS_BACKEND', 'tensorflow'):10} "
        f"{kills} kills in {seconds:.0f} s each, seed {seed}: "
        f"{len(faults)} faults\n"
    )
    sys.stdout.flush()
    return faults


def main() -> int:
    """Tries all kinds; returns the exit status."""
    words = sys.argv[1:]
    numbers = [int(word) for word in words if word.isdecimal()]
    count, seed = [*numbers, *(10, 0)[len(numbers) :]]
    names = [word for word in words if word in KINDS] or [*KINDS]
    faults = [f for name in names for f in try_kind(name, count, seed)]
    for fault in faults:
        sys.stdout.write(f"  {fault}\n")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
