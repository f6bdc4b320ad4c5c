"""A .tflite file as C++ for TensorFlow Lite for Microcontrollers."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from gnsmall_keras.devices.labels import find_labels, read_report_beside
from gnsmall_keras.devices.runtime import TFLiteModel, installed_runtimes
from gnsmall_keras.export.graph import Graph
from gnsmall_keras.export.metadata import check_labels
from gnsmall_keras.writing import replacing

# Builtin operators that MicroMutableOpResolver has a method "Add..." for, in
# tensorflow/lite/micro/micro_mutable_op_resolver.h.
_METHODS = (
    "Abs Add AddN ArgMax ArgMin AssignVariable AveragePool2D BatchMatMul "
    "BatchToSpaceNd BroadcastArgs BroadcastTo CallOnce Cast Ceil Concatenation "
    "Conv2D Cos CumSum DepthToSpace DepthwiseConv2D Dequantize Div "
    "DynamicUpdateSlice Elu EmbeddingLookup Equal Exp ExpandDims Fill Floor "
    "FloorDiv FloorMod FullyConnected Gather GatherNd Greater GreaterEqual "
    "HardSwish If L2Normalization L2Pool2D LeakyRelu Less LessEqual Log "
    "LogSoftmax LogicalAnd LogicalNot LogicalOr Logistic MaxPool2D Maximum "
    "Mean Minimum MirrorPad Mul Neg NotEqual Pack Pad PadV2 Prelu Quantize "
    "ReadVariable ReduceAll ReduceMax ReduceMin Relu Relu6 Reshape "
    "ResizeBilinear ResizeNearestNeighbor ReverseV2 Round Rsqrt SelectV2 Shape "
    "Sin Slice Softmax SpaceToBatchNd SpaceToDepth Split SplitV Sqrt Square "
    "SquaredDifference Squeeze StridedSlice Sub Sum Svdf Tanh Transpose "
    "TransposeConv UnidirectionalSequenceLSTM Unpack VarHandle While ZerosLike"
)
# Whose registration has a form for int8 alone, which leaves the kernels of
# other types out of the flash; without optimised kernels it is the usual one.
_INT8_REGISTRATIONS = (
    "ADD",
    "AVERAGE_POOL_2D",
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "FULLY_CONNECTED",
    "MAX_POOL_2D",
    "MUL",
    "SOFTMAX",
)
_METHOD_OF = {method.lower(): method for method in _METHODS.split()}
_BYTES_A_LINE = 12

_HEADER = """\
// Made by `gnsmall c-array` from a .tflite file with the sha256
// {sha256}.
#ifndef MODEL_H_
#define MODEL_H_

#include <cstddef>

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

extern const unsigned char g_model[];
constexpr std::size_t kModelBytes = {size};

// The least that the file starts in on a 64-bit PC with the reference kernels.
// 32-bit pointers need less: there, lower it to what arena_used_bytes() says
// and some KB for planning, and try. Optimised kernels add scratch memory.
constexpr std::size_t kArenaBytes = {arena};

// One image, {colours}, row by row; each value is the pixel's minus 128.
constexpr int kHeight = {height};
constexpr int kWidth = {width};
constexpr int kChannels = {channels};

constexpr int kClasses = {classes};
extern const char* const g_labels[kClasses];

// The operators of the model, and no other.
using OpResolver = tflite::MicroMutableOpResolver<{count}>;

inline TfLiteStatus RegisterOps(OpResolver& resolver) {{
{registrations}
  return kTfLiteOk;
}}

#endif  // MODEL_H_
"""
_SOURCE = """\
#include "model.h"

const char* const g_labels[kClasses] = {{
{labels}
}};

