"""Keeps TensorFlow's own lines off the terminal, unless it fails."""

import contextlib
import importlib.abc
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator


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


class _QuietTensorFlow(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports TensorFlow, and lets it look for devices, without its lines.

    `TF_CPP_MIN_LOG_LEVEL` does not reach what is logged before absl is
    initialised, nor a failed call to CUDA where there is no GPU.
    """

    _is_looking = False

    def find_spec(self, fullname, path=None, target=None):
        """Takes part in the import of `tensorflow`; some only look for it."""
        if fullname != "tensorflow" or self._is_looking:
            return None
        self._is_looking = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._is_looking = False
        if spec is None or spec.loader is None:
            return spec
        self._loader = spec.loader
        spec.loader = self
        return spec

    def create_module(self, spec):
        """As TensorFlow's own loader."""
        return self._loader.create_module(spec)

    def exec_module(self, module):
        """Imports it and computes something."""
        sys.meta_path.remove(self)
        module.__spec__.loader = module.__loader__ = self._loader
        with quiet_stderr():
            self._loader.exec_module(module)
            module.zeros(())


def quieten_tensorflow() -> None:
    """Makes a later import of TensorFlow quiet."""
    if "tensorflow" not in sys.modules:
        sys.meta_path.insert(0, _QuietTensorFlow())
