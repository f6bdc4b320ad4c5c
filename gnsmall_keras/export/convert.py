"""Keras to .tflite, in a process of its own on the TensorFlow backend.

`convert` starts the process, whatever backend the caller runs; `work` and
what is below it happen inside.
"""

import contextlib
import dataclasses
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from gnsmall_keras.child import working
from gnsmall_keras.config import ExportConfig
from gnsmall_keras.data.augment import normalization_weights
from gnsmall_keras.devices.targets import TARGETS
from gnsmall_keras.export.graph import Graph, find_layer
from gnsmall_keras.lines import one_line
from gnsmall_keras.quantization import post_training as quantize
from gnsmall_keras.quantization.compression import quantize_by_tfmot
from gnsmall_keras.quantization.few_values import share_scales
from gnsmall_keras.quantization.qat import (
    QuantizationTraining,
    learn_quantization,
)

_CONFIG = "config.json"
_INPUT = "pixels"  # the one input
_TOLD = "told.json"  # what the worker says beside the files
ENVIRONMENT = {
    "KERAS_BACKEND": "tensorflow",
    "CUDA_VISIBLE_DEVICES": "",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A file, and the float network that an integer one was made of.

    Attributes:
        data: the .tflite file.
        floats: of int8 files the float .tflite file with the same operators in
            the same order, the same channels and weights before rounding.
        layers: of int8 files the Keras layer of each operator.
        losses: of "int8-qat", on validation images, before the training and
            after each epoch.
    """

    data: bytes
    floats: bytes | None = None
    layers: Sequence[str] = ()
    losses: Sequence[float] = ()


def convert(
    model: keras.Model,
    config: ExportConfig | None = None,
    *,
    calibration_images: np.ndarray,
    training: QuantizationTraining | None = None,
) -> Conversion:
    """Returns `model` as a .tflite file.

    The file takes raw pixels of one image and does the normalisation itself.
    An integer file's input has the scale 1, so that int8 means pixel - 128.

    Args:
        model: fused, of `keras.layers` alone, from normalised images to
            logits.
        config: what kind of file; None: the default one.
        calibration_images: uint8 `(n, height, width, 3)`.
        training: for "int8-qat" and "int8-tfmot".

    Raises:
        ValueError: if TensorFlow cannot convert the model; the operators that
            have no counterpart are named with their layers.
    """
    if config and config.quantization == "int8-tfmot":
        dtype = TARGETS[config.target].input_dtype
        return Conversion(quantize_by_tfmot(model, training, dtype))
    speaks = training is not None
    with working(__name__, ENVIRONMENT, speaks=speaks) as worker:
        folder = worker.folder
        model.save(folder / "model.keras")
        np.save(folder / "calibration.npy", calibration_images)
        if training is not None:
            training.save(folder)
        values = dataclasses.asdict(config or ExportConfig())
        (folder / _CONFIG).write_text(json.dumps(values))
        worker.finish("TensorFlow could not convert the model")
        floats, told = folder / "float.tflite", folder / _TOLD
        return Conversion(
            (folder / "model.tflite").read_bytes(),
            floats.read_bytes() if floats.is_file() else None,
            **json.loads(told.read_text() if told.is_file() else "{}"),
        )


def work(folder: Path) -> None:
    """Converts what `convert` has written, in the process that it started.

    Raises:
        ValueError: as `convert`.
    """
    config = ExportConfig(**json.loads((folder / _CONFIG).read_text()))
    model: Any = keras.saving.load_model(folder / "model.keras", compile=False)
    images = np.load(folder / "calibration.npy")
    probabilities = TARGETS[config.target].probabilities
    if config.is_calibrated_int8:
        network = float_network(model, probabilities=probabilities)
        data = _integers(folder, config, network, images)
    else:
        pixels = _from_pixels(model, probabilities=probabilities)
        layers = _layers(model)
        data = _convert(pixels, layers, config.quantization, images)
    (folder / "model.tflite").write_bytes(data)


def float_network(model: keras.Model, *, probabilities: bool = False) -> Graph:
    """Returns a fused model as a float file that takes pixels.

    For processes on the TensorFlow backend.

    Args:
        model: as in `convert`.
        probabilities: whether a softmax is put behind.
    """
    pixels = _from_pixels(model, probabilities=probabilities)
    layers = _layers(model)
    return Graph(_convert(pixels, layers), layers)


def _layers(model):
    return [layer.name for layer in model.layers]


def _convert(model, layers, quantization="float32", images=None):
    """A file of a kind that TensorFlow makes by itself.

    From one traced function: by way of a SavedModel, as TensorFlow has it from
    Keras models, takes five times as long.
    """
    import tensorflow as tf
    from tensorflow.lite.python.convert_phase import ConverterError

    spec = tf.TensorSpec(model.input_shape, tf.float32, name=_INPUT)
    answer = tf.function(
        lambda pixels: model(pixels, training=False),
        input_signature=[spec],
        autograph=False,
    ).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([answer])
    if quantization != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantization == "int16x8":
        converter.representative_dataset = lambda: (
            [image[None].astype(np.float32)] for image in images
        )
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        ]
        converter.inference_input_type = tf.int16
        converter.inference_output_type = tf.int16
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return _signed(converter.convert())
    except ConverterError as error:
        operations = answer.graph.get_operations()
        raise ValueError(_explain(str(error), operations, layers)) from None
    except RuntimeError as error:  # of integers, by the calibrator
        raise ValueError(_explain_runtime(error, quantization)) from None


def _signed(data):
    """Adds the names that a SavedModel's file has, to be called by."""
    graph = Graph(data)
    schema, ends = graph.schema, []
    for key, tensor, name in (
        (_INPUT, graph.inputs[0], f"serving_default_{_INPUT}:0"),
        ("output_0", graph.outputs[0], "StatefulPartitionedCall_1:0"),
    ):
        graph.tensors[tensor].name = name.encode()
        ends.append([schema.TensorMapT(name=key, tensorIndex=tensor)])
    graph.model.signatureDefs = [
        schema.SignatureDefT(*ends, signatureKey="serving_default")
    ]
    return graph.to_bytes()


def _integers(folder, config, network, images):
    # Channels of compressed weights were equalised before, and stay.
    quantize.prepare(
        network, images, config.calibration, equalized=bool(config.compress)
    )
    losses = []
    if config.quantization == "int8-qat":
        training = QuantizationTraining.load(folder)
        # uint8 would be converted by an operator of its own.
        before = quantize.to_integers(network, input_dtype="int8")
        losses = learn_quantization(
            network,
            Graph(before),
            training,
            compressed=bool(config.compress),
        )
    (folder / "float.tflite").write_bytes(network.to_bytes())
    names = [operator.layer for operator in network.operators]
    told = {"layers": names, "losses": losses}
    (folder / _TOLD).write_text(json.dumps(told))
    data = quantize.to_integers(
        network,
        input_dtype=TARGETS[config.target].input_dtype,
        float_layers=config.float_layers,
    )
    return share_scales(network, data) if config.compress else data


def _explain(text, operations, layers):
    """Names the operators that .tflite files do not have, with their layers."""
    kinds = set(re.findall(r"'tf\.(\w+)' op is neither", text))
    found = {
        f"{operation.type} in layer {find_layer(operation.name, layers)!r}"
        for operation in operations
        if operation.type in kinds
    }
    if not found:
        return f"TensorFlow could not convert the model: {text}"
    return (
        "The model has operators that .tflite files do not have: "
        f"{', '.join(sorted(found))}. Replace these layers."
    )


def _explain_runtime(error, quantization):
    """Names the operators that TensorFlow does not quantise."""
    kinds = re.findall(r"not yet supported for op: '(\w+)'", str(error))
    if not kinds:
        return f"TensorFlow could not convert the model: {one_line(error)}"
    return (
        f"TensorFlow's {quantization} files cannot have the operator "
        f"{', '.join(sorted(set(kinds)))}, which the model needs. Replace the "
        "layer that computes it, or export with another quantization."
    )


def _from_pixels(model, *, probabilities):
    """Puts the normalisation in front, as one operator, for a batch of one.

    A softmax is put behind if probabilities are asked for.
    """
    shape = model.input_shape[1:]
    pixels = keras.Input(batch_shape=(1, *shape), name=_INPUT)
    normalize = keras.layers.DepthwiseConv2D(1, name="normalize")
    outputs = model(normalize(pixels))
    if probabilities:
        outputs = keras.layers.Softmax(name="probabilities")(outputs)
    normalize.set_weights(normalization_weights(shape[-1]))
    return keras.Model(pixels, outputs, name=model.name)
