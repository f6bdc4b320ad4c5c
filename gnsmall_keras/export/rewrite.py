"""The same integers from fewer operators, fewer bytes and less memory.

A .tflite file is read into objects, changed and written again. Nothing here
knows which network it is or how it was quantised: every rule looks at a file's
operators alone and leaves their integers as they are, so that a rewritten file
can be held to the given one bit by bit.
"""

import copy
import math

import numpy as np

from gnsmall_keras.export.graph import Graph
from gnsmall_keras.export.layout import drop_unused, order_operators
from gnsmall_keras.export.resampling import (
    replace_pools,
    replace_resizings,
    simplify_resizings,
)
from gnsmall_keras.export.rounding import settle_products, settle_sigmoids


def rewrite(data: bytes, *, for_xnnpack: bool = False) -> bytes:
    """Returns a smaller file that computes the same.

    Args:
        data: a .tflite file of one subgraph.
        for_xnnpack: whether to use operators that XNNPACK has for integers in
            place of those it leaves to slower kernels, resizing and average
            pooling. The pooling's integers change by at most one.

    Raises:
        ValueError: if `data` is no such file or has more than one subgraph.
    """
    graph = Graph(data)
    if not for_xnnpack:  # which takes as long for 16 taps as for 25
        drop_pads(graph)
    drop_scalings(graph)
    split_concatenations(graph)
    simplify_resizings(graph)
    if for_xnnpack:
        replace_resizings(graph)
        replace_pools(graph)
    else:
        drop_last_reshape(graph)
    settle_products(graph)
    settle_sigmoids(graph)
    order_operators(graph)
    drop_unused(graph)
    return graph.to_bytes()


def drop_pads(graph: Graph) -> None:
    """Lets strided depthwise convolutions pad by themselves.

    A k x k kernel (k odd) at stride 2 on an even image that is padded by
    k // 2 zeros on each side is a kernel of side k + 1 with padding "same",
    whose last row and column are zeros.
    """
    for pad in graph.of_kind("PAD"):
        source, padded = pad.inputs[0], pad.outputs[0]
        readers = graph.consumers(padded)
        if all(_pads_itself(graph, pad, reader) for reader in readers):
            for reader in readers:
                kernel = graph.constant(reader.inputs[1])
                larger = np.pad(kernel, ((0, 0), (0, 1), (0, 1), (0, 0)))
                reader.inputs[0] = source
                reader.inputs[1] = graph.add_constant(reader.inputs[1], larger)
                reader.options.padding = graph.schema.Padding.SAME
            graph.operators.remove(pad)


