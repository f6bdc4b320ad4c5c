"""One process at a time works on a run."""

import contextlib
import json
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from gnsmall_keras.lines import say
from gnsmall_keras.writing import lock

LOCK_FILE = "training.lock"  # in a run's folder, while it is trained


@contextlib.contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Holds a run's folder; waits for another process that holds it.

    A line on stderr says who that is. The lock is the system's: it ends with
    its process, however that ends (on Windows there is none).

    Raises:
        ValueError: if the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise ValueError(
            "`out` must be a folder in which runs can have theirs. Received: "
            f"{folder.parent} ({error.strerror}). Give another."
        ) from None
    path = folder / LOCK_FILE
    file = _take(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()
        with contextlib.suppress(OSError):
            folder.rmdir()  # where nothing was begun


def _take(path):
    while True:
        file = path.open("a+b")
        try:
            lock(file, wait=False)
        except BlockingIOError:
            say(
                f"{_holder(file)} is training {path.parent}; waiting until it "
                "ends. Press Ctrl-C to stop waiting."
            )
            lock(file)
        if sys.platform == "win32" or _is_at(file, path):
            break
        file.close()  # who held it has removed it; another may be there
    file.truncate(0)
    about = {"pid": os.getpid(), "machine": platform.node()}
    file.write(json.dumps(about).encode())
    file.flush()
    return file


def _is_at(file, path):
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def _holder(file):
    try:
        file.seek(0)
        about = json.loads(file.read(1000))
        return f"process {about['pid']} on {about['machine']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
