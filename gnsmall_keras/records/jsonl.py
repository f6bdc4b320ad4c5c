"""Lines of JSON in a file: appended by one process at a time, read, merged."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeVar, cast

_Parsed = TypeVar("_Parsed")


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
