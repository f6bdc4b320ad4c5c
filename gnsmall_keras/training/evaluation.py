"""Logits of images, and what they get right."""

import keras
import numpy as np

from gnsmall_keras.data.augment import normalize
from gnsmall_keras.data.batches import fill_up
from gnsmall_keras.native.choice import network_for_inference

_BATCH_SIZE = 500


def predict_logits(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Runs `model` in inference mode on raw images.

    Args:
        model: from normalised images to logits.
        images: uint8 `(n, height, width, 3)`. A shorter last batch is filled
            up, so that a compiling backend compiles once.

    Returns:
        Logits `(n, classes)`, float32.
    """
    native = network_for_inference(model)
    if native is not None:
        return np.concatenate(
            [
                native.predict(normalize(images[start : start + _BATCH_SIZE]))
                for start in range(0, len(images), _BATCH_SIZE)
            ]
        )
    distribution = keras.distribution.distribution()
    devices = distribution.num_model_replicas if distribution else 1
    batch_size = _BATCH_SIZE - _BATCH_SIZE % devices
    parts = []
    for start in range(0, len(images), batch_size):
        part = normalize(images[start : start + batch_size])
        missing = batch_size - len(part) if start else -len(part) % devices
        logits = model.predict_on_batch(fill_up(part, missing))
        parts.append(logits[: len(part)])
    return np.concatenate(parts)


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the part of images whose largest logit is at their label."""
    return float(np.mean(np.argmax(logits, axis=-1) == labels))


def accuracy_on(
    model: keras.Model, images: np.ndarray, labels: np.ndarray
) -> float | None:
    """Returns a model's accuracy on uint8 images, None where there are none."""
    if not len(images):
        return None
    return accuracy(predict_logits(model, images), labels)


def agreement(logits: np.ndarray, other_logits: np.ndarray) -> float:
    """Returns the part of images for which both have the same largest logit."""
    same = np.argmax(logits, axis=-1) == np.argmax(other_logits, axis=-1)
    return float(np.mean(same))