alignas(16) const unsigned char g_model[] = {{
{array}
}};
"""


def write_c_array(
    path: str | os.PathLike,
    folder: str | os.PathLike,
    *,
    labels: Sequence[str] | None = None,
) -> list[Path]:
    """Writes a .tflite file as `model.h` and `model.cc`.

    They have the bytes, the labels, the arena's size as it was measured on
    TensorFlow Lite Micro, here or in the report of the export beside the file,
    and a resolver of the file's operators alone. With tflite/micro/main.cc they
    are a program.

    Args:
        path: of an int8 file.
        folder: of the two files; it is made where there is none.
        labels: of the classes; by default those of `find_labels`, else
            numbers.

    Returns:
        The paths of both files.

    Raises:
        ValueError: if TensorFlow Lite Micro cannot run the file, its arena is
            not known, or the labels are not one a class.
    """
    texts = _sources(Path(path), labels)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        with replacing(folder / name) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def add_method(op: str) -> str:
    """Returns the resolver's method for a builtin operator: "AddConv2D".

    Raises:
        ValueError: if TensorFlow Lite Micro has no such operator.
    """
    method = _METHOD_OF.get(op.replace("_", "").lower())
    if method is None:
        raise ValueError(
            "TensorFlow Lite Micro must have every operator of the file. "
            f"Received: {op}. Export with --target micro."
        )
    return f"Add{method}"


def _registrations(data):
    """The calls that register the kernels of a file's operators, by name.

    Those of int8 alone are for files in which no such layer is float: they
    take whatever they are given for int8.
    """
    network, others, kinds = Graph(data), set(), set()
    for operator in network.operators:
        kinds.add(operator.kind)
        if {network.dtype(tensor) for tensor in operator.outputs} != {"INT8"}:
            others.add(operator.kind)
    return [
        f"{add_method(kind)}(tflite::Register_{kind}_INT8())"
        if kind in _INT8_REGISTRATIONS and kind not in others
        else f"{add_method(kind)}()"
        for kind in sorted(kinds)
    ]


def _opened(path):
    """The file on a runtime, and its arena on TensorFlow Lite Micro."""
    if "tflite-micro" in installed_runtimes():
        runner = TFLiteModel(path, runtime="tflite-micro")
        return runner, runner.arena_bytes
    runner = TFLiteModel(path)
    arena = read_report_beside(path).get("arena_bytes")
    if arena is None:
        raise ValueError(
            "An arena is measured with TensorFlow Lite Micro, whose package is "
            "for Linux on x86-64 alone, or read from the report of an export "
            f"there. Received: {path} without such a report beside it. Bring "
            f"{path.with_suffix('.json').name} along, or run this on such a "
            "Linux with pip install 'gnsmall-keras[export]'."
        )
    return runner, arena


def _sources(path, labels):
    runner, arena = _opened(path)
    if runner.dtypes != ("int8", "int8"):
        raise ValueError(
            "A microcontroller's file takes and returns int8. Received: "
            f"{runner.dtypes}. Export with --target micro --quantization int8."
        )
    data = path.read_bytes()
    numbers = [str(number) for number in range(runner.classes)]
    digest = hashlib.sha256(data).hexdigest()
    labels = labels or find_labels(path) or numbers
    check_labels(labels, runner.classes)
    registrations = _registrations(data)
    _, height, width, channels = runner.input_shape
    header = _HEADER.format(
        sha256=digest,
        size=len(data),
        arena=arena,
        height=height,
        width=width,
        channels=channels,
        colours="grey" if channels == 1 else "RGB",
        classes=runner.classes,
        count=len(registrations),
        registrations="\n".join(
            f"  TF_LITE_ENSURE_STATUS(resolver.{call});"
            for call in registrations
        ),
    )
    source = _SOURCE.format(
        # JSON's quotes and escapes are those of C++.
        labels="\n".join(
            f"    {json.dumps(label, ensure_ascii=False)}," for label in labels
        ),
        array=_array(data),
    )
    return {"model.h": header, "model.cc": source}


def _array(data):
    lines = (
        data[start : start + _BYTES_A_LINE]
        for start in range(0, len(data), _BYTES_A_LINE)
    )
    return "\n".join(
        "    " + ", ".join(f"0x{byte:02x}" for byte in line) + ","
        for line in lines
    )
