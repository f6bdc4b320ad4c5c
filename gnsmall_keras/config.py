"""Experiments as frozen values, and the names they give to runs."""

import dataclasses
import hashlib
import json
import math
import numbers
import os
import types
from collections.abc import Iterable, Sequence
from typing import Any, Literal, cast, get_args, get_origin

from gnsmall_keras.models.catalogue import check_network
from gnsmall_keras.models.spec import HEAD_UNITS, check_width
from gnsmall_keras.recipes import RECIPES, Recipe

DIGEST_LENGTH = 6
Quantization = Literal[
    "float32", "float16", "dynamic", "int8", "int16x8", "int8-qat"
]
QUANTIZATIONS: tuple[Quantization, ...] = get_args(Quantization)
# What a batch's images are mixed with; options of recipes.
MIXING = ("cutout", "mixup", "cutmix")
# What a config can have in a recipe's place.
_OF_RECIPES = (
    "epochs",
    "batch_size",
    "peak_learning_rate",
    "label_smoothing",
    *MIXING,
    "ema_momentum",
)
# Fields younger than the first records: part of its identity only where they
# differ from their default, so that runs keep their names.
_LATER = frozenset((*MIXING, "ema_momentum", "devices", "label_smoothing"))


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
    """Named hyper-parameters: "best", "quick", "paper" or "teacher"."""
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
    """Random crops, flips where classes allow, cutout, mixup and CutMix, as
    the recipe has them; False: the plain images."""
    seed: int = 0
    """Of the split, the initial weights, the order and the augmentation."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Of the computation; "mixed_..." keeps weights in float32, for GPUs."""
    cutout: int | None = None
    """Side in pixels of a square of each image that is set to the mean; 0:
    none; None: the recipe's."""
    mixup: float | None = None
    """Alpha of mixup: images are mixed in pairs, by Beta(alpha, alpha); 0:
    none; None: the recipe's."""
    cutmix: float | None = None
    """Alpha of CutMix: a box of each image is another's; 0: none; None: the
    recipe's. Beside mixup each batch takes one of them."""
    ema_momentum: float | None = None
    """Of an average of the weights, which takes their place in the end; 0:
    none; None: the recipe's."""
    label_smoothing: float | None = None
    """Part of a label that is spread over all classes; 0: none; None: the
    recipe's."""
    devices: int = 1
    """How many share a step; `batch_size` is the images of each."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = _settled(field.name, field.type, getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        check_width(self.width)
        self._check_size()
        if self.recipe not in RECIPES:
            raise ValueError(
                f"`recipe` must be one of {sorted(RECIPES)}. "
                f"Received: recipe={self.recipe!r}."
            )
        for name in ("epochs", "batch_size", "head_units", "devices"):
            _check_whole(name, getattr(self, name), least=1)
        _check_whole("seed", self.seed, least=0)
        if self.ema_momentum is not None and not 0 <= self.ema_momentum < 1:
            raise ValueError(
                "`ema_momentum` must be in [0, 1); 0 takes no average. "
                f"Received: {self.ema_momentum!r}."
            )
        smoothing = self.label_smoothing
        if smoothing is not None and not 0 <= smoothing < 1:
            raise ValueError(
                "`label_smoothing` must be in [0, 1); 0 smooths nothing. "
                f"Received: {smoothing!r}."
            )
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
        self._check_mixing()

    def _check_mixing(self):
        _check_whole("cutout", self.cutout, least=0)
        for name in ("mixup", "cutmix"):
            alpha = getattr(self, name)
            if alpha is not None and not (math.isfinite(alpha) and alpha >= 0):
                raise ValueError(
                    f"`{name}` must be a finite number >= 0; 0 mixes nothing. "
                    f"Received: {name}={alpha!r}."
                )
        asked = [name for name in MIXING if getattr(self, name)]
        if asked and not self.augment:
            raise ValueError(
                f"augment=False leaves images as they are. Received: {asked} "
                "with it. Leave them out, or set augment=True."
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
            for name in _OF_RECIPES
            if getattr(self, name) is not None
        }
        return dataclasses.replace(RECIPES[self.recipe], **own)

    @property
    def images_per_step(self) -> int:
        """The batch of all devices together."""
        return self.resolved_recipe.batch_size * self.devices

    @property
    def identity(self) -> dict[str, Any]:
        """The values that name it."""
        values = dataclasses.asdict(self)
        for field in dataclasses.fields(self):
            if field.name in _LATER and values[field.name] == field.default:
                del values[field.name]
        return values

    @property
    def digest(self) -> str:
        """First characters of a hash of the config and the whole recipe."""
        values = self.identity
        values["recipe_values"] = self.resolved_recipe.identity
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
class DistillConfig(TrainConfig):
    """One run of a student that learns from teachers.

    Raises:
        ValueError: if a value breaks its rule; the message has the cure.
    """

    strategy: Literal["baseline", "kd", "assistant", "ensemble"] = "kd"
    """"baseline": labels alone; "kd": one teacher; "assistant": teacher, then
    assistants, then the student, each learning from the one before; "ensemble":
    several teachers at once."""
    teachers: tuple[str, ...] = ()
    """Files of models (.keras), folders of runs, or names of runs that are in
    the folder of this one's."""
    assistants: tuple[str, ...] = ()
    """Of strategy "assistant", from the teacher on: networks to train, such as
    "gns-w0.75" or "wrn_16_4", or files and folders of trained ones."""
    dense: bool = False
    """Whether all earlier ones teach each stage of "assistant" ("densely
    guided"), not only the one before."""
    loss: str = "kd"
    """Towards the teacher: "kd", "dkd", "standardized_kd" or "dist"."""
    label_weight: float = 0.5
    """Of the labels' loss, in [0, 1]; the rest is the teacher's."""
    temperature: float = 4.0
    """Divides logits before their softmax, > 0."""
    combine: Literal["probabilities", "logits", "per_teacher"] = "probabilities"
    """How several teachers become one target."""
    teacher_weights: tuple[float, ...] = ()
    """A number >= 0 for each teacher; empty: equal ones."""
    confidence_weights: bool = False
    """Whether a teacher counts by the probability it gives to the label."""
    cache: str = ""
    """Of strategy "kd": folder of `gnsmall cache-teacher`, or the name of a run
    in the folder of this one's, whose answers to as many views as there are
    epochs are stored once in its folder, for all who learn from them. No
    teacher runs, and images are neither cut out nor mixed."""

    def __post_init__(self):
        super().__post_init__()
        for name, allowed in (
            ("strategy", ("baseline", "kd", "assistant", "ensemble")),
            ("loss", ("kd", "dkd", "standardized_kd", "dist")),
            ("combine", ("probabilities", "logits", "per_teacher")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"`{name}` must be one of {allowed}. "
                    f"Received: {name}={getattr(self, name)!r}."
                )
        check_label_weight(self.label_weight)
        check_temperature(self.temperature)
        self._check_teachers()
        self._check_cache()
        self._check_chain()
        weighted = self.teacher_weights or self.confidence_weights
        if weighted and self.strategy != "ensemble":
            raise ValueError(
                "`teacher_weights` and `confidence_weights` belong to "
                f"strategy='ensemble'. Received: strategy={self.strategy!r}."
            )
        if self.teacher_weights and self.confidence_weights:
            raise ValueError(
                "Give `teacher_weights` or `confidence_weights`, not both. "
                f"Received: teacher_weights={self.teacher_weights}."
            )
        if self.teacher_weights:
            normalize_weights(self.teacher_weights, len(self.teachers))

    def _check_teachers(self):
        given = len(self.teachers) + bool(self.cache)
        rule = {
            "baseline": ("no teacher", given == 0),
            "kd": ("one teacher or a cache", given == 1),
            "assistant": (
                "one teacher, no cache",
                given == 1 and not self.cache,
            ),
            "ensemble": (
                "one teacher or more, no cache",
                given >= 1 and not self.cache,
            ),
        }[self.strategy]
        if not rule[1]:
            raise ValueError(
                f"strategy={self.strategy!r} takes {rule[0]}. Received: "
                f"teachers={self.teachers}, cache={self.cache!r}."
            )
        if self.strategy != "assistant" and (self.assistants or self.dense):
            raise ValueError(
                "`assistants` and `dense` belong to strategy='assistant'. "
                f"Received: strategy={self.strategy!r}."
            )

    def _check_cache(self):
        recipe = self.resolved_recipe
        used = {
            name: getattr(recipe, name)
            for name in MIXING
            if self.augment and getattr(recipe, name)
        }
        if self.cache and used:
            raise ValueError(
                "A cache holds what the teacher says of images that are "
                f"neither cut out nor mixed. Received: cache={self.cache!r} "
                f"with {used}. Set these to 0, or give the teacher itself in "
                "`teachers`: it sees what the student sees."
            )

    def _check_chain(self):
        chain = [*self.teachers, *self.assistants]
        twice = sorted({link for link in chain if chain.count(link) > 1})
        if twice and self.strategy == "assistant":
            raise ValueError(
                "A chain must not come back to where it was. Received twice: "
                f"{twice}. Name each model once."
            )

    @property
    def slug(self) -> str:
        """A run's name, with strategy and temperature."""
        first, seed, digest = super().slug.rsplit("-", 2)
        how = self.strategy
        if self.strategy != "baseline":
            how += f"-{self.loss}-t{self.temperature:g}-l{self.label_weight:g}"
        return f"{first}-{how}-{seed}-{digest}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """How a model becomes a `.tflite` file.

    Raises:
        ValueError: if a value is not one of those named.
    """

    target: Literal["android", "edgetpu", "ethos-u", "micro", "web"] = "micro"
    """"android": phones, by XNNPACK; "edgetpu": Coral's Edge TPU; "ethos-u":
    Arm's Ethos-U, checked by Vela; "micro": TensorFlow Lite for
    Microcontrollers; "web": browsers, by LiteRT.js."""
    quantization: Quantization = "int8"
    """"float32"; "float16": weights in 16 bits; "dynamic": weights in 8 bits;
    "int8": full integer, after training; "int16x8": activations in 16 bits;
    "int8-qat": full integer, after some more training with its rounding."""
    calibration: Literal["mse", "minmax"] = "mse"
    """Of int8: "mse" makes channels' ranges alike and clips rare values where
    that lessens the squared error; "minmax" keeps all that was seen."""
    calibration_size: int = 200
    """Images of the training split that set the activations' ranges."""
    float_layers: tuple[str, ...] = ()
    """Layers of the fused model that stay float in an int8 file."""
    compress: str = ""
    """Of int8: "cluster:N", N values for each kernel, or "prune:S", a share S
    of zeros, for files that pack better; fine-tuned with the float network as
    teacher, by tensorflow-model-optimization. Empty: as trained."""
    compress_images: int | None = None
    """At most so many images of the training split for that; None: all."""
    qat_epochs: int = 1
    """Passes over the training split, for "int8-qat"."""
    qat_images: int | None = None
    """At most so many images of it, for "int8-qat"; None: all."""
    teacher: str = ""
    """A .keras file or the folder of a run that teaches while the network
    learns its quantisation, for "int8-qat", beside the labels; empty: the
    float network itself does, alone."""

    def __post_init__(self):
        for name, allowed in (
            ("target", ("android", "edgetpu", "ethos-u", "micro", "web")),
            ("quantization", QUANTIZATIONS),
            ("calibration", ("mse", "minmax")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"`{name}` must be one of {allowed}. "
                    f"Received: {name}={getattr(self, name)!r}."
                )
        layers = _settled("float_layers", tuple[str, ...], self.float_layers)
        object.__setattr__(self, "float_layers", layers)
        _check_whole("calibration_size", self.calibration_size, least=1)
        _check_whole("qat_epochs", self.qat_epochs, least=1)
        _check_whole("qat_images", self.qat_images, least=1)
        for name in ("teacher", "qat_images", "qat_epochs"):
            given = getattr(self, name) not in (None, getattr(type(self), name))
            if given and self.quantization != "int8-qat":
                raise ValueError(
                    f"`{name}` belongs to quantization='int8-qat'. "
                    f"Received: quantization={self.quantization!r}."
                )
        _check_whole("compress_images", self.compress_images, least=1)
        if self.compress:
            check_compression(self.compress)
        if self.compress and self.quantization != "int8":
            raise ValueError(
                "`compress` belongs to quantization='int8'. "
                f"Received: quantization={self.quantization!r}."
            )
        if self.float_layers and self.quantization != "int8":
            raise ValueError(
                "`float_layers` belongs to quantization='int8'. "
                f"Received: quantization={self.quantization!r}."
            )
        if self.calibration != "mse" and not self.is_int8:
            raise ValueError(
                "`calibration` belongs to quantization='int8' and 'int8-qat'. "
                f"Received: quantization={self.quantization!r}."
            )

    @property
    def is_int8(self) -> bool:
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


def check_label_weight(label_weight: float) -> None:
    """Checks the labels' part of the loss.

    Raises:
        ValueError: if it is not in [0, 1].
    """
    if not (math.isfinite(label_weight) and 0.0 <= label_weight <= 1.0):
        raise ValueError(
            "`label_weight` must be in [0, 1]: 1 is labels alone. "
            f"Received: {label_weight!r}."
        )


def check_temperature(temperature: float) -> None:
    """Checks what logits are divided by.

    Raises:
        ValueError: if it is not a finite number > 0.
    """
    if not (math.isfinite(temperature) and temperature > 0.0):
        raise ValueError(
            "`temperature` must be a finite number > 0; 1 leaves logits as "
            f"they are. Received: {temperature!r}."
        )


def normalize_weights(
    weights: Sequence[float] | None, teachers: int
) -> tuple[float, ...]:
    """Returns one weight for each teacher; they add up to 1.

    Raises:
        ValueError: if a weight is below 0, their sum is not above 0, or their
            number is not that of the teachers.
    """
    values = [1.0] * teachers if weights is None else [*map(float, weights)]
    total = sum(values)
    if (
        len(values) != teachers
        or not all(math.isfinite(value) and value >= 0 for value in values)
        or total <= 0
    ):
        raise ValueError(
            "`weights` must be a number >= 0 for each teacher, with a sum > 0. "
            f"Received: {weights!r} for {teachers} teachers."
        )
    return tuple(value / total for value in values)


def _settled(name: str, hint: Any, value: Any) -> Any:
    """Returns a value in the one form that names of runs are made of.

    1 is 1.0 where it is real, a path its text, a list a tuple, as is one item.
    """
    if isinstance(hint, types.UnionType):  # or None
        hint = get_args(hint)[0]
        if value is None:
            return None
    if value is None:
        raise ValueError(f"`{name}` must have a value. Received: None.")
    if isinstance(value, os.PathLike):
        value = os.fspath(cast("os.PathLike[str]", value))
    if get_origin(hint) is tuple:
        item = get_args(hint)[0]
        many = isinstance(value, Iterable) and not isinstance(value, str)
        items = cast("Iterable[Any]", value if many else [value])
        return tuple(_settled(name, item, each) for each in items)
    kind, fits = {
        bool: ("True or False", value in (0, 1)),  # NumPy's as well
        str: ("text", isinstance(value, str)),
        float: ("a number", not isinstance(value, bool)),
    }.get(hint, ("", True))
    if not fits:
        raise ValueError(f"`{name}` must be {kind}. Received: {value!r}.")
    if hint is bool:
        return bool(value)
    if hint is float and isinstance(value, numbers.Real):
        return float(value)
    if hint is int and isinstance(value, numbers.Integral):
        return value if isinstance(value, bool) else int(value)  # for its rule
    return value


def _check_whole(name: str, value: Any, *, least: int) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(
            f"`{name}` must be a whole number >= {least}. "
            f"Received: {name}={value!r}."
        )
