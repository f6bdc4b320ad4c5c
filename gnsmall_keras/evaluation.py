"""Sizes of models."""

import math

import keras

from gnsmall_keras.models.layers import (
    BranchedConv2D,
    BranchedDepthwiseConv2D,
)


def count_parameters(model: keras.Model) -> int:
    """Returns the number of trainable parameters, as the paper counts.

    BatchNorm's moving statistics are not counted. Of a fused model the
    number is what is deployed.
    """
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


def count_macs(model: keras.Model) -> int:
    """Returns the multiply-accumulates of one image.

    Convolutions and dense layers are counted, of a branched layer every
    branch; additions, activations, gates' products and pooling are not.

    Raises:
        ValueError: if the model's images have no fixed size.
    """
    return sum(_layer_macs(layer) for layer in model.layers)


def _layer_macs(layer):
    if isinstance(layer, keras.layers.Dense):
        return math.prod(layer.kernel.shape)
    kernels = (
        keras.layers.Conv2D,
        keras.layers.DepthwiseConv2D,
        BranchedConv2D,
        BranchedDepthwiseConv2D,
    )
    if not isinstance(layer, kernels):
        return 0
    height, width = layer.output.shape[1:3]
    if height is None or width is None:
        raise ValueError(
            "Counting multiply-accumulates needs images of a fixed size. "
            f"Received: {layer.output.shape} from layer {layer.name!r}. "
            "Build the model with a full `input_shape`."
        )
    taps = math.prod(layer.kernel.shape)
    if getattr(layer, "scale", False):
        taps += math.prod(layer.scale_kernel.shape)
    return height * width * taps
