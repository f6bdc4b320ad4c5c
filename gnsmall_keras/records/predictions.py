"""What a run predicted on its test split, as a record keeps it."""

# pyright: basic

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import softmax
from sklearn.metrics import confusion_matrix

WORST = 16  # mistakes that are kept one by one


def describe(
    logits: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> dict[str, Any]:
    """Returns what a record says of predictions, as plain JSON values.

    Args:
        logits: `(n, classes)`.
        labels: `(n,)`, indices into `class_names`.
        class_names: one name per class.

    Returns:
        A dict with `class_names`; with `confusion`, counts with a row for each
        true class and a column for each predicted one; with `worst`, the wrong
        predictions of highest probability, of each the `index` of its image,
        `label`, `predicted` and `probability`; and with `correct`, a bit for
        each image, for `unpack_correct`.
    """
    predicted = np.argmax(logits, axis=-1)
    correct = predicted == labels
    return {
        "class_names": list(class_names),
        "confusion": confusion_matrix(
            labels, predicted, labels=range(len(class_names))
        ).tolist(),
        "worst": [
            {
                "index": int(index),
                "label": int(labels[index]),
                "predicted": int(predicted[index]),
                "probability": round(float(probability), 6),
            }
            for index, probability in _worst(logits, correct)
        ],
        "correct": np.packbits(correct).tobytes().hex(),
    }


def _worst(logits, correct):
    """Indices and probabilities of the mistakes that were surest."""
    wrong = np.flatnonzero(~correct)
    highest = softmax(logits[wrong].astype(np.float64), axis=-1).max(axis=-1)
    for rank in np.argsort(-highest, kind="stable")[:WORST]:
        yield wrong[rank], highest[rank]


def unpack_correct(described: dict[str, Any]) -> np.ndarray:
    """Returns for each test image, in order, whether it was recognised.

    Two runs on the same images are compared by it, image by image.

    Raises:
        ValueError: if there are fewer bits than images.
    """
    images = int(np.sum(described["confusion"]))
    bits = np.frombuffer(bytes.fromhex(described["correct"]), np.uint8)
    if 8 * len(bits) < images:  # of none, NumPy would give what memory holds
        raise ValueError(
            f"`correct` must have a bit for each of {images} images. Received: "
            f"{8 * len(bits)}. Take the record from where it was written."
        )
    return np.unpackbits(bits, count=images).astype(bool)
