"""What the devices can run: facts only."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Target:
    """A class of devices.

    Attributes:
        name: what `--target` takes.
        input_dtype: of the file's input: "int8" is pixel - 128.
        forbidden_ops: builtin operators that do not belong in a file for it,
            each with the reason.
    """

    name: str
    input_dtype: str
    forbidden_ops: dict[str, str]


_SHAPE_DEBRIS = "computes a shape that is known before"
_ISLAND = "an island of floating point"

TARGETS = {
    "micro": Target(
        name="micro",
        input_dtype="int8",
        forbidden_ops={
            "TILE": "not registered in TensorFlow Lite for Microcontrollers",
            "BROADCAST_TO": "a copy that the next operator does not need",
            "SHAPE": _SHAPE_DEBRIS,
            "STRIDED_SLICE": _SHAPE_DEBRIS,
            "PACK": _SHAPE_DEBRIS,
            "EXPAND_DIMS": _SHAPE_DEBRIS,
            "QUANTIZE": _ISLAND,
            "DEQUANTIZE": _ISLAND,
        },
    ),
}
