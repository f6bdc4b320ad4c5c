"""Keeps frameworks' own lines off the terminal, unless something fails."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence

from gnsmall_keras.importing import AroundImport

LITERT_REMARKS = "INFO: "  # how LiteRT's lines begin that are no warnings


@contextlib.contextmanager
def captured(descriptors: Sequence[int] = (1, 2)) -> Iterator[Callable]:
    """Catches what is written to stdout and stderr, by C++ too.

    Yields:
        A function that returns what was caught so far.
    """
    with tempfile.TemporaryFile() as file:
        saved = {descriptor: os.dup(descriptor) for descriptor in descriptors}
        for descriptor in saved:
            os.dup2(file.fileno(), descriptor)

        def read() -> str:
            file.seek(0)
            return file.read().decode(errors="replace").strip()

        try:
            yield read
        finally:
            for descriptor, copy in saved.items():
                os.dup2(copy, descriptor)
                os.close(copy)


@contextlib.contextmanager
def quiet_stderr(noise: str = "") -> Iterator[None]:
    """Holds back what is written to stderr, but for errors.

    Args:
        noise: how the lines begin that are held back; the others are written
            in the end. By default all are held back.

    Raises:
        Exception: what is raised inside, once all that was held back is out.
    """
    sys.stderr.flush()
    held = ""
    try:
        with captured((2,)) as read:
            try:
                yield
            except BaseException:
                held = read()
                raise
            finally:
                sys.stderr.flush()
            if noise:
                lines = read().splitlines()
                kept = [line for line in lines if not line.startswith(noise)]
                held = "\n".join(kept)
    finally:
        if held:
            os.write(2, held.encode() + b"\n")


def _quietly(import_tensorflow, tensorflow):
    with quiet_stderr():
        import_tensorflow()
        tensorflow.zeros(())  # looks for devices


def quieten_tensorflow() -> None:
    """Makes a later import of TensorFlow, and its look for devices, quiet.

    `TF_CPP_MIN_LOG_LEVEL` does not reach what is logged before absl is
    initialised, nor a failed call to CUDA where there is no GPU.
    """
    if "tensorflow" not in sys.modules:
        sys.meta_path.insert(0, AroundImport("tensorflow", _quietly))
