"""What the devices can run: facts only."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Target:
    """A class of devices.

    Attributes:
        name: what `--target` takes.
        input_dtype: of the file's input: "int8" is pixel - 128.
        forbidden_ops: operators that do not belong in a file for it although
            they run, each with the reason.
        probabilities: whether the file ends in a softmax, not in logits.
        labels: whether it brings the names of its classes along.
        for_xnnpack: whether it is made of operators that XNNPACK takes, so that
            the network is one piece there.
        operators: builtin operators that a file for it may have; empty: all.
        elsewhere: what is said of other operators.
    """

    name: str
    input_dtype: str
    forbidden_ops: dict[str, str]
    probabilities: bool = False
    labels: bool = False
    for_xnnpack: bool = False
    operators: frozenset[str] = frozenset()
    elsewhere: str = ""


_SHAPE_DEBRIS = "computes a shape that is known before"
_ISLAND = "an island of floating point"
_COPY = "a copy that the next operator does not need"

_DEBRIS = {
    "TILE": _COPY,
    "BROADCAST_TO": _COPY,
    "SHAPE": _SHAPE_DEBRIS,
    "STRIDED_SLICE": _SHAPE_DEBRIS,
    "PACK": _SHAPE_DEBRIS,
    "EXPAND_DIMS": _SHAPE_DEBRIS,
}
_ISLANDS = {"QUANTIZE": _ISLAND, "DEQUANTIZE": _ISLAND}

# Registered by tensorflow/lite/micro's python_ops_resolver.cc, 2026-08, less
# those of control flow, variables and strings.
_MICRO = """
ABS ADD ADD_N ARG_MAX ARG_MIN AVERAGE_POOL_2D BATCH_MATMUL BATCH_TO_SPACE_ND
BROADCAST_ARGS BROADCAST_TO CAST CEIL CONCATENATION CONV_2D COS CUMSUM
DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE DIV DYNAMIC_UPDATE_SLICE ELU
EMBEDDING_LOOKUP EQUAL EXP EXPAND_DIMS FILL FLOOR FLOOR_DIV FLOOR_MOD
FULLY_CONNECTED GATHER GATHER_ND GREATER GREATER_EQUAL HARD_SWISH
L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS LESS_EQUAL LOG LOGICAL_AND
LOGICAL_NOT LOGICAL_OR LOGISTIC LOG_SOFTMAX MAXIMUM MAX_POOL_2D MEAN MINIMUM
MIRROR_PAD MUL NEG NOT_EQUAL PACK PAD PADV2 PRELU QUANTIZE REDUCE_ALL
REDUCE_MAX REDUCE_MIN RELU RELU6 RESHAPE RESIZE_BILINEAR
RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND RSQRT SELECT_V2 SHAPE SIN SLICE
SOFTMAX SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE
SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM SVDF TANH TRANSPOSE
TRANSPOSE_CONV UNPACK ZEROS_LIKE
"""
MICRO_OPERATORS = frozenset(_MICRO.split())

# coral.ai, "TensorFlow models on the Edge TPU", table of supported operations.
# Their limits are checked by `gnsmall_keras.devices.edgetpu`.
_EDGETPU = """
ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D EXPAND_DIMS
FULLY_CONNECTED L2_NORMALIZATION LOGISTIC LSTM MAXIMUM MAX_POOL_2D MEAN
MINIMUM MUL PACK PAD PRELU QUANTIZE REDUCE_MAX REDUCE_MIN RELU RELU6
RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RSQRT SLICE
SOFTMAX SPACE_TO_DEPTH SPLIT SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM
TANH TRANSPOSE TRANSPOSE_CONV
"""
EDGETPU_OPERATORS = frozenset(_EDGETPU.split())
EDGETPU_PARAMETER_BYTES = 8_000_000  # "roughly 8 MB" of memory on the chip

TARGETS = {
    "android": Target(
        name="android",
        input_dtype="uint8",
        probabilities=True,
        labels=True,
        for_xnnpack=True,
        forbidden_ops=_DEBRIS | {"DEQUANTIZE": _ISLAND},
    ),
    "edgetpu": Target(
        name="edgetpu",
        input_dtype="int8",
        operators=EDGETPU_OPERATORS,
        elsewhere="not an operation of the Edge TPU",
        forbidden_ops=_DEBRIS | _ISLANDS,
    ),
    "ethos-u": Target(
        name="ethos-u",
        input_dtype="int8",
        operators=MICRO_OPERATORS,
        elsewhere="not registered in TensorFlow Lite for Microcontrollers",
        forbidden_ops=_DEBRIS | _ISLANDS,
    ),
    "micro": Target(
        name="micro",
        input_dtype="int8",
        operators=MICRO_OPERATORS,
        elsewhere="not registered in TensorFlow Lite for Microcontrollers",
        forbidden_ops=_DEBRIS | _ISLANDS,
    ),
    # LiteRT.js refuses int8 input; it has XNNPACK's kernels.
    "web": Target(
        name="web",
        input_dtype="uint8",
        probabilities=True,
        labels=True,
        for_xnnpack=True,
        forbidden_ops=_DEBRIS | {"DEQUANTIZE": _ISLAND},
    ),
}


@dataclasses.dataclass(frozen=True)
class Budget:
    """Memory of a class of microcontrollers, in bytes.

    Attributes:
        name: what `gnsmall report --budget` takes.
        flash_bytes: for the file and the code that runs it.
        arena_bytes: working memory for TensorFlow Lite Micro.
    """

    name: str
    flash_bytes: int
    arena_bytes: int

    @property
    def file_bytes(self) -> int:
        """What the code leaves of the flash."""
        return self.flash_bytes - CODE_BYTES

    def __str__(self) -> str:
        """Its sizes in KB of 1,024 bytes."""
        return (
            f"{self.flash_bytes // 1024:,} KB of flash, "
            f"{self.arena_bytes // 1024:,} KB of arena, with "
            f"{CODE_BYTES // 1024} KB of the flash for code"
        )


# Of flash, set aside for the interpreter and the kernels of nine operators, as
# a linker found it; docs/provenance.md says how.
CODE_BYTES = 72 * 1024
BUDGETS = {  # the smallest first
    budget.name: budget
    for budget in (
        Budget("256k", 256 * 1024, 64 * 1024),
        Budget("512k", 512 * 1024, 128 * 1024),
        Budget("1m", 1024 * 1024, 256 * 1024),
    )
}


def is_int8(quantization: str) -> bool:
    """Whether a file is full integer in 8 bits, however it became so."""
    return quantization.startswith("int8")


def find_budget(size_bytes: int, arena_bytes: int | None) -> Budget | None:
    """Returns the smallest class of microcontrollers that a file fits.

    Args:
        size_bytes: of the file.
        arena_bytes: that it needs on TensorFlow Lite Micro; None: it does not
            run, or that is not known.
    """
    for budget in BUDGETS.values():
        if (
            arena_bytes is not None
            and size_bytes <= budget.file_bytes
            and arena_bytes <= budget.arena_bytes
        ):
            return budget
    return None


def describe_class(report: Any) -> str:
    """Returns the words for the smallest class that a file fits, or for none.

    Classes are of int8 files: `gnsmall c-array` takes no other, and the flash
    that is set aside is of their kernels.

    Args:
        report: of the file's export, an `ExportReport`.
    """
    none = "none of our classes"
    if not is_int8(report.quantization):
        return f"{none}, which are of int8 files (--quantization int8)"
    budget = find_budget(report.size_bytes, report.arena_bytes)
    none = none if report.knows_micro else "unknown"
    return str(budget or none)
