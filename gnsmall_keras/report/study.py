"""Arms and contrasts of a sweep file, as far as their runs are recorded."""

import dataclasses
import functools
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gnsmall_keras.config import (
    KNOWN_DATA,
    Facts,
    RunConfig,
    complete,
    count_fitted,
    settle_images,
)
from gnsmall_keras.records.run import RunRecord
from gnsmall_keras.report.estimates import Estimate, estimate
from gnsmall_keras.report.groups import Comparison, Group, compare_pair
from gnsmall_keras.report.identity import (
    identify,
    index_slugs,
    key_of,
    mixed_teachers,
)
from gnsmall_keras.report.reading import Run
from gnsmall_keras.report.significance import correct_differences
from gnsmall_keras.sweeps.contrasts import Contrast
from gnsmall_keras.sweeps.plan import read_sweep

_TEACHERS = ("teachers", "assistants", "cache")


class Arm(NamedTuple):
    """Runs that differ in their seed alone, under the name of their file."""

    name: str
    asked: int  # runs
    group: Group | None  # of those recorded; None where there are none

    @property
    def done(self) -> int:
        """How many of those asked for are recorded."""
        runs = self.group.runs if self.group else ()
        return len({run.record.config["seed"] for run in runs})

    def agreements(self) -> list[tuple[str, Estimate | None]]:
        """How often the class of each teacher is given, held out, in percent.

        With the teacher's name; "" where each seed has one of its own.
        """
        runs = {
            run.record.config["seed"]: run.record.agreements
            for run in reversed(self.group.runs if self.group else ())
        }
        found = []
        known = [runs[seed].items() for seed in sorted(runs) if runs[seed]]
        for column in zip(*known, strict=False):
            names = {name for name, _ in column}
            share = estimate(100 * value for _, value in column)
            found.append((names.pop() if len(names) == 1 else "", share))
        return found


class Row(NamedTuple):
    """What one contrast came to."""

    contrast: Contrast
    found: Comparison | None  # None while an arm has no run
    corrected: float | None  # Holm's p, of a primary one, once all are done


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


def read_study(
    path: str | os.PathLike[str],
    runs: Iterable[Run],
    hidden: Iterable[Run] = (),
) -> Study:
    """Finds the runs that a sweep file asks for.

    Args:
        path: the sweep file; its grids name arms.
        runs: all that are recorded.
        hidden: more of them, which may be teachers but are not shown.

    Raises:
        ValueError: if it is no sweep file or names no arm, or its runs were on
            different images.
    """
    runs = list(runs)
    known = [*hidden, *runs]
    settle = functools.partial(_settle, [run.record for run in known])
    sweep = dataclasses.replace(read_sweep(path), settle=settle)
    if not sweep.arms:
        raise ValueError(
            f"A study is a sweep file whose grids name their arms. Received: "
            f'{str(path)!r} without. Write arm = "baseline" in a [[grid]].'
        )
    for name, configs in sweep.teacher_arms.items():
        if len({config.seed for config in configs}) < len(configs):
            raise ValueError(
                "A study has one teacher of a name for each seed. Received: "
                f"several of {name!r}, as its students' data or protocols "
                "differ. Write a file for each of them."
            )
    find = functools.partial(_find, runs=runs, by_slug=index_slugs(known))
    arms, teachers = (
        tuple(find(name, configs) for name, configs in named.items())
        for named in (sweep.arms, sweep.teacher_arms)
    )
    study = Study(
        Path(path).stem,
        sweep.selection,
        arms,
        teachers,
        _compare(sweep.pairs, {arm.name: arm for arm in arms}),
    )
    digests = sorted(
        {run.record.data_digest for group in study.groups for run in group.runs}
    )
    if len(digests) > 1:
        raise ValueError(
            "The runs of a study are on the same images. Received: the data "
            f"digests {digests}. Give an index of one of them."
        )
    return study


