"""Export records: one JSON line for each file that came of a run."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from gnsmall_keras.records.jsonl import append_line, parse_record, scan_lines
from gnsmall_keras.records.provenance import utc_now
from gnsmall_keras.records.run import RECORD_FILE, RunRecord

SCHEMA = 1
EXPORTS_FILE = "exports.jsonl"  # beside the index of runs


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatencyRecord:
    """How long one image takes, as `ExportRecord.latency` has it."""

    runtime: str  # "litert"
    threads: int
    median_ms: float
    p90_ms: float
    # To the int8 large ResNet of MLPerf Tiny, timed in the same run: what
    # machines can be compared by.
    ratio: float
    hardware: dict[str, Any]  # `provenance.describe_hardware`
    measured_at: str  # UTC, ISO 8601


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportRecord:
    """An exported file: its report, with the run it came of, and its latency.

    A line that follows with the same run and bytes takes its place; so a
    latency that is measured later is added without rewriting.
    """

    report: dict[str, Any]  # an `ExportReport`
    exported_at: str  # UTC, ISO 8601
    latency: dict[str, Any] | None = None  # a `LatencyRecord`
    schema: int = SCHEMA

    @property
    def source(self) -> dict[str, Any]:
        """The run and the network that it came of: `describe_source`."""
        return self.report["source"]

    @property
    def run_key(self) -> str:
        """Its run's `RunRecord.key`, which no other run has."""
        return f"{self.source['slug']} {self.source['started_at']}"

    @property
    def head_units(self) -> int:
        """Of the file's head; the network's own may have more."""
        return self.report.get("head_units") or self.source["head_units"]

    @property
    def is_whole(self) -> bool:
        """Whether the export left out no units of the head and no gates."""
        report = self.report
        return report.get("head_units") is None and not report.get(
            "folded_gates"
        )

    @property
    def sha256(self) -> str:
        """Of the file."""
        return self.report["sha256"]

    @property
    def key(self) -> str:
        """What a repeated line has in common with the first."""
        return self.to_json()

    def to_json(self) -> str:
        """Returns the record as one line of JSON, without the line's end."""
        return json.dumps(
            dataclasses.asdict(self), sort_keys=True, allow_nan=False
        )

    @classmethod
    def from_json(cls, line: str) -> "ExportRecord":
        """Reads a record back.

        Raises:
            ValueError: if `line` is not JSON or not of this schema.
        """
        record = parse_record(line, cls, range(1, SCHEMA + 1))
        try:
            _ = record.run_key, record.sha256
        except (TypeError, KeyError) as error:
            raise ValueError(
                "An export record names its run's slug and start, and its "
                f"file's sha256. Missing: {error}."
            ) from None
        return record


def describe_source(record: RunRecord) -> dict[str, Any]:
    """Returns what links a file to the run and to the network it came of.

    With model, width and head, the number of deployed parameters says how many
    classes there are, but nothing of the images' size.
    """
    sizes = ("model", "width", "head_units")
    return {
        "slug": record.slug,
        "digest": record.digest,
        "seed": record.config["seed"],
        "started_at": record.started_at,
        "data_digest": record.data_digest,
        **{name: record.config[name] for name in sizes},
        "deployed_parameters": record.deployed_parameters,
    }


def find_run(model: str | os.PathLike[str]) -> RunRecord | None:
    """Returns the record of the run that a model lies in; None elsewhere.

    Raises:
        ValueError: if the folder's record cannot be read.
    """
    path = Path(model).with_name(RECORD_FILE)
    if not path.is_file():
        return None
    try:
        record = RunRecord.read(path)
        describe_source(record)  # which files of it need
        return record
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is not the record of the run in its folder: {error} "
            "Remove it, or move the model to a folder of its own."
        ) from None


def append_export(
    report: dict[str, Any], exports: str | os.PathLike[str]
) -> None:
    """Appends a record of a file that was exported just now.

    An export that only repeats what the file's last record says appends none.

    Args:
        report: an `ExportReport` with its source.
        exports: the JSON-lines file of export records.
    """
    record = ExportRecord.from_json(
        ExportRecord(report=report, exported_at=utc_now()).to_json()
    )
    known = (
        _records_of(record.sha256, exports) if Path(exports).exists() else []
    )
    known = [one for one in known if one.run_key == record.run_key]
    if not known or known[-1].report != record.report:
        append_line(record.to_json(), exports)


def _records_of(
    sha256: str, exports: str | os.PathLike[str]
) -> list[ExportRecord]:
    return [
        record
        for _, record in scan_lines(exports, ExportRecord.from_json)
        if isinstance(record, ExportRecord) and record.sha256 == sha256
    ]


def find_export(exports: str | os.PathLike[str], sha256: str) -> ExportRecord:
    """Returns the last record of a file.

    Args:
        exports: the JSON-lines file of export records.
        sha256: of the .tflite file.

    Raises:
        ValueError: if no record is of that file.
    """
    known = _records_of(sha256, exports) if Path(exports).exists() else []
    if not known:
        raise ValueError(
            f"{exports} has no record of the file with SHA-256 {sha256}. "
            "Export it from the folder of its run."
        )
    return known[-1]


def append_latency(
    exports: str | os.PathLike[str], sha256: str, latency: LatencyRecord
) -> None:
    """Appends the last record of a file again, with its latency.

    Args:
        exports: the JSON-lines file of export records.
        sha256: of the .tflite file.
        latency: of that file.

    Raises:
        ValueError: if no record is of that file.
    """
    measured = dataclasses.replace(
        find_export(exports, sha256), latency=dataclasses.asdict(latency)
    )
    append_line(measured.to_json(), exports)
