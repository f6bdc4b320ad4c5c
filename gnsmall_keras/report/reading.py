"""Reads records line by line; a broken line is told of and left out."""

import os
from pathlib import Path
from typing import Any, NamedTuple

from gnsmall_keras.records import RunRecord, scan_records

_LONGEST = 240  # characters of a fault
_MOST = 1e12  # of anything that is drawn
_CONFIG = {
    "model": str,
    "data": str,
    "recipe": str,
    "protocol": str,
    "width": (int, float),
    "seed": int,
}


class Run(NamedTuple):
    """A record and where it stands."""

    line: int
    record: RunRecord


class Reading(NamedTuple):
    """What a file of records holds."""

    runs: list[Run]
    faults: list[str]  # a line each, with its number


def read_runs(index: str | os.PathLike[str]) -> Reading:
    """Reads all records of the file `index` that can be read.

    Raises:
        ValueError: if there is no such file.
    """
    path = Path(index)
    if not path.is_file():
        raise ValueError(
            f"No records at {str(index)!r}. Give --index the file index.jsonl "
            "of a folder of runs."
        )
    reading = Reading([], [])
    for number, found in scan_records(path):
        try:
            reading.runs.append(Run(number, _checked(found)))
        except ValueError as error:
            text = " ".join(str(error).split())
            text = text.removeprefix(f"{path}, line {number}: ")
            if len(text) > _LONGEST:
                text = text[:_LONGEST] + "..."
            reading.faults.append(f"{path.name}, line {number}: {text}")
    return reading


def _checked(record: RunRecord | ValueError) -> RunRecord:
    """Returns a record whose values the report can compute with.

    Raises:
        ValueError: if it is none, or a value is not what a run writes.
    """
    if isinstance(record, ValueError):
        raise record
    for name, kind in _CONFIG.items():
        value = record.config.get(name) if _is(record.config, dict) else None
        if not _is(value, kind):
            raise _fault(f"config.{name}", value)
    if not 0 < record.config["width"] < _MOST:
        raise _fault("config.width", record.config["width"])
    if record.config["protocol"] not in ("validation", "paper"):
        raise _fault("config.protocol", record.config["protocol"])
    epochs = record.recipe.get("epochs") if _is(record.recipe, dict) else None
    if not _is(epochs, int) or not 1 <= epochs < _MOST:
        raise _fault("recipe.epochs", epochs)
    for name in ("slug", "digest", "data_digest", "backend", "started_at"):
        if not _is(getattr(record, name), str):
            raise _fault(name, getattr(record, name))
    sizes = ("deployed_parameters", "deployed_macs", "test_images")
    for name in (*sizes, "validation_images", "train_seconds"):
        value = getattr(record, name)
        if not _is(value, (int, float)) or not 0 <= value < _MOST:
            raise _fault(name, value)
    for name in ("validation_accuracy", "test_accuracy", "best_test_accuracy"):
        value = getattr(record, name)
        if value is not None and not _is_share(value):
            raise _fault(name, value)
    _check_history(record.history)
    _check_distillation(record)
    return record


def _check_history(history: Any) -> None:
    if not _is(history, dict):
        raise _fault("history", history)
    for name in ("accuracy", "val_accuracy"):
        values = history.get(name, [])
        if not _is(values, list) or not all(map(_is_share, values)):
            raise _fault(f"history.{name}", values)


def _check_distillation(record: RunRecord) -> None:
    for name in ("teachers", "assistants"):
        values = record.config.get(name, [])
        if not _is(values, list) or not all(_is(one, str) for one in values):
            raise _fault(f"config.{name}", values)
    for name in ("strategy", "cache"):
        if not _is(record.config.get(name, ""), str):
            raise _fault(f"config.{name}", record.config[name])
    if record.distillation is None:
        return
    try:
        teachers = record.distillation["teachers"]
        names = [(one["name"], one["weights_digest"]) for one in teachers]
    except (TypeError, KeyError):
        raise _fault("distillation", record.distillation) from None
    if not all(_is(text, str) for pair in names for text in pair):
        raise _fault("distillation.teachers", names)


def _is(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_share(value: Any) -> bool:
    return _is(value, (int, float)) and 0 <= value <= 1


def _fault(name: str, value: Any) -> ValueError:
    return ValueError(f"Not what a run writes: {name} = {value!r}.")
