"""What a .tflite file contains, read from the file itself."""

import collections
import dataclasses

from gnsmall_keras.devices.targets import Target
from gnsmall_keras.export.graph import Graph
from gnsmall_keras.quiet import LITERT_REMARKS, quiet_stderr

_FLOATS = ("FLOAT16", "FLOAT32", "FLOAT64")
_NEEDED = {
    "float32": ("FLOAT32",),
    "float16": ("FLOAT16",),
    "dynamic": ("INT8", "FLOAT32"),
    "int8": ("INT8",),
    "int16x8": ("INT8", "INT16"),
    "int8-qat": ("INT8",),
    "int8-tfmot": ("INT8",),
}
# Made with QUANTIZE from scale to scale, where others share one.
_RESCALED = ("int16x8", "int8-tfmot")


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
    network = Graph(data)
    ops = collections.Counter(op.kind for op in network.operators)
    tensors = range(len(network))
    dtypes = collections.Counter(map(network.dtype, tensors))
    dynamic = tuple(map(network.name, filter(network.is_dynamic, tensors)))
    return Contents(
        dict(ops.most_common()), dict(dtypes.most_common()), dynamic
    )


def find_faults(
    contents: Contents,
    target: Target,
    quantization: str = "int8",
    *,
    islands: bool = False,
) -> list[str]:
    """Returns why a file is not what was asked for; an empty list if it is.

    Args:
        contents: of the file.
        target: what it is for.
        quantization: as in `ExportConfig`.
        islands: whether some layers of an integer file are to be float.
    """
    integers = quantization.startswith("int") and not islands
    reasons = dict(target.forbidden_ops)
    if target.operators:
        others = contents.ops.keys() - target.operators
        reasons |= dict.fromkeys(sorted(others), target.elsewhere)
    allowed = () if integers else ("QUANTIZE", "DEQUANTIZE")
    if quantization in _RESCALED:
        allowed = ("QUANTIZE",)
    for op in allowed:
        reasons.pop(op, None)
    if "QUANTIZE" in reasons and not any(map(contents.dtypes.get, _FLOATS)):
        reasons["QUANTIZE"] = "changes the scale of integers"
    faults = [
        f"{contents.ops[op]} {op}: {reason}"
        for op, reason in reasons.items()
        if op in contents.ops
    ]
    faults += [
        f"{contents.dtypes[dtype]} {dtype} tensors where only integers run"
        for dtype in _FLOATS
        if integers and dtype in contents.dtypes
    ]
    faults += [
        f"no {dtype} tensors, which {quantization!r} is made of"
        for dtype in _NEEDED[quantization]
        if dtype not in contents.dtypes
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
    with quiet_stderr(LITERT_REMARKS):
        interpreter.allocate_tensors()
    # No public method tells; MediaPipe's and LiteRT's tools use this one.
    operators = interpreter._get_ops_details()
    return sum(each["op_name"] == "DELEGATE" for each in operators)
