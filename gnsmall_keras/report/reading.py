"""Reads records line by line; a broken line is reported and skipped."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from gnsmall_keras.lines import one_line
from gnsmall_keras.records.export import EXPORTS_FILE, ExportRecord
from gnsmall_keras.records.jsonl import scan_lines
from gnsmall_keras.records.predictions import unpack_correct
from gnsmall_keras.records.run import FAILED_FILE, RunRecord, scan_records

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
_NUMBER = (int, float)
_EXPORT = {
    "source": {
        **dict.fromkeys(("slug", "digest", "started_at", "model"), str),
        **dict.fromkeys(("width", "head_units"), _NUMBER),
        "deployed_parameters": int,
    },
    "report": {
        **dict.fromkeys(("path", "sha256", "target", "quantization"), str),
        "size_bytes": int,
        "faults": list,
    },
}


class Run(NamedTuple):
    """A record and where it stands."""

    line: int
    record: RunRecord


class Reading(NamedTuple):
    """What a file of records holds."""

    runs: list[Run]
    faults: list[str]  # a line each, with its number
    exports: list[ExportRecord]  # of files, each as it was last recorded
    timed: list[ExportRecord]  # of files, one for each processor's latency
    failed: list[str]  # runs of sweeps without a record, a line each


def read_runs(index: str | os.PathLike[str]) -> Reading:
    """Reads all records of the file `index` that can be read.

    Those of exported files are in `exports.jsonl` beside it, if there are any,
    and the runs that a sweep has lost in `failed.jsonl`.

    Raises:
        ValueError: if there is no such file.
    """
    path = Path(index)
    if not path.is_file():
        raise ValueError(
            f"No records at {str(index)!r}. Give --index the file index.jsonl "
            "of a folder of runs."
        )
    reading = Reading([], [], [], [], [])
    for number, found in scan_records(path):
        try:
            reading.runs.append(Run(number, _checked(found)))
        except ValueError as error:
            reading.faults.append(_tell(path, number, error))
    _read_exports(path.with_name(EXPORTS_FILE), reading)
    _read_failures(path.with_name(FAILED_FILE), reading)
    return reading


def _read_failures(path: Path, reading: Reading) -> None:
    """Adds runs that failed and have no record, each with its last error."""
    if not path.is_file():
        return
    known = {slug for run in reading.runs for slug in run.record.slugs}
    errors: dict[str, str] = {}
    for number, found in scan_lines(path, _parse_failure):
        if isinstance(found, ValueError):
            reading.faults.append(_tell(path, number, found))
        elif found[0] not in known:
            errors[found[0]] = found[1]
    reading.failed.extend(
        _shorten(one_line(f"{slug} has failed: {error}"))
        for slug, error in errors.items()
    )


def _parse_failure(line: str) -> tuple[str, str]:
    """The name of a run, and its error."""
    values = json.loads(line)
    return (
        _field(values, "failure", "slug", str),
        _field(values, "failure", "error", str),
    )


def _read_exports(path, reading):
    """Adds the records of files; a later line of a file is what counts."""
    if not path.is_file():
        return
    known: dict[tuple[str, ...], ExportRecord] = {}
    timed: dict[tuple[str, ...], ExportRecord] = {}
    for number, found in scan_lines(path, ExportRecord.from_json):
        try:
            record = _checked_export(found)
        except ValueError as error:
            reading.faults.append(_tell(path, number, error))
            continue
        file = (record.run_key, record.sha256)
        if record.latency is None and file in known:  # exported again
            record = dataclasses.replace(record, latency=known[file].latency)
        known[file] = record
        if record.latency is not None:
            timed[*file, record.latency["hardware"]["processor"]] = record
    reading.exports.extend(known.values())
    reading.timed.extend(timed.values())


def _tell(path, number, error):
    """A fault in one line, short, with its place."""
    text = one_line(error)
    text = text.removeprefix(f"{path}, line {number}: ")
    return f"{path.name}, line {number}: {_shorten(text)}"


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def _checked_export(record: ExportRecord | ValueError) -> ExportRecord:
    """Returns a record of a file that the report can compute with.

    Raises:
        ValueError: if it is none, or a value is not what an export writes.
    """
    if isinstance(record, ValueError):
        raise record
    for part, fields in _EXPORT.items():
        values = getattr(record, part)
        for name, kind in fields.items():
            value = _field(values, part, name, kind)
            if kind is not str and kind is not list and not 0 < value < _MOST:
                raise _fault(f"{part}.{name}", value)
    for name in ("accuracy", "float_accuracy"):
        value = record.report.get(name)
        if value is not None and not _is_share(value):
            raise _fault(f"report.{name}", value)
    if record.latency is not None:
        _check_latency(record.latency)
    return record


def _check_latency(latency: Any) -> None:
    for name in ("threads", "median_ms", "ratio"):
        value = _field(latency, "latency", name, (int, float))
        if not 0 < value < _MOST:
            raise _fault(f"latency.{name}", value)
    _field(latency, "latency", "runtime", str)
    _field(latency.get("hardware"), "latency.hardware", "processor", str)


def _field(values: Any, part: str, name: str, kind: Any) -> Any:
    """Returns one of the values; a fault, unless it is of its kind."""
    value = values.get(name) if _is(values, dict) else None
    if not _is(value, kind):
        raise _fault(f"{part}.{name}", value)
    return value


def _checked(record: RunRecord | ValueError) -> RunRecord:
    """Returns a record whose values the report can compute with.

    Raises:
        ValueError: if it is none, or a value is not what a run writes.
    """
    if isinstance(record, ValueError):
        raise record
    for name, kind in _CONFIG.items():
        _field(record.config, "config", name, kind)
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
    for name in ("hardware", "versions"):
        if not _is(getattr(record, name), dict):
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
    _check_predictions(record)
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


def _check_predictions(record: RunRecord) -> None:
    kept = record.test_predictions
    if kept is None:
        return
    try:
        names, rows = kept["class_names"], kept["confusion"]
        classes = range(len(names))
        whole = all(
            _is(name, str) and len(row) == len(names)
            for name, row in zip(names, rows, strict=True)
        )
        counts = [count for row in rows for count in row]
        worst = [
            (one["label"], one["predicted"], one["index"], one["probability"])
            for one in kept["worst"]
        ]
    except (TypeError, KeyError, ValueError):
        raise _fault("test_predictions", kept) from None
    if not whole or not all(_is(n, int) and n >= 0 for n in counts):
        raise _fault("test_predictions.confusion", rows)
    if sum(counts) != record.test_images:
        raise _fault("test_predictions.confusion's sum", sum(counts))
    try:
        right = int(unpack_correct(kept).sum())
    except (TypeError, KeyError, ValueError):
        right = None
    if right != sum(row[label] for label, row in enumerate(rows)):
        raise _fault("test_predictions.correct", kept.get("correct"))
    for label, predicted, index, probability in worst:
        images = range(record.test_images)
        if not (
            all(_is(number, int) for number in (label, predicted, index))
            and (label in classes and predicted in classes and index in images)
            and _is_share(probability)
        ):
            raise _fault("test_predictions.worst", worst)


def _is(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_share(value: Any) -> bool:
    return _is(value, (int, float)) and 0 <= value <= 1


def _fault(name: str, value: Any) -> ValueError:
    return ValueError(f"Not what a run writes: {name} = {value!r}.")
