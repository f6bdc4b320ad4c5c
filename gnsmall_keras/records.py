"""Run records: one JSON line a run, appended under a lock."""

import contextlib
import dataclasses
import importlib.metadata
import itertools
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeVar, cast

SCHEMA = 3
OLDEST_SCHEMA = 2  # that is still read
# Fields younger than the oldest schema, and the schema they came with. A line
# has exactly the fields of its own schema; the younger ones are then None.
_YOUNGER = {"test_predictions": 3}
_Parsed = TypeVar("_Parsed")
RECORD_FILE = "record.json"  # in a run's folder
MODEL_FILE = "model.keras"  # beside it
INDEX_FILE = "index.jsonl"  # in the folder of all runs
_PACKAGES = (
    "gnsmall-keras",
    "keras",
    "tensorflow",
    "jax",
    "torch",
    "numpy",
    "ai-edge-litert",
    "tflite-micro",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What one finished run was, and what came of it. Accuracies in [0, 1].

    A record of an older schema stays of it, also when it is written again.
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
    test_predictions: dict[str, Any] | None = None
    schema: int = SCHEMA

    @property
    def key(self) -> str:
        """What a repeated line has in common with the first."""
        return f"{self.digest} {self.started_at}"

    @property
    def sources(self) -> list[str]:
        """Whom it learned from: runs, files and networks."""
        config = self.config
        cache = [config["cache"]] if config.get("cache") else []
        named = (config.get(name, ()) for name in ("teachers", "assistants"))
        return [*itertools.chain.from_iterable(named), *cache]

    @property
    def machines(self) -> str:
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
        return " and ".join(sorted(names))

    def to_json(self) -> str:
        """Returns the record as one line of JSON, without the line's end."""
        values = dataclasses.asdict(self)
        kept = {name: values[name] for name in _field_names(self.schema)}
        return json.dumps(kept, sort_keys=True)

    @classmethod
    def from_json(cls, line: str) -> "RunRecord":
        """Reads a record back.

        Raises:
            ValueError: if `line` is not JSON or not of a schema that is read.
        """
        fields = parse_object(line)
        schema = fields.get("schema", SCHEMA)
        if schema not in range(OLDEST_SCHEMA, SCHEMA + 1):
            raise ValueError(
                f"A record's schema must be {OLDEST_SCHEMA} to {SCHEMA}. "
                f"Received: {schema!r}."
            )
        names = _field_names(schema)
        if set(fields) != names:
            raise ValueError(
                f"A record needs exactly the fields of schema {schema}. "
                f"Missing: {sorted(names - set(fields))}; "
                f"unknown: {sorted(set(fields) - names)}."
            )
        return cls(**fields)


def parse_object(line: str) -> dict[str, Any]:
    """Returns the JSON object that a line holds.

    Raises:
        ValueError: if it holds none.
    """
    try:
        values: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"Not a JSON record: {error}.") from None
    if not isinstance(values, dict):
        raise ValueError(f"A record is a JSON object. Received: {line!r}.")
    return cast("dict[str, Any]", values)


def _field_names(schema: int) -> set[str]:
    """The fields that a record of a schema has."""
    return {
        field.name
        for field in dataclasses.fields(RunRecord)
        if _YOUNGER.get(field.name, OLDEST_SCHEMA) <= schema
    }


class Keyed(Protocol):
    """A record of any kind, to be merged."""

    @property
    def key(self) -> str:
        """What a repeated line has in common with the first."""
        ...

    def to_json(self) -> str:
        """Returns the record as one line of JSON, without the line's end."""
        ...


class Merged(NamedTuple):
    """What came of a merge of files."""

    records: int  # in the new file
    repeated: int  # left out
    faults: list[str]  # lines that are no records, with file and number


def append_record(record: RunRecord, index: str | os.PathLike[str]) -> None:
    """Appends `record` to the file `index` as one line, if it is not there.

    Processes that append at once wait for each other (POSIX `flock`).
    """
    append_line(record.to_json(), index)


def append_line(text: str, lines: str | os.PathLike[str]) -> None:
    """Appends `text` to the file `lines`, as `append_record` does."""
    path = Path(lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    line = text.encode() + b"\n"
    with path.open("ab+") as file:
        lock(file)
        file.seek(0)
        last = b"\n"
        for last in file:
            if last == line:
                return
        # A line cut short by a full disk must not swallow this one.
        if not last.endswith(b"\n"):
            line = b"\n" + line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def lock(file: BinaryIO, *, wait: bool = True) -> None:
    """Holds a file alone, until it is closed; does nothing on Windows.

    Raises:
        BlockingIOError: if another process has it and `wait` is False.
    """
    if sys.platform == "win32":
        return
    import fcntl

    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Generator[Path]:
    """Yields a temporary path beside `path` that takes its place at the end.

    On an error the temporary file is removed and `path` stays as it was.
    """
    path = Path(path)
    unfinished = path.with_name(f"unfinished-{path.name}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_records(index: str | os.PathLike[str]) -> Iterator[RunRecord]:
    """Yields the records of the file `index` in order.

    Raises:
        ValueError: at a line that is not a record, with its number.
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


def scan_lines(
    lines: str | os.PathLike[str], parse: Callable[[str], _Parsed]
) -> Iterator[tuple[int, _Parsed | ValueError]]:
    """Yields what lines are parsed to, and errors in others' places.

    Before each is the number of its line, which an error says as well. An empty
    line is an error: nothing writes one.
    """
    text = Path(lines).read_bytes().removesuffix(b"\n")
    for number, line in enumerate(text.split(b"\n") if text else (), 1):
        try:
            if not line.strip():
                raise ValueError("The line is empty.")
            yield number, parse(line.decode())
        except ValueError as error:
            yield number, ValueError(f"{lines}, line {number}: {error}")


def merge_records(
    indices: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    parse: Callable[[str], Keyed] = RunRecord.from_json,
) -> Merged:
    """Writes the records of several files into one, each once.

    A record is repeated where one before it has the same key: of runs the
    digest and the start.

    Args:
        indices: the files, earlier ones first.
        out: the new file; may be one of them.
        parse: from a line to a record of their kind.
    """
    found: dict[str, Keyed] = {}
    count = 0
    faults: list[str] = []
    for index in indices:
        for _, record in scan_lines(index, parse):
            if isinstance(record, ValueError):
                faults.append(str(record))
            else:
                count += 1
                found.setdefault(record.key, record)
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished:
        lines = (record.to_json() + "\n" for record in found.values())
        unfinished.write_text("".join(lines), encoding="utf-8")
    return Merged(len(found), count - len(found), faults)


def package_versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages a result rests on."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def describe_hardware() -> dict[str, Any]:
    """Returns the processor's name, its cores and the operating system."""
    return {
        "processor": _processor_name(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def source_commit() -> str:
    """Returns the commit of this package's checkout, or "unknown".

    "+changes" is added where tracked files differ from the commit.
    """
    folder = Path(__file__).parent
    try:
        commit = _git("rev-parse", "HEAD", folder=folder)
        tracked = _git("ls-files", "--", "records.py", folder=folder)
        changes = _git(
            "status", "--porcelain", "--untracked-files=no", folder=folder
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    if not tracked:  # installed inside somebody else's checkout
        return "unknown"
    return commit + ("+changes" if changes else "")


def _git(*arguments: str, folder: Path) -> str:
    done = subprocess.run(
        ["git", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
