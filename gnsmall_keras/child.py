"""Child processes that end with the one that started them, however that ends.

A child's standard input is a pipe; it ends with the process at its other end.
`working` starts a module in a process and a temporary folder of its own
(`python -m gnsmall_keras.child MODULE FOLDER`), which the child removes where
nobody else is left to.
"""

import contextlib
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Mapping
from pathlib import Path

_ERROR_LINES = 15  # of a child's output that failed
_ERRORS_FILE = "errors.txt"
_REFUSAL_FILE = "refusal.txt"
_REFUSED = 3  # exit status: the reason is in a file
_REMOVALS = 5  # of a folder that another thread still writes to


class Worker:
    """A module that waits in a process of its own for what it is to work on.

    Args:
        folder: for what it reads and writes; temporary.
        process: of it.
    """

    def __init__(self, folder: Path, process: "subprocess.Popen[bytes]"):
        self.folder = folder
        self._process = process

    def finish(self, failure: str) -> None:
        """Has it work on what is in the folder now; waits for its end.

        Args:
            failure: begins the message if it ends otherwise than it should.

        Raises:
            ValueError: if it refuses what it is given, or fails.
        """
        if self._process.stdin:
            with contextlib.suppress(BrokenPipeError):  # it is dead already
                self._process.stdin.write(b"\n")
                self._process.stdin.flush()
        status = self._process.wait()
        if status == _REFUSED:
            raise ValueError((self.folder / _REFUSAL_FILE).read_text("utf-8"))
        if status:
            text = (self.folder / _ERRORS_FILE).read_text("utf-8", "replace")
            lines = " | ".join(text.splitlines()[-_ERROR_LINES:])
            how = f"signal {-status}" if status < 0 else f"status {status}"
            raise ValueError(
                f"{failure}; the process ended by {how}, its last lines were: "
                f"{lines or '(none)'}"
            )


@contextlib.contextmanager
def working(
    module: str, variables: Mapping[str, str], *, speaks: bool = False
) -> Generator[Worker]:
    """Starts a module in a process of its own; ends it with the block.

    Args:
        module: with a function `work(folder)`, whose ValueErrors come back.
        variables: of its environment, beside those of this process.
        speaks: whether its standard output is this process's.
    """
    with tempfile.TemporaryDirectory(prefix="gnsmall-") as name:
        folder = Path(name)
        with (folder / _ERRORS_FILE).open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, module, name],
                stdin=subprocess.PIPE,
                stdout=None if speaks else subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, **variables},
            )
        with process:
            try:
                yield Worker(folder, process)
            finally:
                process.kill()


@contextlib.contextmanager
def lifeline() -> Generator[int]:
    """Yields a child's standard input, which ends with this process."""
    read, write = os.pipe()
    try:
        yield read
    finally:
        os.close(read)
        os.close(write)


def watch_starter(then: Callable[[], object]) -> None:
    """Calls a function when the process that started this one is gone."""

    def watch():
        while os.read(0, 1):
            continue
        then()

    threading.Thread(target=watch, daemon=True).start()


def _main(module: str, name: str) -> int:
    folder, told = Path(name), threading.Event()

    def watch():
        while os.read(0, 1):
            told.set()
        for _ in range(_REMOVALS):
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    work = importlib.import_module(module).work  # seconds, of TensorFlow
    told.wait()
    try:
        work(folder)
    except ValueError as error:
        (folder / _REFUSAL_FILE).write_text(str(error), "utf-8")
        return _REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
