"""One training run as a frozen value, and the names it has."""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, get_args

from gnsmall_keras import fields
from gnsmall_keras.fields import Range, Younger
from gnsmall_keras.models.catalogue import check_network
from gnsmall_keras.models.spec import HEAD_UNITS, check_width
from gnsmall_keras.recipes import RECIPES, Recipe

DIGEST_LENGTH = 6
Protocol = Literal["validation", "paper"]
Select = Literal["last", "validation"]
Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]
Device = Literal["auto", "cpu", "gpu"]
Strategy = Literal["baseline", "kd", "assistant", "ensemble"]
Loss = Literal["kd", "dkd", "standardized_kd", "dist"]
Combine = Literal["probabilities", "logits", "per_teacher"]
Count = Annotated[int, Range(least=1)]
Fraction = Annotated[float, Range(above=0, below=1)]
LearningRate = Annotated[float, Range(above=0)]
Alpha = Annotated[float, Range(least=0, cure="0 mixes nothing")]
LabelWeight = Annotated[float, Range(least=0, most=1, cure="1: labels alone")]
Temperature = Annotated[float, Range(above=0, cure="1 leaves logits alone")]
check_label_weight = functools.partial(
    fields.check, "label_weight", LabelWeight
)
check_temperature = functools.partial(fields.check, "temperature", Temperature)
# What computes a network: a way of running, in no config.
Kernels = Literal["auto", "keras", "native"]
KERNELS: tuple[Kernels, ...] = get_args(Kernels)
KERNELS_VARIABLE = "GNSMALL_KERNELS"  # what "auto" means, in the environment
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
    """

    model: str = "gns"
    """A network of `gnsmall models`: "gns" (GhostNetV3-Small), "resnet18"..."""
    width: float = 1.0
    """Channel multiplier of a GhostNet, > 0."""
    head_units: Count = HEAD_UNITS
    """Units of the layer before a GhostNet's classifier."""
    data: str = "digits"
    """"digits", "cifar10", "cifar100", or a path to images."""
    recipe: str = "quick"
    """Named hyper-parameters: "best", "quick", "paper" or "teacher"."""
    epochs: Count | None = None
    """Passes over the training split; None: the recipe's."""
    batch_size: Count | None = None
    """Images per step; None: the recipe's."""
    peak_learning_rate: LearningRate | None = None
    """Reached after the warm-up; None: the recipe's."""
    protocol: Protocol = "validation"
    """"validation" holds out a part of the training split and reads the test
    split once; "paper" trains on everything and watches the test split."""
    validation_fraction: Fraction = 0.1
    """Part of the training split held out, stratified by class."""
    select: Select = "last"
    """Weights that are kept: the last epoch's or the best on validation."""
    shuffle: bool = True
    """Whether every epoch has its own order; False only to study the effect."""
    augment: bool = True
    """Random crops, flips where classes allow, cutout, mixup and CutMix, as
    the recipe has them; False: the plain images."""
    seed: Annotated[int, Range(least=0)] = 0
    """Of the split, the initial weights, the order and the augmentation."""
    precision: Precision = "float32"
    """Of the computation; "mixed_..." keeps weights in float32, for GPUs."""
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
    """Of an average of the weights, which takes their place in the end; 0:
    none; None: the recipe's."""
    label_smoothing: Younger[
        Annotated[float, Range(least=0, below=1, cure="0 smooths nothing")]
        | None
    ] = None
    """Part of a label that is spread over all classes; 0: none; None: the
    recipe's."""
    devices: Younger[Count] = 1
    """How many share a step; `batch_size` is the images of each."""
    strategy: Strategy = "baseline"
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
    loss: Loss = "kd"
    """Towards the teacher: "kd", "dkd", "standardized_kd" or "dist"."""
    label_weight: LabelWeight = 0.5
    """Of the labels' loss, in [0, 1]; the rest is the teacher's."""
    temperature: Temperature = 4.0
    """Divides logits before their softmax, > 0."""
    combine: Combine = "probabilities"
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
        fields.settle(self)
        check_width(self.width)
        self._check_size()
        if self.recipe not in RECIPES:
            raise ValueError(
                f"`recipe` must be one of {sorted(RECIPES)}. "
                f"Received: recipe={self.recipe!r}."
            )
        if self.protocol == "paper" and self.select != "last":
            raise ValueError(
                'protocol="paper" holds out no validation split to select on. '
                'Use select="last"; the best test accuracy is reported apart.'
            )
        self._check_mixing()
        self._check_teachers()
        self._check_cache()
        self._check_chain()
        self._check_weights()

    def _check_mixing(self):
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

    def _check_teachers(self):
        least, most, cached, rule = {
            "baseline": (0, 0, False, "no teacher"),
            "kd": (1, 1, True, "one teacher or a cache"),
            "assistant": (1, 1, False, "one teacher, no cache"),
            "ensemble": (1, math.inf, False, "one teacher or more, no cache"),
        }[self.strategy]
        given = len(self.teachers) + bool(self.cache)
        if not least <= given <= most or (self.cache and not cached):
            raise ValueError(
                f"strategy={self.strategy!r} takes {rule}. Received: "
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

    def _check_weights(self):
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
    def sources(self) -> tuple[str, ...]:
        """Whom it learns from: runs, files and networks."""
        cache = (self.cache,) if self.cache else ()
        return (*self.teachers, *self.assistants, *cache)

    @property
    def identity(self) -> dict[str, Any]:
        """The values that name it; a baseline's do not depend on teaching."""
        return _untaught(fields.identity(self))

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
            self._named("baseline", fields.identity(self)): None,
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
        values = {**identity, "recipe_values": fields.identity(recipe)}
        text = json.dumps(values, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]
        data = self.data.rstrip("/").rsplit("/", 1)[-1].split(".")[0]
        scales = check_network(self.model).scales
        parts = (
            f"{self.model}-w{self.width:g}" if scales else self.model,
            f"{data}-{self.recipe}-e{recipe.epochs}",
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
    return _untaught(fields.complete(RunConfig, values))


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
