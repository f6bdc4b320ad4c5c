"""What an export refuses before it begins."""

import os
import warnings
from pathlib import Path

import numpy as np

from gnsmall_keras.records.jsonl import check_writable

FEWEST_IMAGES = 20  # of a calibration without a warning


def check_compressed(asked, done):
    """Refuses weights that are not compressed as asked.

    Raises:
        ValueError: otherwise, with the cure.
    """
    if asked != done:
        raise ValueError(
            "`compress` fine-tunes on a run's images, which `gnsmall export` "
            f"has. Received: compress={asked!r} of weights compressed by "
            f"{done!r}. Leave it out here."
        )


def checked_path(path):
    """Returns the path of a new .tflite file.

    Raises:
        ValueError: otherwise, with the cure.
    """
    path = Path(path)
    if path.suffix != ".tflite":
        raise ValueError(
            f"`path` must end in .tflite. Received: {os.fspath(path)}."
        )
    if not path.parent.is_dir():
        raise ValueError(
            f"The folder of `path` does not exist: {path.parent}. Make it "
            "first."
        )
    check_writable(path, "path")
    return path


def check_images(images, model):
    """Refuses calibration images that are no raw pixels of the model.

    Raises:
        ValueError: otherwise, with the cure.
    """
    shape = tuple(model.input_shape[1:])
    if images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
        raise ValueError(
            "`calibration_images` must be at least one image of raw pixels, "
            f"uint8 of shape (n, {', '.join(map(str, shape))}). Received: "
            f"{images.dtype} {images.shape}."
        )
    if images.max() <= 1:
        raise ValueError(
            "`calibration_images` must be raw pixels from 0 to 255. Received: "
            f"{images.min()} to {images.max()}. Do not scale or normalise "
            "them; the file does it."
        )
    if len(images) < FEWEST_IMAGES:
        warnings.warn(
            f"{len(images)} calibration images tell little about activations' "
            f"ranges. Give {FEWEST_IMAGES} or more, of the training split.",
            stacklevel=3,
        )


def check_training(training, quantization, model):
    """Refuses a training without QAT, and QAT without one.

    Raises:
        ValueError: otherwise, with the cure.
    """
    if (training is not None) != (quantization == "int8-qat"):
        raise ValueError(
            "quantization='int8-qat', and nothing else, needs `training`, a "
            f"QuantizationTraining. Received: quantization={quantization!r} "
            f"and training of {type(training).__name__}."
        )
    if training is not None:
        training.check(model)
