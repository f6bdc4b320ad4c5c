"""What a sweep hands to an engine, and what it gets back."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gnsmall_keras.config import RunConfig


class Job(NamedTuple):
    """One execution of a notebook."""

    config: RunConfig
    notebook: Path
    executed: Path  # where the executed one is written
    parameters: dict[str, Any]


class Ended(NamedTuple):
    """How a job ended."""

    job: Job
    error: str | None  # why it failed
    lost: int = 0  # how often its machine or process went before that


class Queue:
    """Jobs in their order; each waits for those that it learns from.

    Iterating takes jobs one after the other.

    Args:
        jobs: of one sweep.
    """

    def __init__(self, jobs: Iterable[Job]):
        self.all = tuple(jobs)
        self._waiting = {job.config.slug: job for job in self.all}
        self._unfinished = set(self._waiting)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __iter__(self) -> Iterator[Job]:
        while job := self.take():
            yield job

    def take(self) -> Job | None:
        """Returns the next job that may begin, if there is one now."""
        for slug, job in self._waiting.items():
            if self._unfinished.isdisjoint(job.config.sources):
                return self._waiting.pop(slug)
        return None

    def end(self, slug: str) -> None:
        """Lets those begin that waited for a job."""
        self._unfinished.discard(slug)

    def lose(self, slug: str) -> list[tuple[Job, str]]:
        """Takes those out that were to learn from a job that failed.

        Returns:
            Each with the teacher that it does not have: that job, or one that
            is lost as well.
        """
        lost: list[tuple[Job, str]] = []
        for job in [*self._waiting.values()]:
            if slug in job.config.sources:
                del self._waiting[job.config.slug]
                lost.append((job, slug))
        for job, _ in [*lost]:
            lost += self.lose(job.config.slug)
        return lost


# What takes jobs from a queue, does them anywhere and yields each as it ends.
# Whoever is yielded to tells the queue.
Engine = Callable[[Queue], Iterator[Ended]]


def check_workers(workers: int | None) -> None:
    """Checks the number of jobs at a time; None leaves it to the engine.

    Raises:
        ValueError: if it is below one.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"`workers` must be >= 1. Received: {workers}.")
