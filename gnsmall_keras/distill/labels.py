"""Checks of labels, which backends make something or nothing of."""

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


def message(wrong, classes: int, where: str = "") -> str:
    """What is said of a label that is none of the classes."""
    return (
        f"Labels{where} must be whole numbers from 0 to {classes - 1}: the "
        f"student has {classes} classes. Received: {float(wrong):g}. Number "
        "the classes from 0, or build the student with more `classes`."
    )
