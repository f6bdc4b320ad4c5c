"""Lines of JSON in a file: appended by one process at a time, read, merged."""

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeVar, cast

from gnsmall_keras import fields
from gnsmall_keras.writing import lock, naming, replacing

_Parsed = TypeVar("_Parsed")
_MAX_LINE_BYTES = 2**24  # the longest record so far has 16 kB


def parse_object(line: str) -> dict[str, Any]:
    """Returns the JSON object that a line holds.

    Raises:
        ValueError: if it holds none.
    """
    try:
        values: Any = json.loads(
            line, parse_constant=_finite, parse_float=_finite
        )
        json.dumps(values, ensure_ascii=False).encode()  # half a surrogate?
    except RecursionError:
        raise ValueError("Not a JSON record: nested too deeply.") from None
    except UnicodeEncodeError:
        raise ValueError("Not a JSON record: text is not Unicode.") from None
    except ValueError as error:
        raise ValueError(f"Not a JSON record: {error}.") from None
    if not isinstance(values, dict):
        raise ValueError(f"A record is a JSON object. Received: {line!r}.")
    return cast("dict[str, Any]", values)


def _finite(text: str) -> float:
    """The number, which standard JSON may hold."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number of standard JSON")
    return number


def parse_record(line: str, kind: type[_Parsed], schemas: range) -> _Parsed:
    """Reads a record back.

    It has exactly the fields of the schema that it names; younger ones have
    their defaults.

    Args:
        line: of JSON.
        kind: of record.
        schemas: that are read.

    Raises:
        ValueError: if `line` is not JSON or not of one of the schemas.
    """
    values = parse_object(line)
    schema = values.get("schema", schemas[-1])
    if schema not in schemas:
        read = " to ".join(map(str, sorted({schemas[0], schemas[-1]})))
        younger = isinstance(schema, int) and schema > schemas[-1]
        cure = (
            " A newer version wrote it: pip install -U gnsmall-keras."
            if younger
            else ""
        )
        raise ValueError(
            f"A record's schema must be {read}. Received: {schema!r}.{cure}"
        )
    names = fields.names(kind, schema)
    if set(values) != names:
        raise ValueError(
            f"A record needs exactly the fields of schema {schema}. "
            f"Missing: {sorted(names - set(values))}; "
            f"unknown: {sorted(set(values) - names)}."
        )
    return kind(**values)


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
    differing: list[str]  # repeated lines that are not as the kept one, as well


@contextlib.contextmanager
def _alone(path: Path) -> Generator[BinaryIO]:
    """Opens a file to read and append, by one process at a time."""
    while True:
        with path.open("ab+") as file:
            lock(file)
            # A merge may have put another in its place meanwhile.
            try:
                same = os.path.samestat(os.fstat(file.fileno()), path.stat())
            except FileNotFoundError:
                same = False
            if same:
                yield file
                return


def append_line(text: str, lines: str | os.PathLike[str]) -> bool:
    """Appends `text` to the file `lines`, if it is not there.

    Processes that append at once wait for each other (POSIX `flock`).

    Returns:
        Whether it was appended.
    """
    path = Path(lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    line = text.encode() + b"\n"
    with naming(path), _alone(path) as file:
        file.seek(0)
        last = b"\n"
        for last in file:
            if last == line:
                return False
        # A line cut short by a full disk must not swallow this one.
        if not last.endswith(b"\n"):
            line = b"\n" + line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    return True


def scan_lines(
    lines: str | os.PathLike[str], parse: Callable[[str], _Parsed]
) -> Iterator[tuple[int, _Parsed | ValueError]]:
    """Yields what lines are parsed to, and errors in others' places.

    Before each is the number of its line, which an error says as well. An empty
    line is an error: nothing writes one.
    """
    with Path(lines).open("rb") as file:
        number = 0
        while line := file.readline(_MAX_LINE_BYTES):
            number += 1
            try:
                if not line.strip():
                    raise ValueError("The line is empty.")
                if len(line) == _MAX_LINE_BYTES and not line.endswith(b"\n"):
                    while line and not line.endswith(b"\n"):
                        line = file.readline(_MAX_LINE_BYTES)
                    raise ValueError(
                        f"The line is longer than {_MAX_LINE_BYTES:,} bytes."
                    )
                yield number, parse(line.removesuffix(b"\n").decode())
            except ValueError as error:
                yield number, ValueError(f"{lines}, line {number}: {error}")


def merge_records(
    indices: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    parse: Callable[[str], Keyed],
) -> Merged:
    """Writes the records of several files into one, each once.

    A record is repeated where one before it has the same key; that one is kept,
    whatever else they differ in.

    Args:
        indices: the files, earlier ones first.
        out: the new file; may be one of them, if all its lines are records.
        parse: from a line to a record.

    Raises:
        ValueError: if `out` is there and would lose lines.
    """
    path = Path(out)
    taken = [Path(index) for index in indices if _is_same(index, path)]
    if path.exists() and not taken:
        raise ValueError(
            "`out` must be a new file, or one of those that are merged. "
            f"Received: {out}, which is there. Name it before --out too, to "
            "keep its lines, or give another."
        )
    found: dict[str, Keyed] = {}
    count = 0
    faults: list[str] = []
    differing: list[str] = []
    # What others append has to wait. On Windows no open file can be replaced.
    held = taken and sys.platform != "win32"
    with _alone(path) if held else contextlib.nullcontext():
        for index in indices:
            for number, record in scan_lines(index, parse):
                if not isinstance(record, ValueError):
                    count += 1
                    first = found.setdefault(record.key, record)
                    if record != first:
                        place = f"{index}, line {number}"
                        differing.append(f"{place}: {record.key}")
                    continue
                if Path(index) in taken:
                    raise ValueError(
                        f"A merge into {out} would delete what is no record "
                        f"there. {record} Correct it, or give another --out."
                    )
                faults.append(str(record))
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as unfinished:
            lines = (record.to_json() + "\n" for record in found.values())
            unfinished.write_text("".join(lines), encoding="utf-8")
    return Merged(len(found), count - len(found), faults, differing)


def _is_same(index: str | os.PathLike[str], path: Path) -> bool:
    return path.exists() and path.samefile(index)
