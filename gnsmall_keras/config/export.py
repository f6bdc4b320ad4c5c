"""How a file is made, as a frozen value."""

import dataclasses
import math
from typing import Literal, get_args

from gnsmall_keras import fields
from gnsmall_keras.config.kinds import Count

Target = Literal["android", "edgetpu", "ethos-u", "micro", "web"]
Quantization = Literal[
    "float32", "float16", "dynamic", "int8", "int16x8", "int8-qat", "int8-tfmot"
]
QUANTIZATIONS: tuple[Quantization, ...] = get_args(Quantization)
TRAINED = ("int8-qat", "int8-tfmot")  # that learn from images with labels
_PEOPLE = ("android", "web")  # that get probabilities
_INTEGERS: tuple[Quantization, ...] = ("int8", "int8-qat", "int8-tfmot")
_TAKEN: dict[Target, tuple[Quantization, ...]] = {
    "android": ("float32", "float16", "dynamic", "int8", "int8-qat"),
    "edgetpu": _INTEGERS,
    "ethos-u": ("int16x8", *_INTEGERS),
    "micro": QUANTIZATIONS,  # a report says what its runtime does not run
    "web": ("int8", "int8-qat"),  # the page gives uint8 pixels
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """How a model becomes a `.tflite` file.

    Raises:
        ValueError: if a value is not one of those named.

    Example:
        >>> gns.ExportConfig(target="android").quantization
        'int8'
    """

    target: Target = "micro"
    """"android": phones, by XNNPACK; "edgetpu": Coral's Edge TPU; "ethos-u":
    Arm's Ethos-U, checked by Vela; "micro": TensorFlow Lite for
    Microcontrollers; "web": browsers, by LiteRT.js."""
    quantization: Quantization = "int8"
    """"float32"; "float16": weights in 16 bits; "dynamic": weights in 8 bits;
    "int8": full integer, post-training; "int16x8": activations in 16 bits;
    "int8-qat": full integer, after quantisation-aware training; "int8-tfmot":
    the same by tensorflow-model-optimization, to compare with. Edge TPUs and
    browsers take int8 alone, Ethos-U also int16x8, phones all but that."""
    calibration: Literal["mse", "minmax"] = "mse"
    """Of int8: "mse" makes channels' ranges alike and clips rare values where
    that lessens the squared error; "minmax" keeps all that was seen."""
    calibration_size: Count = 200
    """At most so many images of the training split, which set the activations'
    ranges."""
    float_layers: tuple[str, ...] = ()
    """Layers of the fused model that stay float in an int8 file."""
    head_units: Count | None = None
    """So many of the units before the classifier, those that move the logits
    most on the calibration images; None: all. Of models that end as the
    GhostNets do, where these have up to half of the weights."""
    compress: str = ""
    """Of int8 and int8-qat, for files that pack better: "cluster:N", N values
    for each kernel of 8 N weights or more, or "prune:S", a share S of zeros in
    each of 2,000 or more. tensorflow-model-optimization fine-tunes with the
    float network as teacher; int8-qat then learns the rounding, with as few
    values and the same zeros. Empty: as trained."""
    compress_images: Count | None = 25_600
    """At most so many images of the training split for that, once each; None:
    all."""
    qat_epochs: Count = 1
    """Passes over the training split, for "int8-qat" and "int8-tfmot"."""
    qat_images: Count | None = None
    """At most so many images of it, for these two; None: all."""
    teacher: str = ""
    """A .keras file or the folder of a run that teaches while the network
    learns its quantisation, for these two, beside the labels; empty: the
    float network itself does, alone."""

    def __post_init__(self):
        fields.settle(self)
        for name in ("teacher", "qat_images", "qat_epochs"):
            given = getattr(self, name) not in (None, getattr(type(self), name))
            if given and self.quantization not in TRAINED:
                raise ValueError(
                    f"`{name}` belongs to quantization='int8-qat' and "
                    "'int8-tfmot'. Received: quantization="
                    f"{self.quantization!r}."
                )
        if self.quantization == "int8-tfmot" and self.target in _PEOPLE:
            raise ValueError(
                "quantization='int8-tfmot' makes files of logits, for 'micro', "
                f"'edgetpu' and 'ethos-u'. Received: target={self.target!r}."
            )
        taken = _TAKEN[self.target]
        if self.quantization not in taken:
            raise ValueError(
                f"`quantization` of a file for {self.target!r} must be one of "
                f"{taken}. Received: {self.quantization!r}."
            )
        if self.compress:
            check_compression(self.compress)
        if self.compress and not self.is_calibrated_int8:
            raise ValueError(
                "`compress` belongs to quantization='int8' and 'int8-qat'. "
                f"Received: quantization={self.quantization!r}."
            )
        if self.float_layers and self.quantization != "int8":
            raise ValueError(
                "`float_layers` belongs to quantization='int8'. "
                f"Received: quantization={self.quantization!r}."
            )
        if self.calibration != "mse" and not self.is_calibrated_int8:
            raise ValueError(
                "`calibration` belongs to quantization='int8' and 'int8-qat'. "
                f"Received: quantization={self.quantization!r}."
            )

    @property
    def needs_tfmot(self) -> bool:
        """Whether tensorflow-model-optimization makes it."""
        return bool(self.compress) or self.quantization == "int8-tfmot"

    @property
    def is_calibrated_int8(self) -> bool:
        """Whether the file is full integer in 8 bits, and calibrated here."""
        return self.quantization in ("int8", "int8-qat")


def check_compression(text: str) -> tuple[str, float]:
    """Returns the kind and the amount of "cluster:32" or "prune:0.5".

    Raises:
        ValueError: unless it is "cluster:" and a whole number >= 2, or "prune:"
            and a number in (0, 1).
    """
    kind, _, amount = text.partition(":")
    try:
        number = float(amount)
    except ValueError:
        number = math.nan
    clusters = kind == "cluster" and number >= 2 and number.is_integer()
    if not clusters and not (kind == "prune" and 0 < number < 1):
        raise ValueError(
            "`compress` must be 'cluster:N' with a whole number N >= 2, or "
            f"'prune:S' with a share of zeros S in (0, 1). Received: {text!r}."
        )
    return kind, number
