"""A Keras network with equalised channels, as "mse" gives files.

Weights that are to have few values need it before: afterwards the factors
would give a kernel as many values as it has weights.
"""

from pathlib import Path

import keras
import numpy as np

from gnsmall_keras.child import working
from gnsmall_keras.export.convert import ENVIRONMENT, float_network
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
    before = [network.constant(op.inputs[2]) for op in linear]
    equalize_on_images(network, images, fixed=normalized)
    for operator, old in zip(linear, before, strict=True):
        kernel, bias = map(network.constant, operator.inputs[1:])
        layer = model.get_layer(operator.layer)
        # The converter adds a hard sigmoid's 3 to a bias.
        bias = layer.get_weights()[1] + (bias - old)
        kernel = kernel.transpose(_AXES[operator.kind])
        layer.set_weights([kernel, bias])
