"""Checks of labels, which backends make something or nothing of."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

RULE = "Labels must be whole numbers of classes"  # in TensorFlow's graph


def are_indices(labels) -> bool:
    """Whether they are an array or tensor, `(batch,)` or `(batch, 1)`."""
    shape: Any = getattr(labels, "shape", None)
    try:
        rank = len(shape)
    except (TypeError, ValueError):  # none, or one that is not known
        return False
    return rank == 1 or (rank == 2 and shape[1] == 1)


def check_kind(labels, where: str = "") -> None:
    """Checks that labels, if there are any, are an array of numbers.

    Args:
        labels: as they are given to `fit`.
        where: they are, for the message.

    Raises:
        ValueError: if they are a list, or an array of texts or objects.
    """
    if isinstance(labels, list | tuple):
        received = f"a {type(labels).__name__}"
    elif isinstance(labels, np.ndarray) and labels.dtype.kind not in "biuf":
        received = f"an array of {labels.dtype}"
    else:
        return
    raise ValueError(
        f"Labels{where} must be an array or tensor of numbers: classes "
        f"counted from 0, or a row of shares for each image. Received: "
        f"{received}. Use np.asarray, and class numbers in the place of names."
    )


def missing(received: Sequence[str]) -> str:
    """What is said of data without labels.

    Args:
        received: what needs them.
    """
    return (
        "Without labels a student learns from its teacher alone: compile "
        "without `loss` and `metrics`, with the loss 'kd', 'standardized_kd' "
        f"or 'dist'. Received: no labels, but {' and '.join(received)}. Pass "
        "fit(images, labels) or batches (images, labels)."
    )


def check_labels(labels, classes: int, where: str = "") -> None:
    """Checks class indices.

    Args:
        labels: an array or tensor of indices `(batch,)` or `(batch, 1)`.
        classes: how many there are.
        where: they are, for the message.

    Raises:
        ValueError: if one is none of `0 <= label < classes`.
    """
    if not len(labels):
        return
    if keras.config.backend() == "torch" and hasattr(labels, "aminmax"):
        least, largest = (float(value) for value in labels.aminmax())
    else:
        values = np.asarray(labels)
        least, largest = values.min(), values.max()
    if not (least >= 0 and largest < classes):
        wrong = largest if least >= 0 else least
        raise ValueError(message(wrong, classes, where))


def are_known(labels) -> bool:
    """Whether values can be looked at, without waiting for a GPU.

    Not inside of a graph, nor where shapes alone are computed.
    """
    if isinstance(labels, np.ndarray):
        return True
    backend = keras.config.backend()
    if isinstance(labels, keras.KerasTensor):
        return False
    if backend == "torch":
        device = getattr(labels, "device", None)
        return getattr(device, "type", "") == "cpu"
    if backend == "tensorflow":  # an eager tensor
        return hasattr(labels, "numpy")
    return not type(labels).__name__.endswith("Tracer")


def message(wrong, classes: int, where: str = "") -> str:
    """What is said of a label that is none of the classes."""
    return (
        f"Labels{where} must be whole numbers from 0 to {classes - 1}: there "
        f"are {classes} classes. Received: {float(wrong):g}. Number the "
        "classes from 0, or build the network with more `classes`."
    )
