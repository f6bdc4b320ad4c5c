"""Experiments as frozen values, and the names they give to runs."""

import dataclasses
import hashlib
import json
import math
from typing import Any, Literal

from gnsmall_keras.models.catalogue import check_network
from gnsmall_keras.models.spec import HEAD_UNITS, check_width
from gnsmall_keras.recipes import RECIPES, Recipe

DIGEST_LENGTH = 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run; everything that decides its result, as scalars.

    Raises:
        ValueError: if a value breaks its rule; the message has the cure.
    """

    model: str = "gns"
    """A network of `gnsmall models`: "gns" (GhostNetV3-Small), "resnet18"..."""
    width: float = 1.0
    """Channel multiplier of a GhostNet, > 0."""
    head_units: int = HEAD_UNITS
    """Units of the layer before a GhostNet's classifier."""
    data: str = "digits"
    """"digits", "cifar10", "cifar100", or a path to images."""
    recipe: str = "quick"
    """Named hyper-parameters: "quick", "paper" or "teacher"."""
    epochs: int | None = None
    """Passes over the training split; None: the recipe's."""
    batch_size: int | None = None
    """Images per step; None: the recipe's."""
    peak_learning_rate: float | None = None
    """Reached after the warm-up; None: the recipe's."""
    protocol: Literal["validation", "paper"] = "validation"
    """"validation" holds out a part of the training split and reads the test
    split once; "paper" trains on everything and watches the test split."""
    validation_fraction: float = 0.1
    """Part of the training split held out, stratified by class."""
    select: Literal["last", "validation"] = "last"
    """Weights that are kept: the last epoch's or the best on validation."""
    shuffle: bool = True
    """Whether every epoch has its own order; False only to study the effect."""
    augment: bool = True
    """Random crops from 4 pixels of padding, and flips where classes allow."""
    seed: int = 0
    """Of the split, the initial weights, the order and the augmentation."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Of the computation; "mixed_..." keeps weights in float32, for GPUs."""

    def __post_init__(self):
        check_width(self.width)
        self._check_size()
        if self.recipe not in RECIPES:
            raise ValueError(
                f"`recipe` must be one of {sorted(RECIPES)}. "
                f"Received: recipe={self.recipe!r}."
            )
        for name in ("epochs", "batch_size", "head_units"):
            _check_whole(name, getattr(self, name), least=1)
        _check_whole("seed", self.seed, least=0)
        rate = self.peak_learning_rate
        if rate is not None and not (math.isfinite(rate) and rate > 0):
            raise ValueError(
                "`peak_learning_rate` must be a finite number > 0. "
                f"Received: {rate!r}."
            )
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                "`validation_fraction` must be between 0 and 1. "
                f"Received: {self.validation_fraction!r}."
            )
        for name, allowed in (
            ("protocol", ("validation", "paper")),
            ("select", ("last", "validation")),
            ("precision", ("float32", "mixed_bfloat16", "mixed_float16")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"`{name}` must be one of {allowed}. "
                    f"Received: {name}={getattr(self, name)!r}."
                )
        if self.protocol == "paper" and self.select != "last":
            raise ValueError(
                'protocol="paper" holds out no validation split to select on. '
                'Use select="last"; the best test accuracy is reported apart.'
            )

    def _check_size(self):
        default = (1.0, HEAD_UNITS)
        given = (self.width, self.head_units)
        if not check_network(self.model).scales and given != default:
            raise ValueError(
                "`width` and `head_units` are sizes of GhostNets (gns, gnd); "
                f"{self.model!r} has one size. Received: width={self.width!r}, "
                f"head_units={self.head_units!r}. Leave them out."
            )

    @property
    def resolved_recipe(self) -> Recipe:
        """The recipe with this config's own values in their places."""
        own = {
            name: getattr(self, name)
            for name in ("epochs", "batch_size", "peak_learning_rate")
            if getattr(self, name) is not None
        }
        return dataclasses.replace(RECIPES[self.recipe], **own)

    @property
    def digest(self) -> str:
        """First characters of a hash of the config and the whole recipe."""
        values = dataclasses.asdict(self)
        values["recipe_values"] = dataclasses.asdict(self.resolved_recipe)
        text = json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]

    @property
    def slug(self) -> str:
        """A run's name: for people in front, for machines at the end."""
        data = self.data.rstrip("/").rsplit("/", 1)[-1].split(".")[0]
        size = f"-w{self.width:g}" if check_network(self.model).scales else ""
        epochs = self.resolved_recipe.epochs
        return (
            f"{self.model}{size}-{data}-{self.recipe}-e{epochs}"
            f"-s{self.seed}-{self.digest}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """How a model becomes a `.tflite` file.

    Raises:
        ValueError: if a value is not one of those named.
    """

    target: Literal["micro"] = "micro"
    """"micro": TensorFlow Lite for Microcontrollers."""
    quantization: Literal["int8"] = "int8"
    """"int8": full integer, after training."""
    calibration_size: int = 200
    """Images of the training split that set the activations' ranges."""

    def __post_init__(self):
        for name, allowed in (
            ("target", ("micro",)),
            ("quantization", ("int8",)),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"`{name}` must be one of {allowed}. "
                    f"Received: {name}={getattr(self, name)!r}."
                )
        _check_whole("calibration_size", self.calibration_size, least=1)


def _check_whole(name: str, value: Any, *, least: int) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(
            f"`{name}` must be a whole number >= {least}. "
            f"Received: {name}={value!r}."
        )
