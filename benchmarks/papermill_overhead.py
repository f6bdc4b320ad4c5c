"""Cost of a run of a sweep, over the same training in a process of its own.

Usage: KERAS_BACKEND=tensorflow python benchmarks/papermill_overhead.py [pairs]
                                                                  [epochs ...]

Pairs of one execution of notebooks/02_train.ipynb by a sweep's worker and one
process that calls `train` with the same config: the first one of
papermill_runs/sweeps/smoke.toml, with so many epochs (1 and 6). The two take
turns, and each begins every other pair; one pair is not counted. Prints medians
of seconds and of the pairs' ratios, by the clock and by processor time, which
other load on the machine touches less.
"""

import dataclasses
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import gnsmall_keras as gns
from gnsmall_keras.sweeps.local import local_engine
from gnsmall_keras.sweeps.sweep import run_all

SWEEP = pathlib.Path(__file__).parents[1] / "papermill_runs/sweeps/smoke.toml"


def _config(epochs):
    return dataclasses.replace(gns.read_sweep(SWEEP).configs[0], epochs=epochs)


def _sweep(epochs, out):
    (outcome,) = run_all(
        [_config(epochs)],
        out=out,
        index=out / "index.jsonl",
        engine=local_engine(1),
    )
    if outcome.error:
        raise SystemExit(outcome.error)


def _train(epochs, out):
    subprocess.run(
        [sys.executable, __file__, "train", str(epochs), str(out)],
        check=True,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # as a worker: Linux shares by sessions
    )


def _seconds(task, epochs):
    """Seconds by the clock and of the processor, all processes together."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter(), _processor_seconds()
        task(epochs, pathlib.Path(folder))
        ended = time.perf_counter(), _processor_seconds()
    return [after - before for after, before in zip(ended, began, strict=True)]


def _processor_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def compare(pairs: int, epochs: int) -> None:
    """Prints the ratios of a sweep's run to a plain one, pair by pair."""
    found = {_sweep: [], _train: []}
    for pair in range(pairs + 1):
        for task in [*found][:: 1 if pair % 2 else -1]:
            found[task].append(_seconds(task, epochs))
    swept, plain = (
        zip(*seconds[1:], strict=True) for seconds in found.values()
    )
    print(f"epochs {epochs}, n={pairs} pairs")
    for what, a, b in zip(("clock", "processor"), swept, plain, strict=True):
        ratios = [x / y for x, y in zip(a, b, strict=True)]
        print(
            f"  {what}: in a sweep {statistics.median(a):.1f} s, by itself "
            f"{statistics.median(b):.1f} s; ratio "
            f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to "
            f"{max(ratios):.3f})",
            flush=True,
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["train"]:
        gns.train(_config(int(sys.argv[2])), out=sys.argv[3])
    else:
        given = [int(text) for text in sys.argv[1:]]
        for number in given[1:] or (1, 6):
            compare(given[0] if given else 5, number)
