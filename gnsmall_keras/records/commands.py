"""The commands that gave a run, by its record."""

import shlex
from collections.abc import Callable
from typing import Any, cast

from gnsmall_keras import fields
from gnsmall_keras.config import TEACHING, Distilling
from gnsmall_keras.records.run import RunRecord

USUAL = fields.defaults(Distilling)  # what a command does not name


def teachers_of(
    record: RunRecord, find: Callable[[str], RunRecord | None]
) -> list[RunRecord]:
    """Returns the records of the runs that one learned from.

    Args:
        record: of the run.
        find: the record of a slug, None where there is none.

    Returns:
        Each once, after those that it learned from itself. Files and networks
        among its teachers have none.
    """
    found: dict[str, RunRecord] = {}
    for name in record.sources:
        teacher = find(name)
        if teacher:
            own = [*teachers_of(teacher, find), teacher]
            found |= {one.slug: one for one in own if one.slug not in found}
    return [*found.values()]


def reproduce(record: RunRecord) -> str:
    """Returns the command line of a run: what differs from the defaults."""
    alone = record.config.get("strategy", "baseline") == "baseline"
    words = ["gnsmall", "train" if alone else "distill"]
    for name, value in USUAL.items():
        if name == "data_digest":  # the images say it themselves
            continue
        if alone and name in TEACHING:  # a sweep may share it; `train` refuses
            continue
        given = record.config.get(name, value)
        if given != value:
            words += option(name, given)
    return shlex.join(words)


def option(name: str, value: Any) -> list[str]:
    """Returns the words of an option: ["--head-units", "160"]."""
    name = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    values = cast("list[Any]", value if isinstance(value, list) else [value])
    return [f"--{name}", *map(str, values)]
