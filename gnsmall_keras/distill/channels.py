"""Which axis of what a layer gives holds the channels."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
from keras import layers, ops

from gnsmall_keras.models import keras_private

_FIRST = "channels_first"
# Their channels are last, whatever comes before.
_LAST = (layers.Dense, layers.Embedding)
# They have a format and do not look at it.
_ANY = (layers.Flatten, layers.Rescaling)
# Keras's own that may move channels and give a tensor of the same shape.
_MOVERS = {
    *("Permute", "Reshape", "Transpose", "Swapaxes", "Moveaxis", "Rot90"),
    *("Dot", "Einsum", "EinsumDense", "Matmul", "Tensordot"),
    *("Lambda", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "TFSMLayer"),
}


def channel_axis(
    model: keras.Model, layer: keras.layers.Layer, shape: Sequence[int]
) -> int:
    """Returns the axis of the channels in what a layer gives.

    It is what the layer says (`data_format`, or the axis of a batch
    normalisation), or those before it, which activations and sums follow; in a
    model where nothing has its channels first, the last.

    Args:
        model: that the layer is in.
        layer: which.
        shape: of what it gives, with the batch.

    Raises:
        ValueError: if it cannot be told.
    """
    rank = len(shape)
    if rank < 3:
        return rank - 1
    axes = _axes_behind(layer, rank)
    if len(axes) == 1:
        return axes.pop()
    if not axes and not _has_channels_first(model):
        return rank - 1
    raise ValueError(
        "Of a pair's layer it must be known which axis has the channels. "
        f"Received: {layer.name!r} of {model.name!r}, a "
        f"{type(layer).__name__} that gives {tuple(shape)}, where layers have "
        "their channels first. Name a convolution or pooling, or set "
        f"`data_format` on this layer: layer.data_format = {_FIRST!r}."
    )


def shape_last(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    """Returns a shape whose channels were moved from `axis` to the end."""
    return (*shape[:axis], *shape[axis + 1 :], shape[axis])


def channels_last(outputs: Iterable[Any], axes: Iterable[int]) -> list[Any]:
    """Returns tensors with their channels at the end.

    Args:
        outputs: of layers; none of them if nobody needs them.
        axes: of their channels.
    """
    return [
        output
        if axis == len(output.shape) - 1
        else ops.moveaxis(output, axis, -1)
        for output, axis in zip(outputs, axes, strict=False)
    ]


def _axes_behind(layer, rank):
    """What the layer says of the channels, or the nearest before it."""
    axes, seen = set(), set()
    todo = [(layer, _symbolic(layer))]
    while todo:
        found, tensor = todo.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        axis = _own_axis(found, rank)
        if axis is not None:
            axes.add(axis)
        elif isinstance(found, keras.Model) and getattr(found, "outputs", None):
            last = found.outputs[0]
            todo.append((keras_private.operation_of(last), last))
        elif tensor is not None and _keeps_channels(found, tensor):
            todo += [
                (keras_private.operation_of(before), before)
                for before in keras_private.tensors_before(tensor)
                if len(before.shape) == rank
            ]
        else:
            inside = [
                _own_axis(part, rank) for part in keras_private.parts_of(found)
            ]
            axes.update(axis for axis in inside if axis is not None)
    return axes


def _symbolic(layer):
    """What it gives in the graph of a model; None inside of a subclass."""
    if isinstance(layer, keras.Model):
        return None
    try:
        output = layer.output
    except AttributeError:
        return None
    return output if isinstance(output, keras.KerasTensor) else None


def _own_axis(operation, rank):
    """What it says itself of the channels in what it gives, or None."""
    if isinstance(
        operation, layers.BatchNormalization | layers.GroupNormalization
    ):
        return operation.axis % rank
    if isinstance(operation, _LAST):
        return rank - 1
    if isinstance(operation, _ANY):
        return None
    named = getattr(operation, "data_format", None)
    if named == _FIRST:
        return 1
    return rank - 1 if named == "channels_last" else None


def _keeps_channels(operation, tensor):
    """Whether they are where they were in what it took."""
    kind = type(operation)
    known = (
        kind.__module__.startswith("keras.") and kind.__name__ not in _MOVERS
    )
    if not known or isinstance(operation, layers.Wrapper):
        return False
    return isinstance(operation, layers.Concatenate) or any(
        before.shape == tensor.shape
        for before in keras_private.tensors_before(tensor)
    )


def _has_channels_first(model):
    """Whether some layer has, or those without a format may have."""
    return keras.config.image_data_format() == _FIRST or any(
        getattr(part, "data_format", None) == _FIRST
        or type(part).__name__ == "TorchModuleWrapper"
        for part in keras_private.parts_of(model)
    )
