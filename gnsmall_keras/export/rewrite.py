"""The same integers from fewer operators, fewer bytes and less memory.

A .tflite file is read into objects, changed and written again. Nothing here
knows which network it is or how it was quantised: every rule looks at a file's
operators alone and leaves their integers as they are, so that a rewritten file
can be held to the given one bit by bit.
"""

import math

import numpy as np

from gnsmall_keras.export.graph import Graph

_SAME = 0  # schema.Padding
_REQUANTISING = ("CONV_2D", "DEPTHWISE_CONV_2D", "MEAN", "MUL", "ADD")
_SETTLING_STEPS = 100
_INT8, _INT16 = 9, 7  # schema.TensorType


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
    order_operators(graph)
    drop_unused(graph)
    return graph.pack()


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
                reader.inputs[1] = graph.add_tensor(
                    reader.inputs[1], values=larger
                )
                reader.builtinOptions.padding = _SAME
            graph.remove(pad)


def _pads_itself(graph, pad, reader):
    if graph.kind(reader) != "DEPTHWISE_CONV_2D":
        return False
    options, kernel = reader.builtinOptions, graph.constant(reader.inputs[1])
    if kernel is None:
        return False
    height, width = kernel.shape[1:3]
    border = [height // 2] * 2
    return (
        graph.constant(pad.inputs[1]).tolist()
        == [[0, 0], border, border, [0, 0]]
        and height == width
        and height % 2 == 1
        and options.padding != _SAME
        and options.strideH == options.strideW == 2
        and options.dilationHFactor == options.dilationWFactor == 1
        and not any(
            side % 2 for side in graph.tensors[pad.inputs[0]].shape[1:3]
        )
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
            or graph.kind(conv) not in ("CONV_2D", "DEPTHWISE_CONV_2D")
            or len(graph.consumers(made)) != 1
            or not _ends_with_int8(graph, conv)
        ):
            continue
        for constant in conv.inputs[1:]:
            quantization = graph.tensors[constant].quantization
            quantization.scale = (quantization.scale * factor).astype(
                np.float32
            )
        activations = graph.schema.ActivationFunctionType
        conv.builtinOptions.fusedActivationFunction = activations.RELU
        conv.outputs = product.outputs
        graph.remove(product)


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
        or product.builtinOptions.fusedActivationFunction
    ):
        return None
    factor = (int(values.item()) - graph.zero_point(constant)) * scales[1]
    same = abs(scales[0] * factor / scales[2] - 1.0) < 1e-5
    points = graph.zero_point(given) == graph.zero_point(product.outputs[0])
    return factor if same and points and factor > 0 else None


def _ends_with_int8(graph, conv):
    """Whether the activation cuts off nothing that int8 would not."""
    made = conv.outputs[0]
    activation = conv.builtinOptions.fusedActivationFunction
    kinds = graph.schema.ActivationFunctionType
    if graph.zero_point(made) != -128:
        return False
    if activation == kinds.RELU6:
        return round(6.0 / graph.scale(made)) >= 255
    return activation == kinds.RELU


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
            stop = start + graph.tensors[part].shape[3]
            parts.append(_part_of(graph, conv, part, slice(start, stop)))
            start = stop
        made = conv.outputs[0]
        joining.inputs = np.array(parts, np.int32)
        joining.outputs = np.array([made], np.int32)
        graph.remove(joining)
        graph.main.operators[graph.main.operators.index(conv)] = joining


def _splits(graph, joining, conv):
    if graph.kind(conv) != "DEPTHWISE_CONV_2D":
        return False
    options = conv.builtinOptions
    return (
        joining.builtinOptions.axis in (3, -1)
        and options.strideH * options.strideW > 1
        and options.depthMultiplier == 1
        and all(graph.constant(each) is not None for each in conv.inputs[1:])
    )


def _part_of(graph, conv, source, channels):
    """Adds the convolution of some channels; returns its output."""
    parts = []
    for constant in conv.inputs[1:]:
        values = graph.constant(constant)[..., channels]
        part = graph.add_tensor(constant, values=values)
        quantization = graph.tensors[part].quantization
        if len(graph.scales(part)) > 1:
            copied = graph.schema.QuantizationParametersT()
            vars(copied).update(vars(quantization))
            copied.scale = quantization.scale[channels]
            copied.zeroPoint = quantization.zeroPoint[channels]
            graph.tensors[part].quantization = copied
        parts.append(part)
    shape = [*graph.tensors[conv.outputs[0]].shape[:3], values.shape[-1]]
    made = graph.add_tensor(conv.outputs[0], shape=shape)
    options = graph.schema.DepthwiseConv2DOptionsT()
    vars(options).update(vars(conv.builtinOptions))
    graph.add_operator(
        conv, "DEPTHWISE_CONV_2D", [source, *parts], [made], options
    )
    return made


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
        doubling.builtinOptions.halfPixelCenters = False
    if len(doublings) == len(graph.of_kind("RESIZE_NEAREST_NEIGHBOR")):
        for code in {operator.opcodeIndex for operator in doublings}:
            graph.model.operatorCodes[code].version = 2


