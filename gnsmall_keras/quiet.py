"""Keeps frameworks' own lines off the terminal, unless something fails."""

import contextlib
import ctypes
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from gnsmall_keras.importing import AroundImport

# How the lines begin that are neither warnings nor errors.
LITERT_REMARKS = "INFO: "
TENSORFLOW_REMARKS = (
    r"I\d{4} |WARNING: All log messages before absl::|To enable the following"
)
_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
# Of an NVIDIA driver, on Linux and in its subsystem for Windows.
_DRIVERS = ("/dev/nvidiactl", "/dev/dxg")


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
        noise: a pattern of how lines begin that are held back; the others are
            written in the end. By default all are held back.

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
                kept = [line for line in lines if not re.match(noise, line)]
                held = "\n".join(kept)
    finally:
        if held:
            os.write(2, held.encode() + b"\n")


@contextlib.contextmanager
def quiet_at_exit() -> Iterator[None]:
    """Holds back what C++ objects made inside write when the process ends.

    The C library destroys them after Python's end, last made first: stderr
    leads nowhere before the first of them and is itself again after the last.
    """
    if os.name != "posix":
        yield
        return
    library = ctypes.CDLL(None)
    library.__cxa_atexit.argtypes = [ctypes.c_void_p] * 3
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)

    def lead_to(descriptor: int) -> None:
        # The last one registered runs first; dup takes the lowest number, 2.
        for function, argument in (
            (library.dup, descriptor),
            (library.close, 2),
        ):
            address = ctypes.cast(function, ctypes.c_void_p)
            library.__cxa_atexit(address, argument, None)

    lead_to(kept)
    try:
        yield
    finally:
        lead_to(nowhere)


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


def quieten_matplotlib() -> None:
    """Imports Keras without Matplotlib, and keeps Matplotlib's remarks away.

    Keras imports it for `keras.visualization`, which no command draws with.
    Matplotlib remarks on a home folder that is not writable, and on its fonts.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    if "keras" not in sys.modules:
        sys.meta_path.insert(0, AroundImport("keras", _without_matplotlib))


def _without_matplotlib(import_keras, _):
    if "matplotlib" in sys.modules:
        import_keras()
        return
    sys.modules["matplotlib"] = None  # type: ignore  # to import it is an error
    try:
        import_keras()
    finally:
        del sys.modules["matplotlib"]


def quieten_notebook() -> None:
    """In a notebook, keeps remarks of TensorFlow and XLA out of its outputs.

    TensorFlow reads the level of its log while it is imported: it is set for
    that time alone, unless it is set already. Without a driver for GPUs the
    level leaves out errors as well, of which there is one: that CUDA does not
    start. What fails still raises.
    """
    if "ipykernel" not in sys.modules:
        return
    quieten_jax()
    if "tensorflow" not in sys.modules:
        sys.meta_path.insert(0, AroundImport("tensorflow", _without_remarks))


def _without_remarks(import_tensorflow, _):
    if _LEVEL in os.environ:
        import_tensorflow()
        return
    with quiet_stderr(TENSORFLOW_REMARKS), _less_logged():
        import_tensorflow()


def quieten_jax() -> None:
    """Keeps XLA's alarms of slow compilations away where there is no driver.

    They are logged as errors after two minutes, which a slow processor takes.
    The level is read while JAX is imported.
    """
    if "jax" not in sys.modules:
        sys.meta_path.insert(0, AroundImport("jax", _without_alarms))


def _without_alarms(import_jax, _):
    with _less_logged():
        import_jax()


@contextlib.contextmanager
def _less_logged():
    """Sets the level of what an import logs, unless it is set already."""
    if _LEVEL in os.environ:
        yield
        return
    has_driver = any(Path(file).exists() for file in _DRIVERS)
    os.environ[_LEVEL] = "1" if has_driver else "3"
    try:
        yield
    finally:
        os.environ.pop(_LEVEL, None)
