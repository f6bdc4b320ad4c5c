"""The order of operators, and nothing in a file that nobody reads."""

import math

import numpy as np

from gnsmall_keras.export.graph import Graph


def order_operators(graph: Graph) -> None:
    """Orders operators so that little memory is in use at once.

    An operator is preceded by what makes its first input, then by what makes
    its second; which of the two comes first is changed wherever it lowers the
    memory, the most at once first.
    """
    operators = graph.operators
    makers = {tensor: op for op in operators for tensor in op.outputs}
    branches = {
        op: [t for t in dict.fromkeys(op.inputs) if t in makers]
        for op in operators
    }
    best = _depth_first(graph.outputs, makers, branches)
    lowest = _memory(graph, best)
    for branch in [each for each in branches.values() if len(each) > 1]:
        branch.reverse()
        found = _depth_first(graph.outputs, makers, branches)
        memory = _memory(graph, found)
        if memory < lowest:
            best, lowest = found, memory
        else:
            branch.reverse()
    graph.operators = best


def _depth_first(outputs, makers, branches):
    order, done, stack = [], set(), [(t, False) for t in reversed(outputs)]
    while stack:
        tensor, visited = stack.pop()
        operator = makers[tensor]
        if operator in done:
            continue
        if visited:
            done.add(operator)
            order.append(operator)
            continue
        stack.append((tensor, True))
        stack += [(t, False) for t in reversed(branches[operator])]
    return order


def _memory(graph, order):
    """Bytes of values in use at each step, the largest first."""
    last = {}
    for step, operator in enumerate(order):
        last.update(dict.fromkeys([*operator.inputs, *operator.outputs], step))
    last.update(dict.fromkeys(graph.outputs, len(order)))
    in_use = sum(_size(graph, t) for t in graph.inputs)
    ends = {}
    for tensor, step in last.items():
        ends.setdefault(step, []).append(tensor)
    values = {t for op in order for t in op.outputs} | set(graph.inputs)
    steps = []
    for step, operator in enumerate(order):
        in_use += sum(_size(graph, t) for t in operator.outputs)
        steps.append(in_use)
        in_use -= sum(
            _size(graph, t) for t in ends.get(step, ()) if t in values
        )
    return sorted(steps, reverse=True)


def _size(graph, tensor):
    return math.prod(graph.shape(tensor))


def drop_unused(graph: Graph) -> None:
    """Drops what no runtime reads and stores what is equal once.

    Tensors keep no names but those of the inputs and outputs. Operators that
    read equal constants read one tensor.
    """
    model, operators = graph.model, graph.operators
    _share_constants(graph)
    used = [t for op in operators for t in [*op.inputs, *op.outputs]]
    used = sorted({*graph.inputs, *graph.outputs, *used} - {-1})
    place = {old: new for new, old in enumerate(used)} | {-1: -1}
    for each in [graph, *operators]:
        each.inputs = [place[tensor] for tensor in each.inputs]
        each.outputs = [place[tensor] for tensor in each.outputs]
    for signature in model.signatureDefs or []:
        for tensor in [*signature.inputs, *signature.outputs]:
            tensor.tensorIndex = place[int(tensor.tensorIndex)]
    graph.tensors = [graph.tensors[t] for t in used]
    _drop_buffers(graph)
    kept = {*graph.inputs, *graph.outputs}
    for index, tensor in enumerate(graph.tensors):
        if index not in kept:
            tensor.name = None
    codes = sorted({operator.entry.opcodeIndex for operator in operators})
    for entry in (operator.entry for operator in operators):
        entry.opcodeIndex = codes.index(entry.opcodeIndex)
    model.operatorCodes = [model.operatorCodes[code] for code in codes]
    model.metadata = None


def _share_constants(graph):
    first = {}
    for operator in graph.operators:
        for position, tensor in enumerate(operator.inputs):
            values = graph.constant(tensor) if tensor >= 0 else None
            if values is None or len(graph.scales(tensor)):
                continue
            key = (values.dtype.str, values.shape, values.tobytes())
            operator.inputs[position] = first.setdefault(key, tensor)


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
