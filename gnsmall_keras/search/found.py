"""What a search for the best network came to, in its order."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from gnsmall_keras.data.dataset import Dataset
from gnsmall_keras.export.tflite import ExportReport
from gnsmall_keras.models.catalogue import Size
from gnsmall_keras.records.run import INDEX_FILE, RunRecord
from gnsmall_keras.search.candidates import Candidate

PAGE = "report.html"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """A network that was trained, and its file."""

    size: Size
    head_units: int
    how: str
    """"alone", or from whom it learned."""
    record: RunRecord
    report: ExportReport | None
    path: Path | None
    misses: str
    """Why it is not the one to take; empty if it could be."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fitted:
    """What came of a search; entries are ranked by validation accuracy.

    Example:
        >>> lines = []
        >>> found = gns.fit("digits", seconds=300, sizes=1, tell=lines.append)
        >>> found.best == found.entries[0], found.best.misses
        (True, '')
    """

    folder: Path
    entries: tuple[Entry, ...]
    missed: tuple[Candidate, ...]
    """Sizes that nearly fitted."""
    page: Path | None
    seconds: float

    @property
    def best(self) -> Entry:
        """The first that fits and has no fault.

        Raises:
            ValueError: if there is none.
        """
        for entry in self.entries:
            if not entry.misses:
                return entry
        why = "; ".join(
            f"{entry.record.slug}: {entry.misses}" for entry in self.entries
        )
        raise ValueError(
            f"No file fits and has no fault: {why}. Give a larger budget, or "
            "more time."
        )


def size_of(record: RunRecord) -> Size:
    """The size of a run's network."""
    return Size(record.config["model"], record.config["width"])


def ranked(records: Iterable[RunRecord]) -> list[RunRecord]:
    """By validation accuracy; of equal ones the longer trained one."""
    return sorted(
        records,
        key=lambda one: (
            -(one.validation_accuracy or 0.0),
            -one.recipe["epochs"],
            one.deployed_parameters,
        ),
    )


def most_promising(trials: Sequence[RunRecord]) -> RunRecord:
    """The largest of those no further from the best than its standard error.

    A short training on few images tells little more; all of them fit.
    """
    best = ranked(trials)[0]
    share, count = best.validation_accuracy, best.validation_images
    if share is None or not count:
        return best
    least = share - math.sqrt(share * (1 - share) / count)
    close = [one for one in trials if (one.validation_accuracy or 0) >= least]
    return max(close, key=lambda one: one.deployed_macs)


def better(teacher: RunRecord, alone: RunRecord) -> bool:
    """Whether a teacher's validation accuracy is above a network's own."""
    mine, other = teacher.validation_accuracy, alone.validation_accuracy
    return mine is not None and other is not None and mine > other


def write_page(folder: Path, dataset: Dataset) -> Path:
    """Writes the report of a search's runs into its folder.

    Raises:
        ImportError: if what draws it is not installed.
        ValueError: if there is nothing to show.
    """
    from gnsmall_keras.report.pages.build import write_report
    from gnsmall_keras.report.reading import read_runs

    page = folder / PAGE
    reading = read_runs(folder / INDEX_FILE)
    tested = dataset if len(dataset.test_images) else None
    write_report(reading, name=INDEX_FILE, out=page, dataset=tested)
    return page