def _doubles(graph, resizing):
    small, large = resizing.inputs[0], resizing.outputs[0]
    shape = graph.tensors[small].shape * [1, 2, 2, 1]
    aligned = resizing.builtinOptions.alignCorners
    return not aligned and np.array_equal(graph.tensors[large].shape, shape)


def drop_last_reshape(graph: Graph) -> None:
    """Ends with an image of one pixel where a reshape follows it.

    `(1, 1, 1, classes)` is in memory what `(1, classes)` is, and a device needs
    one kernel less.
    """
    for reshape in graph.of_kind("RESHAPE"):
        given, made = reshape.inputs[0], reshape.outputs[0]
        shape = graph.tensors[given].shape
        is_last = made in graph.main.outputs
        alone = len(graph.consumers(given)) == 1 and graph.producer(given)
        if is_last and alone and np.prod(shape) == shape[-1]:
            graph.tensors[made].shape = shape
            graph.producer(given).outputs = reshape.outputs
            graph.remove(reshape)


def replace_resizings(graph: Graph) -> None:
    """Turns nearest-neighbour doubling into copies that are moved to space."""
    schema = graph.schema
    for resizing in graph.of_kind("RESIZE_NEAREST_NEIGHBOR"):
        small, large = resizing.inputs[0], resizing.outputs[0]
        int16 = graph.tensors[small].type == _INT16  # has no such operator
        if int16 or not _doubles(graph, resizing):
            continue
        shape = graph.tensors[small].shape
        four = graph.add_tensor(small, shape=[*shape[:3], 4 * shape[3]])
        joining = schema.ConcatenationOptionsT()
        joining.axis = 3
        moving = schema.DepthToSpaceOptionsT()
        moving.blockSize = 2
        graph.add_operator(
            resizing, "CONCATENATION", [small] * 4, [four], joining
        )
        graph.add_operator(resizing, "DEPTH_TO_SPACE", [four], [large], moving)
        graph.remove(resizing)


def replace_pools(graph: Graph) -> None:
    """Turns integer 2 x 2 average pooling into a depthwise convolution.

    Runtimes round halves up, down or to even. A bias of 1/128 lets all of them
    round alike: up in even channels, down in odd ones.
    """
    schema = graph.schema
    for pool in graph.of_kind("AVERAGE_POOL_2D"):
        given, made = pool.inputs[0], pool.outputs[0]
        facts = pool.builtinOptions
        sides = (facts.filterHeight, facts.filterWidth)
        strides = (facts.strideH, facts.strideW)
        halves = sides == strides == (2, 2) and facts.padding != _SAME
        if not halves or graph.tensors[given].type != _INT8:
            continue
        channels = int(graph.tensors[given].shape[3])
        kernel = graph.add_tensor(
            given, values=np.full((1, 2, 2, channels), 64, np.int8)
        )
        nudges = np.where(np.arange(channels) % 2, -2, 2).astype(np.int32)
        bias = graph.add_tensor(given, values=nudges)
        graph.tensors[bias].type = schema.TensorType.INT32
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
        graph.remove(pool)


def settle_products(graph: Graph) -> None:
    """Gives products scales with which all runtimes round alike.

    LiteRT multiplies and divides the three scales as float32, TensorFlow Lite
    Micro as float64; of all 65,536 pairs of integers a few may round another
    way. The output's scale then grows by steps of float32 until none does.
    """
    for product in graph.of_kind("MUL"):
        made = product.outputs[0]
        tensors = (*product.inputs, made)
        readers = graph.consumers(made)
        if (
            None in [graph.scale(tensor) for tensor in tensors]
            or any(graph.tensors[tensor].type != _INT8 for tensor in tensors)
            or any(graph.kind(each) not in _REQUANTISING for each in readers)
        ):
            continue
        scale = settled_scale(
            [graph.scale(tensor) for tensor in tensors],
            [graph.zero_point(tensor) for tensor in product.inputs],
        )
        if scale == graph.scale(made):
            continue
        graph.quantize(made, scale, graph.zero_point(made))
        for reader in readers:
            if graph.kind(reader) in ("CONV_2D", "DEPTHWISE_CONV_2D"):
                kernel, bias = (
                    graph.tensors[t].quantization for t in reader.inputs[1:]
                )
                bias.scale = np.float32(scale) * kernel.scale


def settled_scale(scales, zero_points) -> float:
    """Returns the first output scale that rounds alike on all runtimes.

    Args:
        scales: of the two factors and of the output, float32 values.
        zero_points: of the two factors.
    """
    first, second = (np.arange(-128, 128) - point for point in zero_points)
    products = np.unique(np.multiply.outer(first, second))
    single = np.float32(scales[0]) * np.float32(scales[1])
    scale = np.float32(scales[2])
    for _ in range(_SETTLING_STEPS):
        ratios = (
            float(single / scale),  # in float32
            scales[0] * scales[1] / float(scale),
        )
        values = [_requantised(products, ratio) for ratio in ratios]
        if np.array_equal(*values):
            return float(scale)
        scale = np.nextafter(scale, np.float32(np.inf))
    return scales[2]


