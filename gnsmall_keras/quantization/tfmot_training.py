"""tfmot's own quantisation-aware training; a process of its own.

`compression.quantize_by_tfmot` starts it, in an environment that has tf_keras
and tensorflow-model-optimization. It is there to be compared with
`quantization.qat`: tfmot rounds by Keras layer, where the converter has
tensors, so that its files have operators more.
"""

import functools
import json
from pathlib import Path

import keras
import numpy as np

from gnsmall_keras.data.augment import moments, normalization_weights
from gnsmall_keras.models.keras_private import operation_of
from gnsmall_keras.quantization.compression import (
    JOB_FILE,
    MODEL_FILE,
    RESULT_FILE,
)
from gnsmall_keras.quantization.qat import QuantizationTraining
from gnsmall_keras.quantization.twin import build_twin, check_equal, fine_tune

_NORMALIZE = "normalize"
_SIXTH = "_sixth"  # what a hard sigmoid's division is called
_LARGEST = 255.0  # of pixels


def build_twin_of_known_layers(model: keras.Model):
    """Returns a tf_keras model of pixels, of layers that tfmot quantises.

    A resizing that doubles is an UpSampling2D, a hard sigmoid a ReLU6 of
    x + 3 and a convolution by 1/6, the normalisation one in front.

    Raises:
        ValueError: if there is a layer that tfmot does not know, by name.
    """
    twin = build_twin(model, _replace)
    for name in _shifted(model):
        layer = twin.get_layer(name)
        kernel, bias = layer.get_weights()
        layer.set_weights([kernel, bias + 3.0])
    for layer in twin.layers:
        if layer.name.endswith(_SIXTH):
            (kernel,) = layer.get_weights()
            layer.set_weights([np.full_like(kernel, 1.0 / 6.0)])
    channels = model.input_shape[-1]
    twin.get_layer(_NORMALIZE).set_weights(normalization_weights(channels))
    pixels = functools.partial(_pixels, *moments(channels))
    check_equal(model, twin, pixels)
    return twin


def _pixels(mean, std, images):
    return (images * std + mean) * np.float32(_LARGEST)


def _replace(kind, own, inputs, layer):
    import tf_keras

    layers = tf_keras.layers
    if kind == "InputLayer":
        return layers.DepthwiseConv2D(1, name=_NORMALIZE)(inputs)
    if kind == "Resizing" and own.interpolation == "nearest":
        height, width = inputs.shape[1:3]
        size = own.height // height, own.width // width
        if (own.height, own.width) == (size[0] * height, size[1] * width):
            return layers.UpSampling2D(size, name=layer.name)(inputs)
    if own is not None and _is_hard_sigmoid(own):
        x = layers.ReLU(6.0, name=layer.name)(inputs)
        name = layer.name + _SIXTH
        return layers.DepthwiseConv2D(
            1, use_bias=False, trainable=False, name=name
        )(x)
    return layer(inputs)


def _shifted(model):
    """Names of the convolutions before hard sigmoids."""
    return [
        operation_of(layer.input).name
        for layer in model.layers
        if _is_hard_sigmoid(layer)
    ]


def _is_hard_sigmoid(layer):
    hard = keras.activations.hard_sigmoid
    return getattr(layer, "activation", None) is hard


def _quantized(twin):
    """The twin with tfmot's rounding."""
    import tensorflow_model_optimization as tfmot
    import tf_keras
    from tensorflow_model_optimization.python.core.quantization.keras import (
        default_8bit,
    )

    keras_api = tfmot.quantization.keras
    configs = default_8bit.default_8bit_quantize_configs
    registry = default_8bit.default_8bit_quantize_registry
    known = registry.Default8BitQuantizeRegistry()
    multiply = configs.Default8BitOutputQuantizeConfig()

    def annotate(layer):
        if isinstance(layer, tf_keras.layers.Multiply):
            return keras_api.quantize_annotate_layer(layer, multiply)
        if not known.supports(layer):
            raise ValueError(
                "tensorflow-model-optimization quantises no layer "
                f"{layer.name!r} of {type(layer).__name__}. Leave "
                "quantization='int8-tfmot' out."
            )
        return keras_api.quantize_annotate_layer(layer)

    annotated = tf_keras.models.clone_model(twin, clone_function=annotate)
    with keras_api.quantize_scope(
        {"Default8BitOutputQuantizeConfig": type(multiply)}
    ):
        return keras_api.quantize_apply(annotated)


def _set_input_range(network):
    """Pixels are 0 to 255, so that int8 is pixel - 128."""
    for layer in network.layers:
        if type(layer).__name__ == "QuantizeLayer":
            for weight in layer.weights:
                if weight.name.endswith(("min:0", "_min")):
                    weight.assign(0.0)
                if weight.name.endswith(("max:0", "_max")):
                    weight.assign(_LARGEST)


def _to_file(network, shape, dtype):
    import tensorflow as tf

    image = tf.TensorSpec((1, *shape), tf.float32)
    function = tf.function(lambda pixels: network(pixels, training=False))
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function(image)], network
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = tf.as_dtype(dtype)
    converter.inference_output_type = tf.as_dtype(dtype)
    return converter.convert()


def work(folder: Path) -> None:
    """Trains and converts what `quantize_by_tfmot` has written.

    Raises:
        ValueError: as `quantize_by_tfmot`.
    """
    job = json.loads((folder / JOB_FILE).read_text())
    model = keras.saving.load_model(folder / MODEL_FILE, compile=False)
    training = QuantizationTraining.load(folder)
    keras.utils.set_random_seed(training.seed)
    network = _quantized(build_twin_of_known_layers(model))
    _set_input_range(network)
    mean, std = moments(model.input_shape[-1])
    fine_tune(network, training, given=functools.partial(_pixels, mean, std))
    _set_input_range(network)
    shape = model.input_shape[1:]
    (folder / RESULT_FILE).write_bytes(_to_file(network, shape, job["dtype"]))
