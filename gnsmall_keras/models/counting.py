"""Parameters and multiply-accumulates of models."""

import math
import re
from typing import NamedTuple

import keras

from gnsmall_keras.models.layers import (
    BranchedConv2D,
    BranchedDepthwiseConv2D,
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
        ValueError: if the model's images have no fixed size.

    Example:
        >>> rows = gns.count_blocks(gns.ghostnetv3_small(width=0.25))
        >>> rows[1].name, rows[1].output_shape, rows[1].macs
        ('stem', (32, 32, 4), 110592)
    """
    blocks: dict[str, list[keras.layers.Layer]] = {}
    for layer in model.layers:
        name = re.match(r"blocks_\d+_\d+|[^_]*", layer.name)[0]
        blocks.setdefault(name, []).append(layer)
    return [
        BlockCounts(
            name,
            tuple(layers[-1].output.shape[1:]),
            sum(map(count_parameters, layers)),
            sum(map(_macs_of, layers)),
        )
        for name, layers in blocks.items()
    ]


def count_parameters(model: keras.layers.Layer) -> int:
    """Returns the number of trainable parameters, as the paper counts.

    BatchNorm's moving statistics are not counted. Of a fused model the
    number is what is deployed; of a layer it is the layer's own.

    Args:
        model: a model or one of its layers.

    Returns:
        Parameters, not bytes.

    Example:
        >>> gns.count_parameters(gns.ghostnetv3_small(width=0.25))
        91494
    """
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


def count_macs(model: keras.Model) -> int:
    """Returns the multiply-accumulates of one image.

    Convolutions and dense layers are counted, of a branched layer every
    branch; additions, activations, gates' products and pooling are not.

    Args:
        model: branched or fused; the fused form is what is deployed.

    Raises:
        ValueError: if the model's images have no fixed size.

    Example:
        >>> gns.count_macs(gns.ghostnetv3_small(width=0.25))
        2123680
    """
    return sum(map(_macs_of, model.layers))


def _macs_of(layer):
    if isinstance(layer, keras.Model):
        return count_macs(layer)
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
