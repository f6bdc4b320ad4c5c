"""Makes Keras know this package's layers, as soon as both are imported."""

import importlib
import importlib.abc
import importlib.util
import sys

_LAYERS = "gnsmall_keras.models.layers"


class _AfterKeras(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports the layers, which register themselves, after Keras.

    `keras.models.load_model` finds the layers of a file by their registered
    names; public names of this package are imported on first use alone.
    """

    _is_looking = False

    def find_spec(self, fullname, path=None, target=None):
        """Takes part in the import of `keras`; some only look for it."""
        if fullname != "keras" or self._is_looking:
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
        """As Keras's own loader."""
        return self._loader.create_module(spec)

    def exec_module(self, module):
        """Imports Keras, then the layers."""
        sys.meta_path.remove(self)
        spec = module.__spec__
        spec.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        if not _is_importing():
            importlib.import_module(_LAYERS)


def _is_importing():
    """Whether a module of this package asked for Keras, and is half there."""
    return any(
        name.startswith("gnsmall_keras.")
        and getattr(module.__spec__, "_initializing", False)
        for name, module in list(sys.modules.items())
        if getattr(module, "__spec__", None)
    )


def register_layers() -> None:
    """Registers the layers: now if Keras is imported, otherwise with it."""
    if "keras" in sys.modules:
        importlib.import_module(_LAYERS)
    else:
        sys.meta_path.insert(0, _AfterKeras())
