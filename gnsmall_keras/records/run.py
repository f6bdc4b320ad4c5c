"""Run records: one JSON line a run, appended under a lock."""

import dataclasses
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from gnsmall_keras import fields
from gnsmall_keras.config import RunConfig
from gnsmall_keras.fields import Since
from gnsmall_keras.records.jsonl import append_line, parse_record, scan_lines

SCHEMA = 4
_SCHEMAS = range(2, SCHEMA + 1)  # that are read
RECORD_FILE = "record.json"  # in a run's folder
MODEL_FILE = "model.keras"  # beside it
INDEX_FILE = "index.jsonl"  # in the folder of all runs
FAILED_FILE = "failed.jsonl"  # beside it: a sweep's runs that failed


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What one finished run was, and what came of it. Accuracies in [0, 1].

    A record of an older schema stays of it, also when it is written again;
    fields that came later are None.

    Example:
        >>> records = gns.read_records("papermill_runs/index.jsonl")
        >>> record = max(records, key=lambda one: one.test_accuracy or 0)
        >>> record.test_accuracy > 0.9, record.test_images
        (True, 10000)
    """

    slug: str
    digest: str
    config: dict[str, Any]
    recipe: dict[str, Any]
    data_digest: str
    backend: str
    parameters: int
    deployed_parameters: int
    deployed_macs: int
    train_images: int
    validation_images: int
    test_images: int
    train_loss: float
    validation_accuracy: float | None
    test_accuracy: float | None
    best_test_accuracy: float | None  # protocol "paper" only
    distillation: dict[str, Any] | None  # teachers, and assistants' stages
    history: dict[str, list[float]]
    train_seconds: float
    started_at: str  # UTC, ISO 8601
    commit: str
    hardware: dict[str, Any]
    versions: dict[str, str]
    # `predictions.describe` has its form; None as well without a test split.
    test_predictions: Annotated[dict[str, Any] | None, Since(3)] = None
    # `Dataset.describe` has its form.
    images: Annotated[dict[str, Any] | None, Since(4)] = None
    schema: int = SCHEMA

    @property
    def key(self) -> str:
        """What a repeated line has in common with the first."""
        return f"{self.slug} {self.started_at}"

    @property
    def slugs(self) -> tuple[str, ...]:
        """Its slug, then those that its config has in any version."""
        try:
            names = RunConfig(**self.config).names
        except (TypeError, ValueError):  # of another version
            names = ()
        return tuple(dict.fromkeys((self.slug, *(one.slug for one in names))))

    @property
    def sources(self) -> list[str]:
        """Whom it learned from: runs, files and networks."""
        config = self.config
        cache = [config["cache"]] if config.get("cache") else []
        named = (config.get(name, ()) for name in ("teachers", "assistants"))
        return [*itertools.chain.from_iterable(named), *cache]

    @property
    def agreements(self) -> dict[str, float]:
        """Part of the images held out that it classifies as each teacher does.

        By the teacher's name; none in older records.
        """
        return (self.distillation or {}).get("agreement", {})

    @property
    def machine_names(self) -> set[str]:
        """The GPUs it was trained on, or else the processor, by name.

        Of each machine, where a training went on elsewhere.
        """
        names: set[str] = set()
        for machine in (self.hardware, *self.hardware.get("before", ())):
            gpus = {
                device.partition("(")[2].rstrip(")")
                for device in machine.get("devices", ())
                if device.startswith("gpu")
            }
            names |= gpus or {str(machine.get("processor"))}
        return names

    @property
    def machines(self) -> str:
        """`machine_names` as text."""
        return " and ".join(sorted(self.machine_names))

    @property
    def commits(self) -> list[str]:
        """Those that trained it: of each session, of its assistants too.

        The one that ended it alone, where a record is too old for others.
        """
        stages = (self.distillation or {}).get("stages", ())
        sessions = [
            *itertools.chain.from_iterable(
                stage.get("sessions", ()) for stage in stages
            ),
            *self.hardware.get("before", ()),
        ]
        found = [one["commit"] for one in sessions if "commit" in one]
        return list(dict.fromkeys([*found, self.commit]))

    def to_json(self) -> str:
        """Returns the record as one line of JSON, without the line's end."""
        values = dataclasses.asdict(self)
        names = fields.names(RunRecord, self.schema)
        kept = {name: values[name] for name in names}
        return json.dumps(kept, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> "RunRecord":
        """Reads a record back.

        Raises:
            ValueError: if `line` is not JSON or not of a schema that is read.
        """
        return parse_record(line, cls, _SCHEMAS)

    @classmethod
    def read(cls, path: Path) -> "RunRecord":
        """Reads the record in a run's folder.

        Raises:
            ValueError: if the file does not hold one.
        """
        return cls.from_json(path.read_text("utf-8"))


def append_record(record: RunRecord, index: str | os.PathLike[str]) -> bool:
    """Appends `record` to the file `index` as one line, if it is not there.

    Returns:
        Whether it was appended.
    """
    return append_line(record.to_json(), index)


def read_records(index: str | os.PathLike[str]) -> Iterator[RunRecord]:
    """Yields the records of the file `index` in order.

    Args:
        index: JSON-lines file.

    Raises:
        ValueError: at a line that is not a record, with its number.

    Example:
        >>> records = list(gns.read_records("papermill_runs/index.jsonl"))
        >>> records[0].config["model"]
        'gns'
    """
    for _, record in scan_records(index):
        if isinstance(record, ValueError):
            raise record
        yield record


def scan_records(
    index: str | os.PathLike[str],
) -> Iterator[tuple[int, RunRecord | ValueError]]:
    """Yields the records of the file `index`, as `scan_lines` does."""
    return scan_lines(index, RunRecord.from_json)
