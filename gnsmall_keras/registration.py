"""Makes Keras know this package's layers, as soon as both are imported."""

import importlib
import sys

from gnsmall_keras.importing import AroundImport

_LAYERS = "gnsmall_keras.models.layers"


def register_layers() -> None:
    """Registers the layers: now if Keras is imported, otherwise with it.

    `keras.models.load_model` finds the layers of a file by their registered
    names; public names of this package are imported on first use alone.
    """
    if "keras" in sys.modules:
        importlib.import_module(_LAYERS)
    else:
        sys.meta_path.insert(0, AroundImport("keras", _then_layers))


def _then_layers(import_keras, _):
    import_keras()
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
