"""Resizing and pooling, by operators that a runtime is good at."""

import numpy as np

from gnsmall_keras.export.graph import Graph


def simplify_resizings(graph: Graph) -> None:
    """Lets nearest-neighbour doubling do without half-pixel centres.

    The doubled image is the same with and without them, and compilers for the
    Edge TPU took them late.
    """
    doublings = [
        operator
        for operator in graph.of_kind("RESIZE_NEAREST_NEIGHBOR")
        if _doubles(graph, operator)
    ]
    for doubling in doublings:
        doubling.options.halfPixelCenters = False
    if len(doublings) == len(graph.of_kind("RESIZE_NEAREST_NEIGHBOR")):
        for code in {operator.entry.opcodeIndex for operator in doublings}:
            graph.model.operatorCodes[code].version = 2


def _doubles(graph, resizing):
    small, large = resizing.inputs[0], resizing.outputs[0]
    batch, height, width, channels = graph.shape(small)
    doubled = (batch, 2 * height, 2 * width, channels)
    return not resizing.options.alignCorners and graph.shape(large) == doubled


def replace_resizings(graph: Graph) -> None:
    """Turns nearest-neighbour doubling into copies that are moved to space."""
    schema = graph.schema
    for resizing in graph.of_kind("RESIZE_NEAREST_NEIGHBOR"):
        small, large = resizing.inputs[0], resizing.outputs[0]
        int16 = graph.dtype(small) == "INT16"  # has no such operator
        if int16 or not _doubles(graph, resizing):
            continue
        shape = graph.shape(small)
        four = graph.add_tensor(small, [*shape[:3], 4 * shape[3]])
        joining = schema.ConcatenationOptionsT()
        joining.axis = 3
        moving = schema.DepthToSpaceOptionsT()
        moving.blockSize = 2
        graph.add_operator(
            resizing, "CONCATENATION", [small] * 4, [four], joining
        )
        graph.add_operator(resizing, "DEPTH_TO_SPACE", [four], [large], moving)
        graph.operators.remove(resizing)


def replace_pools(graph: Graph) -> None:
    """Turns integer 2 x 2 average pooling into a depthwise convolution.

    Runtimes round halves up, down or to even. A bias of 1/128 lets all of them
    round alike: up in even channels, down in odd ones.
    """
    schema = graph.schema
    for pool in graph.of_kind("AVERAGE_POOL_2D"):
        given, made = pool.inputs[0], pool.outputs[0]
        facts = pool.options
        sides = (facts.filterHeight, facts.filterWidth)
        strides = (facts.strideH, facts.strideW)
        halves = sides == strides == (2, 2) and pool.padding == "VALID"
        if not halves or graph.dtype(given) != "INT8":
            continue
        channels = graph.shape(given)[3]
        kernel = graph.add_constant(given, np.full((1, 2, 2, channels), 64))
        nudges = np.where(np.arange(channels) % 2, -2, 2)
        bias = graph.add_constant(given, nudges, "INT32")
        graph.quantize(kernel, 1 / 256)
        graph.quantize(bias, graph.scale(given) / 256)
        options = schema.DepthwiseConv2DOptionsT()
        options.padding = facts.padding
        options.strideH = options.strideW = 2
        options.depthMultiplier = 1
        options.fusedActivationFunction = facts.fusedActivationFunction
        graph.add_operator(
            pool, "DEPTHWISE_CONV_2D", [given, kernel, bias], [made], options
        )
        graph.operators.remove(pool)
