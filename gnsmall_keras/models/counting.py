"""Parameters and multiply-accumulates of models."""

import itertools
import math
import re
from typing import NamedTuple

import keras

from gnsmall_keras.models import keras_private
from gnsmall_keras.models.deploy import as_functional
from gnsmall_keras.models.layers import (
    BranchedConv2D,
    BranchedDepthwiseConv2D,
)

_KERNELS = ("kernel", "scale_kernel", "depthwise_kernel", "pointwise_kernel")
_AT_OUTPUTS = (  # a product with each tap at each place of the output
    *(keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D),
    *(keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D),
    *(keras.layers.SeparableConv1D, keras.layers.SeparableConv2D),
    *(BranchedConv2D, BranchedDepthwiseConv2D),
)
_AT_INPUTS = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
_WITHOUT = (  # that have weights of several axes, and no kernel
    keras.layers.Embedding,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.Normalization,
    keras.layers.PReLU,
    keras.layers.RMSNormalization,
)


class BlockCounts(NamedTuple):
    """One block of a network: what comes out of it and what it costs."""

    name: str
    """The start of its layers' names, such as "blocks_5_2" or "stem"."""
    output_shape: tuple[int | None, ...]
    """Of one image, `(height, width, channels)` as a rule."""
    parameters: int
    """As `count_parameters` counts."""
    macs: int
    """As `count_macs` counts, for one image."""


def count_blocks(model: keras.Model) -> list[BlockCounts]:
    """Returns shapes, parameters and multiply-accumulates block by block.

    A block is what the names of layers say: "blocks_5_2" of
    `blocks_5_2_ghost1_primary`, otherwise what is before the first underscore.

    Args:
        model: a functional model, branched or fused.

    Returns:
        One row for each block, in the order of the network; parameters and
        multiply-accumulates add up to those of the model.

    Raises:
        ValueError: as `count_macs`.

    Example:
        >>> rows = gns.count_blocks(gns.ghostnetv3_small(width=0.25))
        >>> rows[1].name, rows[1].output_shape, rows[1].macs
        ('stem', (32, 32, 4), 110592)
    """
    model = as_functional(model)
    calls = _calls_of(model)
    blocks: dict[str, list[keras.layers.Layer]] = {}
    for layer in model.layers:
        name = re.match(r"blocks_\d+_\d+|[^_]*", layer.name)[0]
        blocks.setdefault(name, []).append(layer)
    return [
        BlockCounts(
            name,
            tuple(calls[layers[-1].name][-1].output_tensors[0].shape[1:]),
            sum(map(count_parameters, layers)),
            sum(_macs_of(call) for one in layers for call in calls[one.name]),
        )
        for name, layers in blocks.items()
    ]


def count_parameters(model: keras.layers.Layer) -> int:
    """Returns the number of trainable parameters, as the paper counts.

    BatchNorm's moving statistics are not counted; frozen layers are, as if
    they were trained. Of a fused model the number is what is deployed; of a
    layer it is the layer's own.

    Args:
        model: a model or one of its layers.

    Returns:
        Parameters, not bytes.

    Example:
        >>> gns.count_parameters(gns.ghostnetv3_small(width=0.25))
        91494
    """
    weights = keras_private.weights_to_train(model)
    return sum(math.prod(weight.shape) for weight in weights)


def count_macs(model: keras.Model) -> int:
    """Returns the multiply-accumulates of one image.

    Convolutions and dense layers are counted, as often as they are called, of
    a branched layer every branch; additions, activations, gates' products and
    pooling are not.

    Args:
        model: branched or fused; the fused form is what is deployed.

    Raises:
        ValueError: if the model's images have no fixed size, it is no
            functional model, or a layer has kernels of another kind.

    Example:
        >>> gns.count_macs(gns.ghostnetv3_small(width=0.25))
        2123680
    """
    calls = _calls_of(as_functional(model)).values()
    return sum(map(_macs_of, itertools.chain(*calls)))


def _calls_of(model):
    """The calls of each layer of a functional model, by its name."""
    calls: dict[str, list] = {layer.name: [] for layer in model.layers}
    for node in keras_private.nodes_of(model):
        if isinstance(node.operation, keras.layers.Layer):
            calls[node.operation.name].append(node)
    return calls


def _macs_of(call):
    layer = call.operation
    if isinstance(layer, keras.Sequential) or hasattr(layer, "operations"):
        return count_macs(layer)
    if isinstance(layer, keras.layers.Dense):
        places = call.input_tensors[0].shape[1:-1]
    elif isinstance(layer, _AT_OUTPUTS):
        places = _places_of(layer, call.output_tensors[0])
    elif isinstance(layer, _AT_INPUTS):
        places = _places_of(layer, call.input_tensors[0])
    elif isinstance(layer, _WITHOUT) or all(
        len(weight.shape) < 2 for weight in layer.weights
    ):
        return 0
    else:
        raise ValueError(
            "Multiply-accumulates are counted of convolutions and dense "
            f"layers. Received: {layer.name!r}, a {type(layer).__name__}, "
            "which has kernels of another kind. Count a keras.Model of the "
            "layers around it."
        )
    if None in places:
        raise ValueError(
            "Counting multiply-accumulates needs images of a fixed size. "
            f"Received: {call.output_tensors[0].shape} from layer "
            f"{layer.name!r}. Build the model with a full `input_shape`."
        )
    kernels = [getattr(layer, name, None) for name in _KERNELS]
    taps = sum(math.prod(one.shape) for one in kernels if one is not None)
    return math.prod(places) * taps


def _places_of(layer, tensor):
    """The sides of an image."""
    if getattr(layer, "data_format", None) == "channels_first":
        return tensor.shape[2:]
    return tensor.shape[1:-1]
