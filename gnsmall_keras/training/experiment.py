"""A config, resolved once: what each part of a training is to know of it."""

import dataclasses
from typing import Any, NamedTuple

from gnsmall_keras import fields
from gnsmall_keras.config import MIXING, Name, RunConfig
from gnsmall_keras.data.augment import Views
from gnsmall_keras.data.mixing import Mixing
from gnsmall_keras.distill.teachers import CONFIDENCE
from gnsmall_keras.models.catalogue import can_start, check_network
from gnsmall_keras.models.spec import HEAD_UNITS, check_width
from gnsmall_keras.recipes import Recipe

_USUAL = fields.defaults(RunConfig)
_SIDE = 32  # pixels of the images that recipes' crops are meant for


class Images(NamedTuple):
    """Which images, and how they are read; fields are `load_data`'s."""

    data: str
    image_size: int
    channels: int
    aspect: str
    flip: bool | None
    skip_broken: bool

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of `load_data`, beside the source, that are not usual."""
        return {
            name: value
            for name, value in self._asdict().items()
            if name != "data" and value != _USUAL[name]
        }


class Partition(NamedTuple):
    """Which images are fitted on, and which are held out."""

    protocol: str
    validation_fraction: float
    seed: int


class Network(NamedTuple):
    """What is trained, with its seed's initial weights."""

    model: str
    width: float
    head_units: int
    precision: str
    seed: int
    start: str  # "random", or whose weights it begins with

    @property
    def options(self) -> dict[str, Any]:
        """Those of `create_model` that say its size."""
        if not check_network(self.model).scales:
            return {}
        return {"width": self.width, "head_units": self.head_units}


class Learning(NamedTuple):
    """How it is trained: the recipe, and the batches of a step."""

    devices: int
    seed: int
    shuffle: bool
    select: str
    recipe: Recipe
    batch_size: int  # of all devices together
    drop_remainder: bool
    views: Views  # mirrored where classes allow
    mixing: Mixing


class Teaching(NamedTuple):
    """From whom it learns, beside the labels."""

    strategy: str
    teachers: tuple[str, ...]
    assistants: tuple[str, ...]
    cache: str
    combine: str
    joined: bool  # whether all of a chain teach, not the last alone
    weights: tuple[float, ...] | str | None  # of those that are joined
    options: dict[str, Any]  # of `Distiller`


class Experiment(NamedTuple):
    """All that a config says, in its parts."""

    name: Name
    values: dict[str, Any]  # the config, for the record
    identity: dict[str, Any]  # what decides the result, for checkpoints
    data: Images
    partition: Partition
    network: Network
    learning: Learning
    teaching: Teaching | None  # None: labels alone

    def of_network(self, model: str, width: float) -> "Experiment":
        """Returns the same with another network."""
        scales = check_network(model).scales
        size = {
            "model": model,
            "width": check_width(width),
            "head_units": self.network.head_units if scales else HEAD_UNITS,
        }
        return self._replace(
            identity=self.identity | size,
            network=self.network._replace(**size, start=self._start_of(**size)),
        )

    def _start_of(self, model, width, **_) -> str:
        """An assistant begins with weights where there are any."""
        return self.network.start if can_start(model, width) else "random"


def images_of(config: RunConfig) -> Images:
    """Returns which images a run reads, and how."""
    return _part(Images, config)


def resolve(config: RunConfig, name: Name | None = None) -> Experiment:
    """Returns a config's parts, with the recipe's values in their places.

    Args:
        config: of a run.
        name: the one of its names that it has; by default its own.
    """
    recipe = config.resolved_recipe
    learning = _part(
        Learning,
        config,
        recipe=recipe,
        batch_size=recipe.batch_size * config.devices,
        # Devices take equal parts.
        drop_remainder=recipe.drop_remainder or config.devices > 1,
        views=dataclasses.replace(
            cut_views(recipe, config.image_size), augment=config.augment
        ),
        mixing=Mixing(**{k: getattr(recipe, k) for k in MIXING})
        if config.augment
        else Mixing(),
    )
    return Experiment(
        name=name or config.name,
        values=fields.plain(config),
        identity=config.identity,
        data=images_of(config),
        partition=_part(Partition, config),
        network=_part(Network, config, start=recipe.start),
        learning=learning,
        teaching=_teaching(config),
    )


def cut_views(recipe: Recipe, image_size: int) -> Views:
    """Returns how a recipe sees images of a size: crops grow with it."""
    return Views(
        alternate=recipe.alternate_flip,
        padding=recipe.padding * image_size // _SIDE,
        border=recipe.border,
    )


def _teaching(config):
    if config.strategy == "baseline":
        return None
    options = ("label_weight", "temperature", "loss")
    return _part(
        Teaching,
        config,
        joined=config.strategy == "ensemble" or config.dense,
        weights=CONFIDENCE
        if config.confidence_weights
        else config.teacher_weights or None,
        options={
            **{name: getattr(config, name) for name in options},
            "expects_teacher": True,
        },
    )


def _part(kind, config, **own):
    """One part: values of its own, the others under the config's names."""
    taken = {n: getattr(config, n) for n in kind._fields if n not in own}
    return kind(**taken, **own)
