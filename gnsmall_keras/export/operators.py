"""A .tflite file, operator by operator."""

import copy
import math
from typing import NamedTuple

import keras

from gnsmall_keras.export.graph import Graph, pack
from gnsmall_keras.models import counting


class Operator(NamedTuple):
    """One operator of a file."""

    kind: str  # builtin operator, as in "CONV_2D"
    macs: int  # multiply-accumulates, padding's zeros included
    file: bytes  # a .tflite file with this operator alone


def count_macs(data: bytes) -> int:
    """Returns the multiply-accumulates of a .tflite file.

    Convolutions and dense layers are counted as the file has them, zeros that
    fill a kernel included; products, additions and pooling are not.
    """
    graph = Graph(data)
    return sum(_macs(graph, operator) for operator in graph.operators)


def macs_of(model: keras.Model, data: bytes) -> int:
    """Returns a model's multiply-accumulates.

    Args:
        model: functional, of images of a fixed size.
        data: its .tflite file, which is counted where the model has layers
            that `models.counting` does not know.
    """
    try:
        return counting.count_macs(model)
    except ValueError:
        return count_macs(data)


def split(data: bytes) -> list[Operator]:
    """Returns the operators of a file, each as a file of its own."""
    graph = Graph(data)
    return [
        Operator(operator.kind, _macs(graph, operator), _alone(graph, operator))
        for operator in graph.operators
    ]


def _macs(graph, operator):
    if not operator.is_linear:
        return 0
    made = math.prod(graph.shape(operator.outputs[0]))
    kernel = graph.shape(operator.inputs[1])
    # A kernel is (filters, height, width, channels), a depthwise one
    # (1, height, width, filters), a dense one (units, features).
    depthwise = operator.kind == "DEPTHWISE_CONV_2D"
    return made * math.prod(kernel[1:3] if depthwise else kernel[1:])


def _alone(graph, operator):
    """The operator with its tensors and their buffers, and nothing else."""
    used = list(dict.fromkeys([*operator.sources, *operator.outputs]))
    place = {tensor: index for index, tensor in enumerate(used)} | {-1: -1}
    buffers = graph.model.buffers
    alone, main = copy.copy(graph.model), copy.copy(graph.model.subgraphs[0])
    alone.buffers, main.tensors = [buffers[0]], []
    main.inputs = []
    for tensor in used:
        entry = copy.copy(graph.tensors[tensor])
        if tensor in operator.inputs and buffers[entry.buffer].data is None:
            main.inputs.append(place[tensor])
        alone.buffers.append(buffers[entry.buffer])
        entry.buffer = len(alone.buffers) - 1
        main.tensors.append(entry)
    step = copy.copy(operator.entry)
    step.inputs = [place[tensor] for tensor in operator.inputs]
    step.outputs = main.outputs = [place[t] for t in operator.outputs]
    main.operators = [step]
    alone.subgraphs = [main]
    alone.signatureDefs = alone.metadata = None
    return pack(alone)
