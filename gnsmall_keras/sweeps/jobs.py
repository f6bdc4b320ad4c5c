"""What a sweep hands to an engine, and what it gets back."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gnsmall_keras.config import DistillConfig


class Job(NamedTuple):
    """One execution of a notebook."""

    config: DistillConfig
    notebook: Path
    executed: Path  # where the executed one is written
    parameters: dict[str, Any]


class Ended(NamedTuple):
    """How a job ended."""

    job: Job
    error: str | None  # why it failed
    lost: int = 0  # how often its machine or process went before that


# What takes jobs anywhere, and yields each as it ends.
Engine = Callable[[Sequence[Job]], Iterator[Ended]]


def check_workers(workers: int | None) -> None:
    """Checks the number of jobs at a time; None leaves it to the engine.

    Raises:
        ValueError: if it is below one.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"`workers` must be >= 1. Received: {workers}.")
