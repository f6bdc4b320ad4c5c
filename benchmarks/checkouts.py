"""Training steps of two checkouts of this repository, in turn.

Usage: KERAS_BACKEND=tensorflow python benchmarks/checkouts.py OLD NEW
           [width ...] [-b batch ...] [-c cores] [-r recipe]

One process per checkout holds a compiled GN-S; a pipe asks each in turn for
three steps, so that both meet the machine in the same mood. The first of three
does not count: the other's threads may still spin, waiting for work. Prints
medians of 7 turns in images/s and their ratio. NEW trains as it does by
default.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS, STEPS = 7, 2
_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)


def main(arguments) -> None:
    """Prints a line for each width and batch."""
    for width in arguments.widths or [1.0]:
        for batch in arguments.b:
            workers = [
                _worker(checkout, width, batch, arguments)
                for checkout in (arguments.old, arguments.new)
            ]
            seconds: list[list[float]] = [[], []]
            for worker in workers:
                _ask(worker)
            for _ in range(ROUNDS):
                for worker, taken in zip(workers, seconds, strict=True):
                    taken.append(_ask(worker))
            for worker in workers:
                worker.stdin.close()
                worker.wait()
            old, new = map(statistics.median, seconds)
            print(
                f"{os.environ.get('KERAS_BACKEND')}, {arguments.r}, "
                f"cores {arguments.c}, width {width:g}, batch {batch}: "
                f"old {batch / old:,.0f}/s, new {batch / new:,.0f}/s; "
                f"new / old {old / new:.2f}",
                flush=True,
            )


def _worker(checkout, width, batch, arguments):
    number = dict.fromkeys(_THREADS, str(arguments.c))
    return subprocess.Popen(
        [
            sys.executable,
            str(Path(__file__).resolve()),
            "serve",
            str(width),
            str(batch),
            arguments.r,
        ],
        cwd=checkout,
        env={
            **os.environ,
            **number,
            "PYTHONPATH": str(Path(checkout).resolve()),
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _ask(worker) -> float:
    worker.stdin.write("step\n")
    worker.stdin.flush()
    while not (line := worker.stdout.readline()).startswith("took "):
        if not line:
            sys.exit("A checkout's process ended; its message is above.")
    return float(line.split()[1])


def serve(width: float, batch: int, recipe: str) -> None:
    """Answers each line of stdin with a step's seconds, a mean of `STEPS`."""
    import keras
    import numpy as np

    from gnsmall_keras import Distiller, ghostnetv3_small
    from gnsmall_keras.recipes import RECIPES

    try:
        from gnsmall_keras.training.fit import compile_model
    except ImportError:  # where it was until 2026-11
        from gnsmall_keras.training.learn import compile_model
    if keras.config.backend() == "torch":
        import torch

        torch.set_num_threads(int(os.environ[_THREADS[0]]))
    generator = np.random.default_rng(0)
    images = generator.normal(size=(batch, 32, 32, 3)).astype("float32")
    labels = generator.integers(0, 10, batch)
    distiller = Distiller(student=ghostnetv3_small(width))
    compile_model(distiller, RECIPES[recipe], steps=1000)
    distiller.train_on_batch(images, labels)
    for _ in sys.stdin:
        distiller.train_on_batch(images, labels)
        began = time.perf_counter()
        for _ in range(STEPS):
            distiller.train_on_batch(images, labels)
        print(f"took {(time.perf_counter() - began) / STEPS}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(float(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    else:
        parser = argparse.ArgumentParser(usage=__doc__)
        parser.add_argument("old")
        parser.add_argument("new")
        parser.add_argument("widths", nargs="*", type=float)
        parser.add_argument("-b", nargs="+", type=int, default=[64])
        parser.add_argument("-c", type=int, default=1)
        parser.add_argument("-r", default="quick")
        main(parser.parse_args())