def _requantised(products, ratio):
    """Integers times `ratio` as the kernels' fixed-point numbers round it."""
    fraction, exponent = math.frexp(ratio)
    wide = products.astype(np.int64) << max(exponent, 0)
    wide = wide * round(fraction * 2**31)
    nudge = np.where(wide >= 0, 1 << 30, 1 - (1 << 30))
    high = np.trunc((wide + nudge) / 2**31).astype(np.int64)
    shift = max(-exponent, 0)
    half = (1 << shift) >> 1
    return np.sign(high) * ((np.abs(high) + half) >> shift)


def order_operators(graph: Graph) -> None:
    """Orders operators so that little memory is in use at once.

    An operator is preceded by what makes its first input, then by what makes
    its second; which of the two comes first is changed wherever it lowers the
    memory, the most at once first.
    """
    operators = graph.main.operators
    makers = {tensor: op for op in operators for tensor in op.outputs}
    branches = {
        id(op): [t for t in dict.fromkeys(op.inputs) if t in makers]
        for op in operators
    }
    outputs = list(graph.main.outputs)
    best = _depth_first(outputs, makers, branches)
    lowest = _memory(graph, best)
    for branch in [each for each in branches.values() if len(each) > 1]:
        branch.reverse()
        found = _depth_first(outputs, makers, branches)
        memory = _memory(graph, found)
        if memory < lowest:
            best, lowest = found, memory
        else:
            branch.reverse()
    graph.main.operators = best


def _depth_first(outputs, makers, branches):
    order, done, stack = [], set(), [(t, False) for t in reversed(outputs)]
    while stack:
        tensor, visited = stack.pop()
        operator = makers[tensor]
        if id(operator) in done:
            continue
        if visited:
            done.add(id(operator))
            order.append(operator)
            continue
        stack.append((tensor, True))
        stack += [(t, False) for t in reversed(branches[id(operator)])]
    return order


def _memory(graph, order):
    """Bytes of values in use at each step, the largest first."""
    last = {}
    for step, operator in enumerate(order):
        last.update(dict.fromkeys([*operator.inputs, *operator.outputs], step))
    last.update(dict.fromkeys(graph.main.outputs, len(order)))
    inputs = list(graph.main.inputs)
    in_use = sum(_size(graph, t) for t in inputs)
    ends = {}
    for tensor, step in last.items():
        ends.setdefault(step, []).append(tensor)
    values = {t for op in order for t in op.outputs} | set(inputs)
    steps = []
    for step, operator in enumerate(order):
        in_use += sum(_size(graph, t) for t in operator.outputs)
        steps.append(in_use)
        in_use -= sum(
            _size(graph, t) for t in ends.get(step, ()) if t in values
        )
    return sorted(steps, reverse=True)


def _size(graph, tensor):
    return int(np.prod(graph.tensors[tensor].shape))


def drop_unused(graph: Graph) -> None:
    """Drops what no runtime reads and stores what is equal once.

    Tensors keep no names but those of the inputs and outputs. Operators that
    read equal constants read one tensor.
    """
    model, main = graph.model, graph.main
    _share_constants(graph)
    used = [t for op in main.operators for t in [*op.inputs, *op.outputs]]
    used = sorted({int(t) for t in [*main.inputs, *main.outputs, *used]} - {-1})
    place = {old: new for new, old in enumerate(used)} | {-1: -1}
    for each in [main, *main.operators]:
        each.inputs, each.outputs = (
            np.array([place[int(t)] for t in tensors], np.int32)
            for tensors in (each.inputs, each.outputs)
        )
    for signature in model.signatureDefs or []:
        for tensor in [*signature.inputs, *signature.outputs]:
            tensor.tensorIndex = place[int(tensor.tensorIndex)]
    main.tensors = graph.tensors = [graph.tensors[t] for t in used]
    _drop_buffers(graph)
    kept = {*main.inputs, *main.outputs}
    for index, tensor in enumerate(main.tensors):
        if index not in kept:
            tensor.name = None
    codes = sorted({op.opcodeIndex for op in main.operators})
    for operator in main.operators:
        operator.opcodeIndex = codes.index(operator.opcodeIndex)
    model.operatorCodes = [model.operatorCodes[code] for code in codes]
    model.metadata = None


def _share_constants(graph):
    first = {}
    for operator in graph.main.operators:
        for position, tensor in enumerate(operator.inputs):
            values = graph.constant(tensor) if tensor >= 0 else None
            if values is None or len(graph.scales(tensor)):
                continue
            key = (values.dtype.str, values.shape, values.tobytes())
            operator.inputs[position] = first.setdefault(key, int(tensor))


def _drop_buffers(graph):
    buffers, place = [graph.schema.BufferT()], {b"": 0}
    for tensor in graph.tensors:
        data = graph.model.buffers[tensor.buffer].data
        key = b"" if data is None else np.asarray(data).tobytes()
        if key not in place:
            place[key] = len(buffers)
            buffers.append(graph.model.buffers[tensor.buffer])
        tensor.buffer = place[key]
    graph.model.buffers = buffers
