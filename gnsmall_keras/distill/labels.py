"""Checks of labels, which backends make something or nothing of."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

_WHOLE = 1.01  # what shares in half precision may add up to
_WITHOUT_LEAST = ("torch.uint16", "torch.uint32", "torch.uint64")
RULE = "Labels must be whole numbers of classes"  # in TensorFlow's graph


def are_indices(labels) -> bool:
    """Whether they are an array or tensor, `(batch,)` or `(batch, 1)`."""
    shape = shape_of(labels)
    return len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)


def check_columns(labels, classes: int, where: str = "") -> None:
    """Checks that rows of labels have a share for each class.

    Args:
        labels: of any form; indices pass.
        classes: how many there are.
        where: they are, for the message.

    Raises:
        ValueError: if they have more than one column, but not one for each
            class.
    """
    shape = shape_of(labels)
    if len(shape) == 2 and shape[1] not in (None, 1, classes):
        raise ValueError(
            f"Labels{where} must be class numbers, or rows of {classes} "
            f"shares, one for each class. Received: rows of {shape[1]}. Give "
            "them a column for each class of the network, or class numbers."
        )


def shape_of(values) -> tuple[int | None, ...]:
    """Of an array or tensor; () where there is none, or it is not known."""
    shape: Any = getattr(values, "shape", ())
    try:
        return tuple(shape)
    except (TypeError, ValueError):
        return ()


def check_kind(labels, where: str = "") -> None:
    """Checks that labels, if there are any, are an array of numbers.

    Args:
        labels: as they are given to `fit`.
        where: they are, for the message.

    Raises:
        ValueError: if they are a list or dict, or an array of texts or
            objects.
    """
    if isinstance(labels, list | tuple | dict):
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
        ValueError: if one is none of `0 <= label < classes`, or no whole
            number.
    """
    if not len(labels):
        return
    in_torch = keras.config.backend() == "torch" and hasattr(labels, "aminmax")
    if in_torch and str(labels.dtype) not in _WITHOUT_LEAST:
        least, largest = (float(value) for value in labels.aminmax())
        values, is_whole = labels, not labels.is_floating_point()
    else:
        values = np.asarray(labels.cpu() if in_torch else labels)
        least, largest = values.min(), values.max()
        is_whole = values.dtype.kind in "biu"
    if not (least >= 0 and largest < classes):
        wrong = largest if least >= 0 else least
        raise ValueError(message(wrong, classes, where))
    if is_whole:
        return
    broken = values[values != values // 1]
    if len(broken):
        raise ValueError(message(broken[0], classes, where))


def check_shares(labels, where: str = "") -> None:
    """Checks rows of labels, of classes that exclude each other.

    Rows of less than 1 in all pass: their image counts as much less.

    Args:
        labels: an array or tensor `(batch, classes)`.
        where: they are, for the message.

    Raises:
        ValueError: if a share is below 0, or a row's are more than 1 in all.
    """
    shares = np.asarray(keras.ops.convert_to_numpy(labels), "float32")
    wrong = (shares.min(-1) < 0) | (shares.sum(-1) > _WHOLE)
    if wrong.any():
        row = shares[wrong][0].tolist()
        raise ValueError(
            f"Labels{where} must be class numbers, or rows of shares that add "
            f"up to 1. Received: {row[:8]}{' ...' if row[8:] else ''}. Divide "
            "each row by its sum. Where an image has several labels, take "
            "keras.losses.BinaryCrossentropy(from_logits=True), and a "
            "DistillationLoss of your own: those here are of a softmax."
        )


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
    wrong = float(wrong)
    cure = "Number the classes from 0, or build the network with more `classes`"
    if wrong != wrong // 1:
        cure = "Give class numbers, or a row of a share for each class"
    return (
        f"Labels{where} must be whole numbers from 0 to {classes - 1}: there "
        f"are {classes} classes. Received: {wrong:g}. {cure}."
    )
