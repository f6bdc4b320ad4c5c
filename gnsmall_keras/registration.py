"""Makes Keras know this package's classes, as soon as both are imported."""

import importlib
import sys

from gnsmall_keras.importing import AroundImport

_LAYERS = "gnsmall_keras.models.layers"
# Files of models that are compiled with its loss, and of Distillers.
_DISTILLER = "gnsmall_keras.distill.distiller"
_HAVE_STEPS = ("tensorflow", "jax", "torch")


def register_classes() -> None:
    """Registers them: now if Keras is imported, otherwise with it.

    `keras.models.load_model` finds the classes of a file by their registered
    names; public names of this package are imported on first use alone.
    """
    if "keras" in sys.modules:
        _import_classes(sys.modules["keras"])
    else:
        sys.meta_path.insert(0, AroundImport("keras", _then_classes))


def _then_classes(import_keras, keras):
    import_keras()
    if not _is_importing():
        _import_classes(keras)


def _import_classes(keras):
    importlib.import_module(_LAYERS)
    if keras.config.backend() in _HAVE_STEPS:
        importlib.import_module(_DISTILLER)


def _is_importing():
    """Whether a module of this package asked for Keras, and is half there."""
    return any(
        name.startswith("gnsmall_keras.")
        and getattr(module.__spec__, "_initializing", False)
        for name, module in list(sys.modules.items())
        if getattr(module, "__spec__", None)
    )
