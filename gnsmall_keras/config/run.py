"""One training run as a frozen value, and the names it has."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from gnsmall_keras import fields
from gnsmall_keras.config.kinds import (
    Alpha,
    Aspect,
    Combine,
    Count,
    Fraction,
    LabelSmoothing,
    LabelWeight,
    LearningRate,
    Loss,
    Precision,
    Protocol,
    Select,
    Start,
    Strategy,
    Temperature,
    check_limits,
)
from gnsmall_keras.config.teachers import (
    check_chain,
    check_several,
    check_teachers,
)
from gnsmall_keras.fields import Range, Younger
from gnsmall_keras.models.catalogue import (
    STARTS,
    STARTS_HELD_OUT,
    can_start,
    check_network,
)
from gnsmall_keras.models.spec import HEAD_UNITS, check_image_size, check_width
from gnsmall_keras.recipes import RECIPES, Recipe

DIGEST_LENGTH = 6
# A recipe chosen when the images are read; of named data, and of many images.
AUTO, AUTO_IS = "auto", "quick"
KNOWN_DATA = ("digits", "cifar10", "cifar100")
# What a batch's images are mixed with; options of recipes.
MIXING = ("cutout", "mixup", "cutmix")
_OF_RECIPES = (  # what a config can have in a recipe's place
    *("epochs", "batch_size", "peak_learning_rate", "label_smoothing"),
    *(*MIXING, "ema_momentum", "start"),
)


class Name(NamedTuple):
    """What a run is called."""

    slug: str  # for people in front, for machines at the end; its folder
    digest: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run; everything that decides its result, as scalars.

    A baseline learns from labels alone, other strategies from teachers too.

    Raises:
        ValueError: if a value breaks its rule; the message has the cure.

    Example:
        >>> gns.RunConfig(data="digits", width=0.5, epochs=8).strategy
        'baseline'
    """

    model: str = "gns"
    """A network of `gnsmall models`: "gns" (GhostNetV3-Small), "resnet18"..."""
    width: float = 1.0
    """Channel multiplier of a GhostNet, > 0."""
    head_units: Count = HEAD_UNITS
    """Units of the layer before a GhostNet's classifier."""
    data: str = "digits"
    """"digits", "cifar10", "cifar100", or a path to images."""
    recipe: str = AUTO
    """Named hyper-parameters: "best", "long", "quick", "paper", "teacher" or
    "finetune"; "auto": "finetune" for few custom images, else "quick"."""
    epochs: Count | None = None
    """Passes over the training split; None: the recipe's."""
    batch_size: Count | None = None
    """Images per step; None: the recipe's."""
    peak_learning_rate: LearningRate | None = None
    """Learning rate at the end of the warm-up; None: the recipe's."""
    protocol: Protocol = "validation"
    """"validation" holds out a part of the training split and reads the test
    split once; "paper" trains on everything and watches the test split."""
    validation_fraction: Fraction = 0.1
    """Part of the training split held out, stratified by class."""
    select: Select = "last"
    """Weights that are kept: the last epoch's, or the best by validation."""
    shuffle: bool = True
    """Whether every epoch has its own order; False only to study the effect."""
    augment: bool = True
    """Random crops, flips where classes allow, cutout, mixup and CutMix, as
    the recipe has them; False: the plain images."""
    seed: Annotated[int, Range(least=0)] = 0
    """Seed of the split, initial weights, data order and augmentation."""
    precision: Precision = "float32"
    """Number format of the computation; "mixed_..." keeps weights in float32,
    for GPUs."""
    cutout: Younger[Annotated[int, Range(least=0)] | None] = None
    """Side in pixels of a square of each image that is set to the mean; 0:
    none; None: the recipe's."""
    mixup: Younger[Alpha | None] = None
    """Alpha of mixup: images are mixed in pairs, by Beta(alpha, alpha); 0:
    none; None: the recipe's."""
    cutmix: Younger[Alpha | None] = None
    """Alpha of CutMix: a box of each image is another's; 0: none; None: the
    recipe's. Beside mixup each batch takes one of them."""
    ema_momentum: Younger[
        Annotated[float, Range(least=0, below=1, cure="0 takes no average")]
        | None
    ] = None
    """Momentum of an average of the weights, which replaces them in the end;
    0: no average; None: the recipe's."""
    label_smoothing: Younger[LabelSmoothing | None] = None
    """Part of a label that is spread over all classes; 0: none; None: the
    recipe's."""
    devices: Younger[Count] = 1
    """How many devices share a step; `batch_size` is the images of each."""
    image_size: Younger[int] = 32
    """Pixels of a side, a multiple of 8 (of 16 for "gnd") from 32 to 128."""
    channels: Younger[Literal[3, 1]] = 3
    """Channels of the images: 3 is RGB, 1 is grey."""
    aspect: Younger[Aspect] = "crop"
    """How images become square: "crop" (the middle), "pad" (black borders) or
    "squash"."""
    flip: Younger[bool | None] = None
    """Whether a mirrored image keeps its class; None: not for digits."""
    skip_broken: Younger[bool] = False
    """Whether to go on without images that cannot be read."""
    start: Younger[Start | None] = None
    """Initial weights: "random", or "cifar10" for those of the package's
    network of the same width, all but the classifier (on CIFAR-10 itself with
    seed 0 only, whose held-out images it has not seen); None: the recipe's."""
    data_digest: Younger[str] = ""
    """Names images of your own in place of their path; empty: set when read."""
    strategy: Strategy = "baseline"
    """"baseline": labels alone; "kd": one teacher; "assistant": teacher, then
    assistants, then the student, each learning from the one before; "ensemble":
    several teachers at once."""
    teachers: tuple[str, ...] = ()
    """Files of models (.keras), folders of runs, names of runs that are in the
    folder of this one's, or published networks ("gns-w1-cifar10-long")."""
    assistants: tuple[str, ...] = ()
    """For strategy "assistant", from the teacher on: networks to train, such
    as "gns-w0.75" or "wrn_16_4", or files and folders of trained ones."""
    dense: bool = False
    """Whether all earlier ones teach each stage of "assistant" ("densely
    guided"), not only the one before."""
    loss: Loss = "kd"
    """Distillation loss: "kd", "dkd", "standardized_kd" or "dist"."""
    label_weight: LabelWeight = 0.5
    """Weight of the label loss, in [0, 1]; the distillation loss has the
    rest."""
    temperature: Temperature = 4.0
    """Divides logits before their softmax, > 0."""
    combine: Combine = "probabilities"
    """How several teachers become one target, for "ensemble" and `dense`."""
    teacher_weights: tuple[float, ...] = ()
    """A number >= 0 for each teacher; empty: equal ones."""
    confidence_weights: bool = False
    """Whether teachers are weighted by the probability they give to the
    label."""
    cache: str = ""
    """For strategy "kd": a folder of `gnsmall cache-teacher`, or the name of a
    run beside this one's, whose logits for as many views as there are epochs
    are stored once in its folder, for all students. No teacher runs, and there
    is no cutout, mixup or CutMix."""

    def __post_init__(self):
        fields.settle(self)
        check_width(self.width)
        check_limits(self.seed, self.cutout or 0)
        check_image_size(self.image_size, self.model)
        self._check_size()
        if self.recipe == AUTO and self.data in KNOWN_DATA:
            object.__setattr__(self, "recipe", AUTO_IS)
        if self.recipe not in (*RECIPES, AUTO):
            raise ValueError(
                f"`recipe` must be one of {sorted((*RECIPES, AUTO))}. "
                f"Received: recipe={self.recipe!r}."
            )
        if self.protocol == "paper" and self.select != "last":
            raise ValueError(
                'protocol="paper" holds out no validation split to select on. '
                'Use select="last"; the best test accuracy is reported apart.'
            )
        self._check_mixing()
        self._check_start()
        check_teachers(self)
        self._check_cache()
        check_chain(self)
        check_several(self)

    def _check_mixing(self):
        asked = [name for name in MIXING if getattr(self, name)]
        if asked and not self.augment:
            raise ValueError(
                f"augment=False leaves images as they are. Received: {asked} "
                "with it. Leave them out, or set augment=True."
            )

    def _check_size(self):
        given = (self.width, self.head_units) != (1.0, HEAD_UNITS)
        if not check_network(self.model).scales and given:
            raise ValueError(
                "`width` and `head_units` are sizes of GhostNets (gns, "
                f"gns_nogate, gnd); {self.model!r} has one size. Received: "
                f"width={self.width!r}, head_units={self.head_units!r}. Leave "
                "them out."
            )

    def _check_start(self):
        if self.start == "cifar10" and not can_start(self.model, self.width):
            known = ", ".join(map(str, STARTS))
            raise ValueError(
                "start='cifar10' needs a network and width of which the "
                f"package has weights: {known}. Received: "
                f"model={self.model!r}, width={self.width:g}. Take one, or "
                "start='random'."
            )
        starts = self.resolved_recipe.start == self.data == "cifar10"
        held_out = self.seed, self.validation_fraction
        if (
            starts
            and can_start(self.model, self.width)
            and self.protocol == "validation"
            and held_out != STARTS_HELD_OUT
        ):
            raise ValueError(
                "start='cifar10', as recipe 'finetune' has it, are weights "
                "that learned from all of CIFAR-10's training images but those "
                "that seed=0 and validation_fraction=0.1 hold out: of others "
                "the validation accuracy says nothing. Received: "
                f"data='cifar10', seed={held_out[0]}, "
                f"validation_fraction={held_out[1]:g}. Take these two, or "
                "start='random'."
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

    @property
    def resolved_recipe(self) -> Recipe:
        """The recipe with this config's own values in their places."""
        asked = {name: getattr(self, name) for name in _OF_RECIPES}
        own = {k: value for k, value in asked.items() if value is not None}
        return dataclasses.replace(RECIPES[self._recipe], **own)

    @property
    def _recipe(self) -> str:
        return AUTO_IS if self.recipe == AUTO else self.recipe

    @property
    def sources(self) -> tuple[str, ...]:
        """Whom it learns from: runs, files and networks."""
        return (*self.teachers, *self.assistants, *filter(None, [self.cache]))

    @property
    def identity(self) -> dict[str, Any]:
        """The values that name it.

        A baseline's do not depend on teaching; images of your own are named by
        their digest, wherever they lie.
        """
        return _untaught(self._values)

    @property
    def ignored(self) -> dict[str, Any]:
        """What it was given of teaching, though it has no teacher.

        Older records have such values, and sweeps share them among strategies,
        so that they are no error here.
        """
        if self.strategy != "baseline":
            return {}
        names = ("loss", "label_weight", "temperature")  # others are refused
        given = {name: getattr(self, name) for name in names}
        return {k: v for k, v in given.items() if v != _DEFAULTS[k]}

    @property
    def _values(self) -> dict[str, Any]:
        values = fields.identity(self) | {"recipe": self._recipe}
        return values | ({"data": ""} if self.data_digest else {})

    @property
    def name(self) -> Name:
        """Its name, whichever door it came through."""
        how = self.strategy
        if self.strategy != "baseline":
            how += f"-{self.loss}-t{self.temperature:g}-l{self.label_weight:g}"
        return self._named(how, self.identity)

    @property
    def aliases(self) -> tuple[Name, ...]:
        """The names that older versions gave to the same run."""
        if self.strategy != "baseline":
            return ()
        alone = {k: v for k, v in self.identity.items() if k not in TEACHING}
        found = {
            self._named("", alone): None,  # a `TrainConfig`'s
            # A `DistillConfig`'s, with what its teachers would have had.
            self._named("baseline", self._values): None,
        }
        return tuple(name for name in found if name != self.name)

    @property
    def names(self) -> tuple[Name, ...]:
        """Its name, then its aliases."""
        return (self.name, *self.aliases)

    @property
    def slug(self) -> str:
        """Its name, for people in front, for machines at the end."""
        return self.name.slug

    @property
    def digest(self) -> str:
        """First characters of a hash of the config and the whole recipe."""
        return self.name.digest

    def _named(self, how: str, identity: dict[str, Any]) -> Name:
        recipe = self.resolved_recipe
        values = identity | {"recipe_values": fields.identity(recipe)}
        text = json.dumps(values, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]
        data = self.data.rstrip("/").rsplit("/", 1)[-1].split(".")[0]
        if self.data_digest:  # "." and "./photos" are the same images
            data = Path(self.data).resolve().name.split(".")[0] or "images"
        scales = check_network(self.model).scales
        parts = (
            f"{self.model}-w{self.width:g}" if scales else self.model,
            f"{data}-{self._recipe}-e{recipe.epochs}",
            how,
            f"s{self.seed}-{digest}",
        )
        return Name("-".join(filter(None, parts)), digest)


# Fields that say how a network is taught, of which a baseline has no use.
_DEFAULTS = fields.defaults(RunConfig)
TEACHING = tuple(_DEFAULTS)[[*_DEFAULTS].index("strategy") :]


def complete(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a stored config or identity with all that it stands for.

    Fields that it is too old for have their defaults, as have those of
    teaching in a baseline's.
    """
    found = fields.complete(RunConfig, values)
    if found["recipe"] == AUTO:
        found["recipe"] = AUTO_IS
    return _untaught(found)


def _untaught(values: dict[str, Any]) -> dict[str, Any]:
    if values["strategy"] != "baseline":
        return values
    return {**values, **{name: _DEFAULTS[name] for name in TEACHING}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distilling(RunConfig):
    """Another door to `RunConfig`: the strategy is "kd" unless it is given."""

    strategy: Strategy = "kd"

    def __new__(cls, **values: Any) -> RunConfig:
        """Makes a `RunConfig`."""
        given: dict[str, Any] = {"strategy": "kd", **values}
        return RunConfig(**given)
