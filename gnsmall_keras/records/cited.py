"""Cited records: what others published, or what was measured elsewhere.

A run's record and a file's are written by the command that made them. A
cited one is written by hand and names its source.
"""

import dataclasses
import json
import math
import os
from importlib import resources
from pathlib import Path
from typing import Any, cast

from gnsmall_keras.records.jsonl import parse_object, scan_lines

SCHEMA = 1
KIND = "cited"
CITED_FILE = "cited.jsonl"
_TEXTS = ("name", "source", "kind")
_PERCENTS = ("float_percent", "int8_percent")
_COUNTS = (
    *("parameters", "macs", "size_bytes", "arena_bytes"),
    *("operators", "instructions", "test_images", "runs"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CitedRecord:
    """A network, or one of our files, as a source has it.

    Accuracies are of CIFAR-10's test split, in percent as published.

    Attributes:
        name: of the network or of the file.
        source: where the numbers stand, or what measured them.
        sha256: of the published file of ours that they are about; None for
            networks of others.
        float_percent: accuracy in float.
        int8_percent: accuracy of the int8 file.
        test_images: how many images the accuracies are of; None: all 10,000.
        runs: of how many trainings they are the mean.
        parameters: of the network as it is deployed.
        macs: multiply-accumulates of an image.
        size_bytes: of the int8 file.
        operators: of the int8 file.
        arena_bytes: of TensorFlow Lite Micro on a PC.
        instructions: of a Cortex-M4 for one image.
        latencies: time of one image on XNNPACK with one thread, as a ratio to
            MLPerf Tiny's large ResNet-8 in the same run, by processor.
    """

    name: str
    source: str
    sha256: str | None = None
    float_percent: float | None = None
    int8_percent: float | None = None
    test_images: int | None = None
    runs: int = 1
    parameters: int | None = None
    macs: int | None = None
    size_bytes: int | None = None
    operators: int | None = None
    arena_bytes: int | None = None
    instructions: int | None = None
    latencies: dict[str, float] = dataclasses.field(
        default_factory=dict[str, float]
    )
    kind: str = KIND
    schema: int = SCHEMA

    def to_json(self) -> str:
        """Returns the record as one line of JSON, without what is None."""
        values = dataclasses.asdict(self)
        known = {k: v for k, v in values.items() if v is not None and v != {}}
        return json.dumps(known, sort_keys=True)

    @classmethod
    def from_json(cls, line: str) -> "CitedRecord":
        """Reads a record back.

        Raises:
            ValueError: if `line` is not JSON, not of this kind and schema, or
                has no source or a value that cannot be.
        """
        fields = parse_object(line)
        kind, schema = fields.get("kind"), fields.get("schema")
        if (kind, schema) != (KIND, SCHEMA):
            raise ValueError(
                f"A cited record has kind {KIND!r} and schema {SCHEMA}. "
                f"Received: {kind!r} and {schema!r}."
            )
        names = {field.name for field in dataclasses.fields(cls)}
        if not set(fields) <= names or not {*_TEXTS} <= set(fields):
            raise ValueError(
                f"A cited record has {sorted(_TEXTS)} and may have "
                f"{sorted(names - {*_TEXTS})}. Received: {sorted(fields)}."
            )
        for name, value in fields.items():
            if not _is_valid(name, value):
                raise ValueError(
                    f"Not what a cited record may say: {name} = {value!r}."
                )
        return cls(**fields)


def _is_valid(name: str, value: Any) -> bool:
    if name == "schema":
        return True
    if name == "latencies":
        if not isinstance(value, dict):
            return False
        values = cast("dict[str, Any]", value).values()
        return all(_is_number(one, math.inf) for one in values)
    if name in _PERCENTS:
        return _is_number(value, 100)
    if name in _COUNTS:
        return isinstance(value, int) and _is_number(value, math.inf)
    return isinstance(value, str) and bool(value.strip())


def _is_number(value: Any, most: float) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and 0 < value <= most
    )


def read_cited(
    path: str | os.PathLike[str] | None = None,
) -> list[CitedRecord]:
    """Reads cited records, in the file's order.

    Args:
        path: JSON-lines file; by default the one that comes with the package.

    Raises:
        ValueError: if a line is no cited record, or there is no file.
    """
    if path is None:
        path = Path(str(resources.files("gnsmall_keras"))) / "records"
        path /= CITED_FILE
    records: list[CitedRecord] = []
    for _, found in scan_lines(path, CitedRecord.from_json):
        if isinstance(found, ValueError):
            raise found
        records.append(found)
    return records
