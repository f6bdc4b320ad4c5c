"""Reads records line by line; a broken line is reported and skipped."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from gnsmall_keras.lines import one_line
from gnsmall_keras.records.export import EXPORTS_FILE, ExportRecord
from gnsmall_keras.records.jsonl import scan_lines
from gnsmall_keras.records.predictions import unpack_correct
from gnsmall_keras.records.run import FAILED_FILE, RunRecord, scan_records

_LONGEST = 240  # characters of a fault
_MOST = 1e12  # of anything that is drawn
# Rules of values, each with the names of those that it is of.
_Rules = Mapping[Callable[[Any], bool], tuple[str, ...]]


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
    hidden: Sequence[Run] = ()  # not shown, but others may have learned of them


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
    _check({"failure": values}, _FAILURE)
    return values["slug"], values["error"]


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
    values = {"source": record.source, "report": record.report}
    _check(values, _EXPORT, _EXPORT_OPTIONAL)
    if record.latency is not None:
        _check({"latency": record.latency}, _LATENCY)
    return record


def _checked(record: RunRecord | ValueError) -> RunRecord:
    """Returns a record whose values the report can compute with.

    Raises:
        ValueError: if it is none, or a value is not what a run writes.
    """
    if isinstance(record, ValueError):
        raise record
    _check(vars(record), _RUN, _RUN_OPTIONAL)
    _check_distillation(record.distillation)
    _check_predictions(record)
    return record


def _check(
    values: Mapping[str, Any],
    needed: _Rules,
    optional: _Rules = MappingProxyType({}),
) -> None:
    """Checks values by their rules; those of `optional` may be missing."""
    for rules, default in ((needed, None), (optional, _MISSING)):
        for rule, names in rules.items():
            for name in names:
                value = _find(values, name, default)
                if value is not _MISSING and not rule(value):
                    raise _fault(name, value)


def _find(values: Any, name: str, default: Any) -> Any:
    """A value by its name: "config.width" is the width in the config."""
    for key in name.split("."):
        if not isinstance(values, dict) or key not in values:
            return default
        values = values[key]
    return values


def _check_distillation(distillation: Any) -> None:
    if distillation is None:
        return
    try:
        teachers = distillation["teachers"]
        names = [(one["name"], one["weights_digest"]) for one in teachers]
    except (TypeError, KeyError):
        raise _fault("distillation", distillation) from None
    if not all(_is_text(text) for pair in names for text in pair):
        raise _fault("distillation.teachers", names)


def _check_predictions(record: RunRecord) -> None:
    kept = record.test_predictions
    if kept is None:
        return
    try:
        names, rows = kept["class_names"], kept["confusion"]
        classes = range(len(names))
        whole = all(
            _is_text(name) and len(row) == len(names)
            for name, row in zip(names, rows, strict=True)
        )
        counts = [count for row in rows for count in row]
        worst = [
            (one["label"], one["predicted"], one["index"], one["probability"])
            for one in kept["worst"]
        ]
    except (TypeError, KeyError, ValueError):
        raise _fault("test_predictions", kept) from None
    if not whole or not all(_is_whole(n) and n >= 0 for n in counts):
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
            all(map(_is_whole, (label, predicted, index)))
            and (label in classes and predicted in classes and index in images)
            and _is_share(probability)
        ):
            raise _fault("test_predictions.worst", worst)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or _is_whole(value)


def _is_drawable(value: Any) -> bool:
    return _is_number(value) and 0 <= value < _MOST


def _is_positive(value: Any) -> bool:
    return _is_drawable(value) and value > 0


def _is_count(value: Any) -> bool:
    return _is_whole(value) and _is_positive(value)


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_share_or_none(value: Any) -> bool:
    return value is None or _is_share(value)


def _is_protocol(value: Any) -> bool:
    return value in ("validation", "paper")


def _are_texts(value: Any) -> bool:
    return _is_list(value) and all(map(_is_text, value))


def _are_shares(value: Any) -> bool:
    return _is_list(value) and all(map(_is_share, value))


def _fault(name: str, value: Any) -> ValueError:
    return ValueError(f"Not what a run writes: {name} = {value!r}.")


_MISSING = object()
_RUN: _Rules = {
    _is_text: (
        *("config.model", "config.data", "config.recipe"),
        *("slug", "digest", "data_digest", "backend", "started_at"),
    ),
    _is_whole: ("config.seed",),
    _is_count: ("recipe.epochs",),
    _is_positive: ("config.width",),
    _is_protocol: ("config.protocol",),
    _is_object: ("hardware", "versions", "history"),
    _is_drawable: (
        *("deployed_parameters", "deployed_macs", "test_images"),
        *("validation_images", "train_seconds"),
    ),
    _is_share_or_none: (
        "validation_accuracy",
        "test_accuracy",
        "best_test_accuracy",
    ),
}
_RUN_OPTIONAL: _Rules = {
    _are_shares: ("history.accuracy", "history.val_accuracy"),
    _are_texts: ("config.teachers", "config.assistants"),
    _is_text: ("config.strategy", "config.cache"),
}
_EXPORT: _Rules = {
    _is_text: (
        *("source.slug", "source.digest", "source.started_at"),
        *("source.model", "report.path", "report.sha256"),
        *("report.target", "report.quantization"),
    ),
    _is_positive: ("source.width", "source.head_units"),
    _is_count: ("source.deployed_parameters", "report.size_bytes"),
    _is_list: ("report.faults",),
}
_EXPORT_OPTIONAL: _Rules = {
    _is_share_or_none: ("report.accuracy", "report.float_accuracy"),
}
_LATENCY: _Rules = {
    _is_positive: ("latency.threads", "latency.median_ms", "latency.ratio"),
    _is_text: ("latency.runtime", "latency.hardware.processor"),
}
_FAILURE: _Rules = {_is_text: ("failure.slug", "failure.error")}
