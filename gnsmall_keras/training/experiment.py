"""A config, resolved once: what each part of a training is to know of it."""

import dataclasses
from typing import Any

from gnsmall_keras import fields
from gnsmall_keras.config import MIXING, Name, Protocol, RunConfig
from gnsmall_keras.data.augment import Views
from gnsmall_keras.data.mixing import Mixing
from gnsmall_keras.distill.teachers import CONFIDENCE
from gnsmall_keras.models.catalogue import check_network
from gnsmall_keras.models.spec import HEAD_UNITS, check_width
from gnsmall_keras.recipes import Recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Partition:
    """Which images are fitted on, and which are held out."""

    protocol: Protocol
    validation_fraction: float
    seed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """What is trained, with its seed's initial weights."""

    model: str
    width: float
    head_units: int
    precision: str
    seed: int

    @property
    def options(self) -> dict[str, Any]:
        """Those of `create_model` that say its size."""
        if not check_network(self.model).scales:
            return {}
        return {"width": self.width, "head_units": self.head_units}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learning:
    """How it is trained: the recipe, and the batches of a step."""

    recipe: Recipe
    batch_size: int  # of all devices together
    devices: int
    drop_remainder: bool
    seed: int
    shuffle: bool
    select: str
    views: Views  # mirrored where classes allow
    mixing: Mixing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Teaching:
    """From whom it learns, beside the labels."""

    strategy: str
    teachers: tuple[str, ...]
    assistants: tuple[str, ...]
    cache: str
    joined: bool  # whether all of a chain teach, not the last alone
    combine: str
    weights: tuple[float, ...] | str | None
    loss: str
    label_weight: float
    temperature: float

    @property
    def options(self) -> dict[str, Any]:
        """Those of `Distiller`."""
        return {
            "label_weight": self.label_weight,
            "temperature": self.temperature,
            "loss": self.loss,
            "expects_teacher": True,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """All that a config says, in its parts."""

    name: Name
    values: dict[str, Any]  # the config, for the record
    identity: dict[str, Any]  # what decides the result, for checkpoints
    data: str
    partition: Partition
    network: Network
    learning: Learning
    teaching: Teaching | None  # None: labels alone

    def of_network(self, model: str, width: float) -> "Experiment":
        """Returns the same with another network."""
        size = {
            "model": model,
            "width": check_width(width),
            "head_units": self.network.head_units
            if check_network(model).scales
            else HEAD_UNITS,
        }
        return dataclasses.replace(
            self,
            identity={**self.identity, **size},
            network=dataclasses.replace(self.network, **size),
        )


def resolve(config: RunConfig, name: Name | None = None) -> Experiment:
    """Returns a config's parts, with the recipe's values in their places.

    Args:
        config: of a run.
        name: the one of its names that it has; by default its own.
    """
    recipe = config.resolved_recipe
    return Experiment(
        name=name or config.name,
        values=fields.plain(config),
        identity=config.identity,
        data=config.data,
        partition=Partition(
            protocol=config.protocol,
            validation_fraction=config.validation_fraction,
            seed=config.seed,
        ),
        network=Network(
            model=config.model,
            width=config.width,
            head_units=config.head_units,
            precision=config.precision,
            seed=config.seed,
        ),
        learning=Learning(
            recipe=recipe,
            batch_size=recipe.batch_size * config.devices,
            devices=config.devices,
            # Devices take equal parts.
            drop_remainder=recipe.drop_remainder or config.devices > 1,
            seed=config.seed,
            shuffle=config.shuffle,
            select=config.select,
            views=Views(
                augment=config.augment,
                alternate=recipe.alternate_flip,
                padding=recipe.padding,
                border=recipe.border,
            ),
            mixing=Mixing(
                **{name: getattr(recipe, name) for name in MIXING}
                if config.augment
                else {}
            ),
        ),
        teaching=_teaching(config),
    )


def _teaching(config):
    if config.strategy == "baseline":
        return None
    weights = config.teacher_weights or None
    return Teaching(
        strategy=config.strategy,
        teachers=config.teachers,
        assistants=config.assistants,
        cache=config.cache,
        joined=config.strategy == "ensemble" or config.dense,
        combine=config.combine,
        weights=CONFIDENCE if config.confidence_weights else weights,
        loss=config.loss,
        label_weight=config.label_weight,
        temperature=config.temperature,
    )
