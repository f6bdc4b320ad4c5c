"""Keeps TensorFlow's own lines off the terminal, unless it fails."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

from gnsmall_keras.importing import AroundImport


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Holds back what is written to stderr, by C++ too, but for errors."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(saved, 2)
            held.seek(0)
            os.write(2, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)


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
