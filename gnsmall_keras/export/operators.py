"""A .tflite file, operator by operator."""

import copy
import math
from typing import NamedTuple


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
    model, graph = _parse(data)
    return sum(_macs(model, graph, operator) for operator in graph.operators)


def split(data: bytes) -> list[Operator]:
    """Returns the operators of a file, each as a file of its own."""
    model, graph = _parse(data)
    return [
        Operator(
            _kind(model, operator),
            _macs(model, graph, operator),
            _alone(model, graph, operator),
        )
        for operator in graph.operators
    ]


def _parse(data):
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    return model, model.subgraphs[0]


def _kind(model, operator):
    from ai_edge_litert import schema_py_generated as schema

    code = model.operatorCodes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    return next(
        name
        for name, value in vars(schema.BuiltinOperator).items()
        if value == number
    )


def _macs(model, graph, operator):
    kind = _kind(model, operator)
    if kind not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
        return 0
    made = math.prod(graph.tensors[operator.outputs[0]].shape)
    kernel = graph.tensors[operator.inputs[1]].shape
    # A kernel is (filters, height, width, channels), a depthwise one
    # (1, height, width, filters), a dense one (units, features).
    taps = kernel[1:3] if kind == "DEPTHWISE_CONV_2D" else kernel[1:]
    return int(made * math.prod(taps))


def _alone(model, graph, operator):
    """The operator with its tensors and their buffers, and nothing else."""
    import flatbuffers

    used = [tensor for tensor in operator.inputs if tensor >= 0]
    used = list(dict.fromkeys([*used, *operator.outputs]))
    place = {tensor: index for index, tensor in enumerate(used)}
    single, single_graph = copy.copy(model), copy.copy(graph)
    single.buffers = [model.buffers[0]]
    single_graph.tensors = []
    for index in used:
        tensor = copy.copy(graph.tensors[index])
        single.buffers.append(model.buffers[tensor.buffer])
        tensor.buffer = len(single.buffers) - 1
        single_graph.tensors.append(tensor)
    step = copy.copy(operator)
    step.inputs = [place.get(tensor, -1) for tensor in operator.inputs]
    step.outputs = [place[tensor] for tensor in operator.outputs]
    single_graph.inputs = [
        place[index]
        for index in dict.fromkeys(operator.inputs)
        if index >= 0
        and model.buffers[graph.tensors[index].buffer].data is None
    ]
    single_graph.outputs = step.outputs
    single_graph.operators = [step]
    single.subgraphs = [single_graph]
    single.signatureDefs = single.metadata = None
    builder = flatbuffers.Builder(2**16)
    builder.Finish(single.Pack(builder), b"TFL3")
    return bytes(builder.Output())
