"""Files that are written: whole or not at all, by one process at a time."""

import contextlib
import errno
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from gnsmall_keras.lines import one_line

UNFINISHED = "unfinished-"  # begins names of files that are being written


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
def naming(path: str | os.PathLike[str]) -> Generator[None]:
    """Gives errors of the system that name no file, as a full disk's, one."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        text = error.strerror or one_line(error)
        number = error.errno or errno.EIO
        raise OSError(number, text, os.fspath(path)) from None


def check_writable(path: str | os.PathLike[str], name: str) -> None:
    """Checks, before hours of work, that a file can be written in the end.

    Args:
        path: of the file, which may be there, as may its folders.
        name: what messages call it.

    Raises:
        ValueError: if it is a folder, or the system does not allow it.
    """
    path = Path(path)
    there = path
    while not os.path.lexists(there):
        there = there.parent
    if path.is_dir():
        fault = "which is a folder"
    elif there != path and not there.is_dir():
        fault = f"but {there} is no folder"
    elif there == path and not path.is_file():
        fault = "which is no plain file"
    elif not os.access(there, os.W_OK if there == path else os.W_OK | os.X_OK):
        fault = f"but nothing may be written to {there}"
    else:
        return
    raise ValueError(
        f"`{name}` must be a file that can be written. Received: {path}, "
        f"{fault}. Give another."
    )


def cache_folder() -> Path:
    """Returns where this package caches: in XDG_CACHE_HOME or ~/.cache.

    Raises:
        OSError: if there is no home folder.
    """
    place = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(place or Path.home() / ".cache") / "gnsmall_keras"
    except RuntimeError:  # no HOME, and a user without an entry
        raise OSError("there is no home folder for a cache") from None


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Generator[Path]:
    """Yields a temporary path beside `path` that takes its place at the end.

    Of a link it is the file behind. On an error the temporary file is removed
    and `path` stays as it was.
    """
    path = Path(path)
    behind = Path(os.path.realpath(path)) if path.is_symlink() else path
    # Its ending says to some writers what it is.
    unfinished = behind.with_name(f"{UNFINISHED}{path.name}")
    try:
        with naming(path):
            yield unfinished
            unfinished.replace(behind)
    finally:
        unfinished.unlink(missing_ok=True)
