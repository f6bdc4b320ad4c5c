"""Trains the runs of a sweep file together until the time is up.

Usage: python rented.py SWEEP OUT SECONDS [RUNS at a time] [cpu|gpu]

Seconds count from now on. Runs that are finished are left out, others go on at
their checkpoints; the index is OUT/index.jsonl. Without notebooks, for which a
quarter of an hour is too short: `gnsmall sweep` makes them where they are
wanted, from the checkpoints.
"""

import sys
import time
from pathlib import Path

from gnsmall_keras.config import RunConfig, fits
from gnsmall_keras.records.folders import CHECKPOINT_FILE
from gnsmall_keras.records.run import INDEX_FILE
from gnsmall_keras.sweeps.plan import read_sweep
from gnsmall_keras.sweeps.sweep import list_todo
from gnsmall_keras.training.interruption import TrainingInterrupted
from gnsmall_keras.training.run import train
from gnsmall_keras.training.scan.together import train_together

RESERVE = 30  # seconds to write checkpoints and to pack them


def main(sweep: str, out: str, seconds: str, most: str, device: str) -> int:
    """Returns 0 if all is done, 75 if the same call is to go on."""
    end = time.monotonic() + float(seconds) - RESERVE
    folder = Path(out)
    pending = list(list_todo(read_sweep(sweep), folder / INDEX_FILE).pending)
    while pending:
        group, pending = next_group(pending, int(most))
        try:
            errors = train_together(
                group, out=folder, time_budget=left(end), device=device
            )
            for config in group:
                if config.slug not in errors and is_begun(folder, config):
                    train(
                        config, out=folder, time_budget=left(end), device=device
                    )
        except TrainingInterrupted as stop:
            sys.stderr.write(f"{stop}\n")
            return 75
        for slug, error in errors.items():
            sys.stderr.write(f"{slug}: {error}\n")
    return 0


def next_group(
    pending: list[RunConfig], most: int
) -> tuple[list[RunConfig], list[RunConfig]]:
    """Returns runs that train together, and the others."""
    group: list[RunConfig] = []
    for config in pending:
        if len(group) < most and (not group or fits(config, group)):
            group.append(config)
    return group, [config for config in pending if config not in group]


def is_begun(folder: Path, config: RunConfig) -> bool:
    """Whether there is a checkpoint to make a record of."""
    return (folder / config.slug / CHECKPOINT_FILE).is_file()


def left(end: float) -> float:
    """Returns the seconds that are left; a moment where there are none."""
    return max(end - time.monotonic(), 0.001)


if __name__ == "__main__":
    defaults = ["8", "gpu"]
    given = sys.argv[1:]
    sys.exit(main(*given, *defaults[len(given) - 3 :]))
