"""Networks as `.keras` files."""

import contextlib
import itertools
import os
import zipfile
from collections.abc import Generator, Sequence
from pathlib import Path

import keras

# Importing the layers registers them, so that Keras can read them back.
from gnsmall_keras.lines import first_line, one_line
from gnsmall_keras.models import keras_private
from gnsmall_keras.models import layers as _layers  # noqa: F401
from gnsmall_keras.models.saving.archive import check_declared_sizes
from gnsmall_keras.writing import replacing

LABELS_FILE = "labels.txt"  # in the archive, one class a line
# Endings of files that a network's weights are in.
WEIGHTS_FILES = (".keras", ".weights.h5")
_MOST_LABELS = 2**20  # bytes of it


@keras_private.without_tensorflow()
def save_model(
    model: keras.Model,
    path: str | os.PathLike,
    class_names: Sequence[str] = (),
) -> None:
    """Saves the network alone, without optimiser, losses and metrics.

    A file that was there stays whole until the new one is complete.

    Args:
        model: of any form, branched or fused.
        path: ends in ".keras".
        class_names: what `class_names_of` finds in the file.

    Example:
        >>> layers = [keras.layers.Flatten(), keras.layers.Dense(10)]
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
        >>> gns.save_model(model, "model.keras")
    """
    network = keras_private.clone_model(model)
    keras_private.set_weights(network, model.get_weights())
    with replacing(path) as unfinished:
        network.save(unfinished)
        if class_names:
            with zipfile.ZipFile(unfinished, "a") as archive:
                entry = zipfile.ZipInfo(LABELS_FILE)  # without today's date
                archive.writestr(entry, "\n".join(class_names) + "\n")


def class_names_of(path: str | os.PathLike) -> tuple[str, ...]:
    """Returns the names of classes in a `.keras` file; empty: it has none."""
    if not zipfile.is_zipfile(path):
        return ()
    with _whole(path), zipfile.ZipFile(path) as archive:
        if LABELS_FILE not in archive.namelist():
            return ()
        with archive.open(LABELS_FILE) as file:
            text = file.read(_MOST_LABELS).decode("utf-8", "replace")
    return tuple(text.splitlines())


@contextlib.contextmanager
def _whole(path: str | os.PathLike) -> Generator[None]:
    """Turns what zipfile, zlib and h5py raise of damage into one kind."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        reason = one_line(error)
        raise ValueError(
            f"{os.fspath(path)} is damaged: {reason}. Save or copy it again."
        ) from None


@keras_private.without_tensorflow()
def load_model(path: str | os.PathLike) -> keras.Model:
    """Loads a classifier of 32 x 32 (or other) RGB images from a `.keras` file.

    Nothing in the file is executed (Keras's safe mode is on).

    Args:
        path: the `.keras` file; of a `Distiller`, as `ModelCheckpoint` writes
            it in its `fit`, the student is returned.

    Returns:
        The network, not compiled.

    Raises:
        ValueError: if there is no such file, it cannot be read, or its model
            is not one from images to logits of classes.

    Example:
        >>> layers = [keras.layers.Flatten(), keras.layers.Dense(10)]
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
        >>> gns.save_model(model, "model.keras")
        >>> gns.load_model("model.keras").output_shape
        (None, 10)
    """
    path = Path(path)
    if path.suffix != ".keras" or not path.is_file():
        raise ValueError(
            f"A model is a file that ends in .keras. Received: "
            f"{os.fspath(path)!r}"
            + ("." if path.exists() else ", which does not exist.")
        )
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{os.fspath(path)} is not a .keras file (a zip archive). It may "
            "be truncated; save or copy it again."
        )
    with _whole(path):
        check_declared_sizes(path)
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        reason = first_line(error, "no reason given")
        raise ValueError(
            f"{os.fspath(path)} cannot be loaded by Keras: {reason}"
        ) from None
    model = getattr(model, "student", model)
    inputs = getattr(model, "input_shape", ())
    outputs = getattr(model, "output_shape", ())
    if not _is_classifier(inputs, outputs):
        raise ValueError(
            f"{os.fspath(path)} is not a classifier of RGB images or grey "
            f"ones: it maps {inputs} to {outputs}. Needed: (batch, height, "
            "width, 3 or 1) to (batch, classes)."
        )
    return model


def is_weights_file(weights: str | os.PathLike) -> bool:
    """Returns whether it has the ending of a file that `load_weights` reads."""
    return os.fspath(weights).endswith(WEIGHTS_FILES)


def load_weights(model: keras.Model, path: str | os.PathLike) -> None:
    """Puts the weights of a file into a model of the same network.

    Args:
        model: of any form; unchanged where the file is refused.
        path: of a `.keras` file, or of a `.weights.h5` file as Keras's
            `save_weights` writes it.

    Raises:
        ValueError: if there is no such file, it cannot be read, or it is of
            another network or of other classes.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"`weights` must be a file that exists. Received: "
            f"{os.fspath(path)!r}."
        )
    values = model.get_weights()
    if path.suffix == ".keras":
        found = load_model(path).get_weights()
        theirs, ours = ([v.shape for v in vs] for vs in (found, values))
        if theirs != ours:
            raise ValueError(_other_network(model, path, theirs, ours))
        keras_private.set_weights(model, found)
        return
    try:
        model.load_weights(path)
    except Exception as error:  # whatever a file of other layers leads to
        keras_private.set_weights(model, values)
        reason = first_line(error)
        raise ValueError(
            f"{os.fspath(path)} does not fit {model.name!r} with "
            f"{model.output_shape[-1]} classes: {reason}"
        ) from None


def _other_network(model, path, theirs, ours):
    """What to say where the shapes of weights are not alike."""
    place, pair = next(
        (n, pair)
        for n, pair in enumerate(itertools.zip_longest(theirs, ours))
        if pair[0] != pair[1]
    )
    return (
        f"{os.fspath(path)} must have the weights of {model.name!r} with "
        f"{model.output_shape[-1]} classes. Received: {len(theirs)} arrays "
        f"where it has {len(ours)}; number {place} has the shape {pair[0]} "
        f"where {pair[1]} is needed. Build the network of the file, or call "
        "load_model(path)."
    )


def is_shape(shape) -> bool:
    """Returns whether it is a tuple of whole numbers or None."""
    return isinstance(shape, tuple) and all(
        side is None or isinstance(side, int) for side in shape
    )


def _is_classifier(inputs, outputs):
    return (
        is_shape(inputs)
        and is_shape(outputs)
        and len(inputs) == 4
        and inputs[-1] in (1, 3)
        and None not in inputs[1:]
        and len(outputs) == 2
    )
