"""Training steps of two checkouts of this repository, in turn.

Usage: KERAS_BACKEND=tensorflow python benchmarks/checkouts.py OLD NEW
           [width ...] [-b batch ...] [-c cores]

One process per checkout holds a compiled GN-S; a pipe asks each in turn for one
step, so that both meet the machine in the same mood. Prints medians of 9 steps
in images/s and their ratio. NEW trains as it does by default.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 9
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
                _worker(checkout, width, batch, arguments.c)
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
                f"{os.environ.get('KERAS_BACKEND')}, cores {arguments.c}, "
                f"width {width:g}, batch {batch}: old {batch / old:,.0f}/s, "
                f"new {batch / new:,.0f}/s; new / old {old / new:.2f}",
                flush=True,
            )


def _worker(checkout, width, batch, cores):
    number = dict.fromkeys(_THREADS, str(cores))
    return subprocess.Popen(
        [
            sys.executable,
            str(Path(__file__).resolve()),
            "serve",
            str(width),
            str(batch),
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


def serve(width: float, batch: int) -> None:
    """Answers each line of stdin with the seconds of one step."""
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
    compile_model(distiller, RECIPES["quick"], steps=1000)
    distiller.train_on_batch(images, labels)
    for _ in sys.stdin:
        began = time.perf_counter()
        distiller.train_on_batch(images, labels)
        print(f"took {time.perf_counter() - began}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(float(sys.argv[2]), int(sys.argv[3]))
    else:
        parser = argparse.ArgumentParser(usage=__doc__)
        parser.add_argument("old")
        parser.add_argument("new")
        parser.add_argument("widths", nargs="*", type=float)
        parser.add_argument("-b", nargs="+", type=int, default=[64])
        parser.add_argument("-c", type=int, default=1)
        main(parser.parse_args())
