"""What an export refuses before it begins."""

import importlib.util
import os
import warnings
from pathlib import Path

import keras
import numpy as np

from gnsmall_keras.config import TRAINED
from gnsmall_keras.data.decoding import ASPECTS
from gnsmall_keras.data.pixels import warn_of_pixels
from gnsmall_keras.devices.targets import is_int8
from gnsmall_keras.models.deploy import as_functional
from gnsmall_keras.writing import check_writable

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
            f"The folder of the new file does not exist: {path.parent}. Make "
            "it first."
        )
    check_writable(path, "path")
    return path


def check_installed():
    """Checks that what makes files is installed.

    Raises:
        ValueError: otherwise, with the command that installs it.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise ValueError(
            "A .tflite file is made by TensorFlow, which is not installed. "
            "Run: pip install 'gnsmall-keras[export]'"
        )


def checked_network(model, quantization):
    """Returns a network from one tensor to one, as files have it.

    Args:
        model: a keras.Model.
        quantization: of the file.

    Raises:
        ValueError: if it has more of them, sides that are not known, weights
            that are NaN or inf, layers in half precision, or such that
            runtimes have no integers for.
    """
    model = as_functional(model)
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ValueError(
            "`model` must have one input and one output. Received: "
            f"{len(model.inputs)} and {len(model.outputs)}. Make a keras.Model "
            "of those that a device needs."
        )
    ends = (model.input, model.output)
    if not all(isinstance(end, keras.KerasTensor) for end in ends):
        model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    shape = tuple(model.input_shape[1:])
    if None in shape:
        known = tuple(32 if side is None else side for side in shape)
        raise ValueError(
            "A file takes images of one size. Received: a model of images "
            f"{shape}. Fix it: inputs = keras.Input({known}); "
            "keras.Model(inputs, model(inputs))."
        )
    for layer in model.layers:
        if not all(np.isfinite(each).all() for each in layer.get_weights()):
            raise ValueError(
                "A file is made of a network whose weights are finite. "
                f"Received: NaN or inf in layer {layer.name!r}. Train it again "
                "with a lower learning rate."
            )
        if layer.compute_dtype not in ("float32", "float64"):
            raise ValueError(
                "A file is made of a network in float32. Received: layer "
                f"{layer.name!r} of precision {layer.dtype_policy.name!r}. "
                "Build the network with "
                'keras.config.set_dtype_policy("float32") and give it these '
                "weights: float_model.set_weights(model.get_weights())."
            )
        nearest = isinstance(layer, keras.layers.UpSampling2D)
        nearest = nearest and layer.interpolation == "nearest"
        if nearest and is_int8(quantization):
            raise ValueError(
                f"UpSampling2D of the nearest pixel has no int8 form on the "
                f"runtimes. Received: layer {layer.name!r}. Take "
                'interpolation="bilinear", or keras.layers.Resizing(height, '
                'width, interpolation="nearest").'
            )
    warn_of_pixels(model, f"`model` {model.name!r}")
    return model


def checked_images(images, model, aspect):
    """Returns calibration images as an array of raw pixels of the model.

    Raises:
        ValueError: if they are none, or images cannot be read with `aspect`.
    """
    images = np.asarray(images)
    if aspect not in (None, *ASPECTS):
        raise ValueError(
            f"`aspect` must be one of {ASPECTS}, or None. Received: {aspect!r}."
        )
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
    return images


def checked_labels(labels, images, model):
    """Returns labels of images as class indices of shape `(n,)`.

    Of a model that gives a row for each pixel they are one a pixel.

    Raises:
        ValueError: if they are others than that, but for a last axis of 1.
    """
    if labels is None:
        return None
    labels = np.asarray(labels)
    count = 0 if images is None else len(images)
    shape = (count, *model.output_shape[1:-1])
    if labels.shape == (*shape, 1):  # as keras.datasets has them
        labels = labels[..., 0]
    if images is None or labels.shape != shape or labels.dtype.kind not in "iu":
        raise ValueError(
            "`evaluation_labels` must be a class index for each of "
            f"`evaluation_images`, integers of shape {shape}. Received: "
            f"{labels.dtype} {labels.shape}"
            f"{' without images' if images is None else ''}. Of one-hot rows "
            "give labels.argmax(-1)."
        )
    return labels


def check_training(training, quantization, model):
    """Refuses a training without QAT, and QAT without one.

    Raises:
        ValueError: otherwise, with the cure.
    """
    if (training is not None) != (quantization in TRAINED):
        raise ValueError(
            "quantization='int8-qat' or 'int8-tfmot', and nothing else, needs "
            "`training`, a QuantizationTraining. Received: "
            f"quantization={quantization!r} and training of "
            f"{type(training).__name__}."
        )
    if training is not None:
        training.check(model)