def _settle(records: Sequence[RunRecord], config: RunConfig) -> RunConfig:
    """Names a run on images of one's own as its records are named.

    The images need not be at hand. Where they have changed between two runs,
    those of the later one count. A path may be written in several ways.
    """
    if config.data in KNOWN_DATA:
        return config
    # A study of known data needs none of it.
    from gnsmall_keras.training.experiment import images_of

    images = images_of(config)._asdict()
    path = os.path.realpath(images.pop("data"))
    for record in reversed(records):
        known = complete(record.config)
        if (
            images.items() <= known.items()
            and known["data"] not in KNOWN_DATA
            and os.path.realpath(known["data"]) == path
        ):
            return settle_images(config, _facts(config, record))
    return config


def _facts(config: RunConfig, record: RunRecord) -> Facts:
    """What a record knows of its images."""
    images = record.images or {}
    count = record.train_images
    if not images.get("validation_given", False):
        count += record.validation_images
        count = count_fitted(config, count, len(images.get("class_names", ())))
    own = bool(record.config.get("data_digest"))
    return Facts(record.data_digest, own, count)


def _find(
    name: str,
    configs: Sequence[RunConfig],
    runs: Sequence[Run],
    by_slug: Mapping[str, RunRecord],
) -> Arm:
    recorded = {run.record.slug for run in runs}
    slugs = {_recorded_slug(config, recorded) for config in configs}
    found = tuple(run for run in runs if run.record.slug in slugs)
    if not found:
        return Arm(name, len(configs), None)
    identities = [identify(run.record, by_slug) for run in found]
    teachers = [
        key_of({name: one.get(name) for name in _TEACHERS})
        for one in identities
    ]
    replaced = mixed_teachers(found, by_slug)
    if len(set(teachers)) > 1 or replaced:
        missing = [] if replaced else _unrecorded(found, by_slug)
        raise _of_other_teachers(name, found, missing)
    return Arm(name, len(configs), Group(identities[0], found))


def _unrecorded(
    runs: Sequence[Run], by_slug: Mapping[str, RunRecord]
) -> list[str]:
    """Teachers of some of the runs alone that have no record."""
    sources = [{*run.record.sources} for run in runs]
    own = set[str]().union(*sources) - set[str].intersection(*sources)
    return sorted(own - by_slug.keys())


def _of_other_teachers(
    name: str, runs: Sequence[Run], missing: Sequence[str]
) -> ValueError:
    rule = "The runs of an arm learn from teachers of the same weights."
    if missing:
        return ValueError(
            f"{rule} Received: arm {name!r}, whose teachers have no record "
            f"that says what they are: {', '.join(missing)}. Give an index "
            "that has their lines."
        )
    named = [run.record.slug for run in runs]
    return ValueError(
        f"{rule} Received: arm {name!r} with runs {named}, whose teachers have "
        "one name and different weights. Take the lines of those of the "
        "teacher that was replaced out of the index, and train them anew."
    )


def _recorded_slug(config: RunConfig, recorded: Collection[str]) -> str:
    """Its slug; that of an older name, where only that is recorded."""
    slugs = [name.slug for name in config.names]
    return next(filter(recorded.__contains__, slugs), config.slug)


def _compare(
    contrasts: Sequence[Contrast], arms: dict[str, Arm]
) -> tuple[Row, ...]:
    """Compares what is there; p only once all that is corrected together is."""
    sides = [(arms[one.treated], arms[one.control]) for one in contrasts]
    compared = [
        compare_pair(treated.group, control.group)
        if treated.group and control.group
        else None
        for treated, control in sides
    ]
    primary = [number for number, one in enumerate(contrasts) if one.primary]
    chances: list[float | None] = [None] * len(contrasts)
    if all(arm.done == arm.asked for n in primary for arm in sides[n]):
        found = [one and one.test for one in (compared[n] for n in primary)]
        corrected = correct_differences(found)
        for number, p in zip(primary, corrected, strict=True):
            chances[number] = p
    return tuple(map(Row, contrasts, compared, chances))
