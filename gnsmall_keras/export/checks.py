"""What a .tflite file contains, read from the file itself."""

import collections
import dataclasses

from gnsmall_keras.export.targets import Target

_FLOATS = ("FLOAT16", "FLOAT32", "FLOAT64")


@dataclasses.dataclass(frozen=True)
class Contents:
    """Operators and tensors of a file.

    Attributes:
        ops: builtin operator -> how often it is used.
        dtypes: element type -> number of tensors, constants included.
        dynamic_tensors: names of tensors without a fixed shape.
    """

    ops: dict[str, int]
    dtypes: dict[str, int]
    dynamic_tensors: tuple[str, ...]


def read_contents(data: bytes) -> Contents:
    """Reads the operators and tensors of a .tflite file.

    Raises:
        ValueError: if `data` is no such file or has more than one subgraph.
    """
    from ai_edge_litert import schema_py_generated as schema

    if data[4:8] != b"TFL3":
        raise ValueError(
            "The bytes are not a .tflite file: no TFL3 identifier."
        )
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    if len(model.subgraphs) != 1:
        raise ValueError(
            "A .tflite file needs exactly one subgraph. "
            f"Received: {len(model.subgraphs)}."
        )
    graph = model.subgraphs[0]
    op_names = _names(schema.BuiltinOperator)
    type_names = _names(schema.TensorType)
    codes = [
        max(code.builtinCode, code.deprecatedBuiltinCode)
        for code in model.operatorCodes
    ]
    ops = collections.Counter(
        op_names[codes[op.opcodeIndex]] for op in graph.operators
    )
    dtypes = collections.Counter(type_names[t.type] for t in graph.tensors)
    dynamic = tuple(
        tensor.name.decode()
        for tensor in graph.tensors
        if tensor.shapeSignature is not None and -1 in tensor.shapeSignature
    )
    return Contents(
        dict(ops.most_common()), dict(dtypes.most_common()), dynamic
    )


def find_faults(contents: Contents, target: Target) -> list[str]:
    """Returns why a file does not fit `target`; an empty list if it does."""
    reasons = dict(target.forbidden_ops)
    if target.operators:
        others = contents.ops.keys() - target.operators
        reasons |= dict.fromkeys(sorted(others), target.elsewhere)
    faults = [
        f"{contents.ops[op]} {op}: {reason}"
        for op, reason in reasons.items()
        if op in contents.ops
    ]
    faults += [
        f"{contents.dtypes[dtype]} {dtype} tensors where only integers run"
        for dtype in _FLOATS
        if dtype in contents.dtypes
    ]
    if contents.dynamic_tensors:
        faults.append(
            f"tensors without a fixed shape: {contents.dynamic_tensors}"
        )
    return faults


def count_partitions(data: bytes) -> int:
    """Returns in how many pieces XNNPACK runs a file.

    Operators between them run on LiteRT's own, slower kernels.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    # No public method tells; MediaPipe's and LiteRT's tools use this one.
    operators = interpreter._get_ops_details()
    return sum(each["op_name"] == "DELEGATE" for each in operators)


def _names(enumeration):
    return {
        value: name
        for name, value in vars(enumeration).items()
        if not name.startswith("_")
    }
