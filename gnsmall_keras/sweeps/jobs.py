"""What a sweep hands to an engine, and what it gets back."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from graphlib import TopologicalSorter
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


def sorter(configs: Mapping[str, RunConfig]) -> TopologicalSorter[str]:
    """Returns the order of runs by their slugs: teachers before students.

    Raises:
        ValueError: if a run learns from itself, by others or at once.
    """
    order = TopologicalSorter(
        {
            slug: configs.keys() & set(config.sources)
            for slug, config in configs.items()
        }
    )
    order.prepare()
    return order


class Queue:
    """Jobs in their order; each waits for those that it learns from.

    Iterating takes jobs one after the other.

    Args:
        jobs: of one sweep.
    """

    def __init__(self, jobs: Iterable[Job]):
        self.all = tuple(jobs)
        self._waiting = {job.config.slug: job for job in self.all}
        self._order = sorter({s: j.config for s, j in self._waiting.items()})
        self._ready: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __iter__(self) -> Iterator[Job]:
        while job := self.take():
            yield job

    def take(self) -> Job | None:
        """Returns the next job that may begin, if there is one now."""
        self._ready.update(self._order.get_ready())
        slug = next((slug for slug in self._waiting if slug in self._ready), "")
        return self._waiting.pop(slug, None)

    def end(self, slug: str) -> None:
        """Lets those begin that waited for a job."""
        self._order.done(slug)

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
