"""A Keras network with equalised channels, as "mse" gives files.

Weights that are to have few values need it before: afterwards the factors
would give a kernel as many values as it has weights.
"""

from pathlib import Path

import keras
import numpy as np

from gnsmall_keras.child import working
from gnsmall_keras.export.convert import ENVIRONMENT, float_network
from gnsmall_keras.export.graph import find_layer
from gnsmall_keras.quantization.post_training import equalize_on_images
from gnsmall_keras.quantization.probes import check_same, make_probes

_MODEL, _IMAGES = "model.keras", "images.npy"
_AXES = {  # of a Keras kernel, in the file's
    "CONV_2D": (1, 2, 3, 0),
    "DEPTHWISE_CONV_2D": (1, 2, 3, 0),
    "FULLY_CONNECTED": (1, 0),
}


def with_equalized_channels(
    model: keras.Model, images: np.ndarray
) -> keras.Model:
    """Returns a fused model that computes the same with equalised channels.

    Args:
        model: fused, of `keras.layers` alone.
        images: uint8 `(n, height, width, 3)`, whose activations decide.

    Raises:
        ValueError: if the result computes something else.
    """
    with working(__name__, ENVIRONMENT) as worker:
        model.save(worker.folder / _MODEL)
        np.save(worker.folder / _IMAGES, images)
        worker.finish("The network's channels could not be equalised")
        return keras.saving.load_model(worker.folder / _MODEL, compile=False)


def work(folder: Path) -> None:
    """Rescales what `with_equalized_channels` has written, in its process.

    Raises:
        ValueError: as `with_equalized_channels`.
    """
    model = keras.saving.load_model(folder / _MODEL, compile=False)
    probes = make_probes(model)
    expected = np.asarray(model(probes, training=False))
    _rescale(model, np.load(folder / _IMAGES))
    found = np.asarray(model(probes, training=False))
    rule = "Equalised channels must leave what a network computes."
    check_same(found, expected, rule)
    model.save(folder / _MODEL)


def _rescale(model, images):
    network = float_network(model)
    (pixels,) = network.inputs
    normalized = [op.outputs[0] for op in network.consumers(pixels)]
    linear = [
        op
        for op in network.operators
        if op.is_linear and op.inputs[0] != pixels
    ]
    before = [_bias(network, op) for op in linear]
    equalize_on_images(network, images, fixed=normalized)
    for operator, old in zip(linear, before, strict=True):
        layer = _layer_of(model, network, operator)
        kernel = network.constant(operator.inputs[1])
        weights = [kernel.transpose(_AXES[operator.kind])]
        if layer.use_bias:
            # The converter adds a hard sigmoid's 3 to a bias.
            change = _bias(network, operator) - old
            weights.append(layer.get_weights()[1] + change)
        layer.set_weights(weights)


def _layer_of(model, network, operator):
    """The layer of a kernel: the operator may have an activation's name."""
    layers = {layer.name: layer for layer in model.layers}
    kernel = find_layer(network.name(operator.inputs[1]), layers)
    for name in (operator.layer, kernel):
        if hasattr(layers.get(name), "use_bias"):
            return layers[name]
    raise ValueError(
        "A network that is compressed has its convolutions and dense layers "
        f"in one model. Received: one inside of {kernel!r}. Leave --compress "
        "out."
    )


def _bias(network, operator):
    """An operator's bias; zero where it has none."""
    if len(operator.sources) < 3:
        return 0.0
    return network.constant(operator.sources[2])