def _pads_itself(graph, pad, reader):
    if reader.kind != "DEPTHWISE_CONV_2D":
        return False
    options, kernel = reader.options, graph.constant(reader.inputs[1])
    if kernel is None:
        return False
    height, width = kernel.shape[1:3]
    border = [height // 2] * 2
    return (
        graph.constant(pad.inputs[1]).tolist()
        == [[0, 0], border, border, [0, 0]]
        and height == width
        and height % 2 == 1
        and reader.padding == "VALID"
        and options.strideH == options.strideW == 2
        and options.dilationHFactor == options.dilationWFactor == 1
        and not any(side % 2 for side in graph.shape(pad.inputs[0])[1:3])
    )


def drop_scalings(graph: Graph) -> None:
    """Lets a convolution do what a product with a constant did after it.

    The 1/6 of a hard sigmoid: both tensors have the same integers, 0 to 6 in
    one and 0 to 1 in the other. The kernel's, the bias's and the output's
    scales take the factor; the upper end of ReLU6 is where int8 ends.
    """
    for product in graph.of_kind("MUL"):
        factor = _factor(graph, product)
        made = product.inputs[0]
        conv = graph.producer(made)
        if (
            factor is None
            or conv is None
            or conv.kind not in ("CONV_2D", "DEPTHWISE_CONV_2D")
            or len(graph.consumers(made)) != 1
            or not _ends_with_int8(graph, conv)
        ):
            continue
        for position in range(1, len(conv.inputs)):
            constant = graph.tensors[graph.own_input(conv, position)]
            quantization = copy.copy(constant.quantization)
            quantization.scale = (quantization.scale * factor).astype(
                np.float32
            )
            constant.quantization = quantization
        activations = graph.schema.ActivationFunctionType
        conv.options.fusedActivationFunction = activations.RELU
        conv.outputs = product.outputs
        graph.operators.remove(product)


def _factor(graph, product):
    """The constant of a product that leaves integers as they are, or None."""
    given, constant = product.inputs
    values = graph.constant(constant)
    scales = [graph.scale(t) for t in (given, constant, product.outputs[0])]
    if (
        values is None
        or values.size != 1
        or values.dtype != np.int8
        or None in scales
        or product.activation != "NONE"
    ):
        return None
    factor = (int(values.item()) - graph.zero_point(constant)) * scales[1]
    same = abs(scales[0] * factor / scales[2] - 1.0) < 1e-5
    points = graph.zero_point(given) == graph.zero_point(product.outputs[0])
    return factor if same and points and factor > 0 else None


def _ends_with_int8(graph, conv):
    """Whether the activation cuts off nothing that int8 would not."""
    made = conv.outputs[0]
    if graph.zero_point(made) != -128:
        return False
    if conv.activation == "RELU6":
        return round(6.0 / graph.scale(made)) >= 255
    return conv.activation == "RELU"


def split_concatenations(graph: Graph) -> None:
    """Moves a concatenation of channels behind a strided convolution.

    A depthwise convolution of joined channels is one of each part; at stride 2
    the joined channels are then a quarter of the memory.
    """
    for joining in graph.of_kind("CONCATENATION"):
        joined = joining.outputs[0]
        readers = graph.consumers(joined)
        if len(readers) != 1 or not _splits(graph, joining, readers[0]):
            continue
        (conv,) = readers
        parts, start = [], 0
        for part in joining.inputs:
            stop = start + graph.shape(part)[3]
            parts.append(_part_of(graph, conv, part, slice(start, stop)))
            start = stop
        made = conv.outputs[0]
        joining.inputs, joining.outputs = parts, [made]
        graph.operators.remove(joining)
        graph.operators[graph.operators.index(conv)] = joining


def _splits(graph, joining, conv):
    if conv.kind != "DEPTHWISE_CONV_2D":
        return False
    options = conv.options
    return (
        joining.options.axis in (3, -1)
        and options.strideH * options.strideW > 1
        and options.depthMultiplier == 1
        and all(graph.constant(each) is not None for each in conv.inputs[1:])
    )


def _part_of(graph, conv, source, channels):
    """Adds the convolution of some channels; returns its output."""
    parts = []
    for constant in conv.inputs[1:]:
        values = graph.constant(constant)[..., channels]
        part = graph.add_constant(constant, values)
        quantization = graph.tensors[part].quantization
        if len(graph.scales(part)) > 1:
            copied = copy.copy(quantization)
            copied.scale = quantization.scale[channels]
            copied.zeroPoint = quantization.zeroPoint[channels]
            graph.tensors[part].quantization = copied
        parts.append(part)
    shape = [*graph.shape(conv.outputs[0])[:3], values.shape[-1]]
    made = graph.add_tensor(conv.outputs[0], shape)
    options = copy.copy(conv.options)
    graph.add_operator(conv, conv.kind, [source, *parts], [made], options)
    return made


def drop_last_reshape(graph: Graph) -> None:
    """Ends with an image of one pixel where a reshape follows it.

    `(1, 1, 1, classes)` is in memory what `(1, classes)` is, and a device needs
    one kernel less.
    """
    for reshape in graph.of_kind("RESHAPE"):
        given, made = reshape.inputs[0], reshape.outputs[0]
        shape = graph.shape(given)
        is_last = made in graph.outputs
        alone = len(graph.consumers(given)) == 1 and graph.producer(given)
        if is_last and alone and math.prod(shape) == shape[-1]:
            graph.tensors[made].shape = graph.tensors[given].shape
            graph.producer(given).outputs = reshape.outputs
            graph.operators.remove(reshape)
