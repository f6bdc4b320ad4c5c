"""Arms and contrasts of a sweep file, as far as their runs are recorded."""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from gnsmall_keras.config import DistillConfig
from gnsmall_keras.report.groups import (
    Comparison,
    Group,
    identify,
    paired_difference,
)
from gnsmall_keras.report.reading import Run
from gnsmall_keras.report.significance import correct_by_holm, paired_p
from gnsmall_keras.sweeps.contrasts import Contrast
from gnsmall_keras.sweeps.plan import read_sweep


class Arm(NamedTuple):
    """Runs that differ in their seed alone, under the name of their file."""

    name: str
    asked: int  # runs
    group: Group | None  # of those recorded; None where there are none

    @property
    def done(self) -> int:
        """How many of those asked for are recorded."""
        runs = self.group.runs if self.group else ()
        return len({run.record.digest for run in runs})


class Row(NamedTuple):
    """What one contrast came to."""

    contrast: Contrast
    found: Comparison | None  # None while an arm has no run
    corrected: float | None  # Holm's p, of primary contrasts that have one


@dataclasses.dataclass(frozen=True)
class Study:
    """What a sweep file with arms came to."""

    name: str
    selection: bool  # whether it is to choose an arm by validation
    arms: tuple[Arm, ...]
    teachers: tuple[Arm, ...]
    rows: tuple[Row, ...]

    @property
    def groups(self) -> list[Group]:
        """Those of all arms that have a run."""
        return [arm.group for arm in (*self.arms, *self.teachers) if arm.group]

    @property
    def chosen(self) -> Arm | None:
        """The arm with the highest validation accuracy, the later of equals.

        None while a run is missing: what is chosen then could change. No test
        accuracy is looked at.
        """
        if any(arm.done < arm.asked for arm in self.arms):
            return None
        return max(reversed(self.arms), key=_validation)


def _validation(arm: Arm) -> float:
    found = arm.group and arm.group.estimate("validation_accuracy")
    return found.mean if found else -1.0


def read_study(path: str | os.PathLike[str], runs: Iterable[Run]) -> Study:
    """Finds the runs that a sweep file asks for.

    Args:
        path: the sweep file; its grids name arms.
        runs: all that are recorded.

    Raises:
        ValueError: if it is no sweep file or names no arm, or its runs were on
            different images.
    """
    sweep = read_sweep(path)
    if not sweep.arms:
        raise ValueError(
            f"A study is a sweep file whose grids name their arms. Received: "
            f'{str(path)!r} without. Write arm = "baseline" in a [[grid]].'
        )
    runs = list(runs)
    arms, teachers = (
        tuple(_find(name, configs, runs) for name, configs in named.items())
        for named in (sweep.arms, sweep.teacher_arms)
    )
    study = Study(
        Path(path).stem,
        sweep.selection,
        arms,
        teachers,
        _compare(sweep.pairs, {arm.name: arm.group for arm in arms}),
    )
    digests = sorted({group.first.data_digest for group in study.groups})
    if len(digests) > 1:
        raise ValueError(
            "The runs of a study are on the same images. Received: the data "
            f"digests {digests}. Give an index of one of them."
        )
    return study


def _find(
    name: str, configs: Sequence[DistillConfig], runs: Sequence[Run]
) -> Arm:
    digests = {config.digest for config in configs}
    found = tuple(run for run in runs if run.record.digest in digests)
    if not found:
        return Arm(name, len(configs), None)
    by_slug = {run.record.slug: run.record for run in runs}
    return Arm(
        name, len(configs), Group(identify(found[0].record, by_slug), found)
    )


def _compare(
    contrasts: Sequence[Contrast], groups: dict[str, Group | None]
) -> tuple[Row, ...]:
    compared: list[Comparison | None] = []
    chances: list[float | None] = []
    for contrast in contrasts:
        treated, control = groups[contrast.treated], groups[contrast.control]
        if treated is None or control is None:
            compared.append(None)
            chances.append(None)
            continue
        validation, test = (
            (treated.values(measure), control.values(measure))
            for measure in ("validation_accuracy", "test_accuracy")
        )
        compared.append(
            Comparison(
                treated,
                control,
                paired_difference(*validation),
                paired_difference(*test),
            )
        )
        chances.append(paired_p(*test) if contrast.primary else None)
    return tuple(map(Row, contrasts, compared, correct_by_holm(chances)))
