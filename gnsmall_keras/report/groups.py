"""Runs that differ in their seed alone, and what they say together."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from gnsmall_keras import fields
from gnsmall_keras.config import DIGEST_LENGTH, TEACHING, RunConfig
from gnsmall_keras.models.catalogue import NETWORKS
from gnsmall_keras.recipes import RECIPES
from gnsmall_keras.records.run import RunRecord
from gnsmall_keras.report.estimates import (
    Difference,
    Estimate,
    estimate,
    paired_difference,
)
from gnsmall_keras.report.identity import (
    hash_of,
    identify,
    index_slugs,
    key_of,
    mixed_teachers,
    teachers_seeds,
)
from gnsmall_keras.report.reading import Run

_DEFAULTS = fields.defaults(RunConfig)
_STUDENT = _DEFAULTS.keys() - TEACHING
# What has a place of its own in a group's name.
_NAMED = {
    *(
        "model",
        "width",
        "data",
        "data_digest",
        "recipe",
        "protocol",
        "seed",
        "strategy",
    ),
    *("loss", "temperature", "label_weight", "teachers", "assistants", "cache"),
}


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs with one config but for the seed, on the same images.

    The backend, the commit and the hardware may differ.
    """

    identity: dict[str, Any]
    runs: tuple[Run, ...]
    ambiguous: bool = False  # whether another has the same name without digest
    mixed_teachers: tuple[str, ...] = ()  # of one name and several weights

    @property
    def first(self) -> RunRecord:
        """The record that stands for what all have in common."""
        return self.runs[0].record

    @cached_property
    def digest(self) -> str:
        """A short name."""
        return hash_of(self.identity)[:DIGEST_LENGTH]

    @property
    def strategy(self) -> str:
        """One of "baseline", "kd", "assistant", "ensemble"."""
        return self.identity["strategy"]

    @property
    def epochs(self) -> int:
        """Of the student."""
        return self.first.recipe["epochs"]

    @property
    def protocol(self) -> str:
        """One of "validation" and "paper"."""
        return self.identity["protocol"]

    @property
    def setting(self) -> tuple[str, str, int]:
        """What must agree before accuracies are compared at all."""
        return self.first.data_digest, self.protocol, self.epochs

    @property
    def student(self) -> dict[str, Any]:
        """The identity of the baseline that matches."""
        kept = _STUDENT | {"recipe_values", "data_digest"}
        values = {k: v for k, v in self.identity.items() if k in kept}
        return {**values, "strategy": "baseline"}

    @property
    def network(self) -> str:
        """The network, with its width where it has one."""
        config = self.first.config
        known = NETWORKS.get(config["model"])
        scales = known is None or known.scales
        return config["model"] + (f" w{config['width']:g}" if scales else "")

    @property
    def how(self) -> str:
        """Strategy, teachers, and all that is not as the recipe has it."""
        config = self.first.config
        parts = [self.strategy]
        if self.strategy != "baseline":
            parts.append(_teaching(config))
        if "teacher_seeds" in self.identity:
            seeds = map(str, self.identity["teacher_seeds"])
            parts.append(f"teachers of seed {', '.join(seeds)}")
        parts += [f"{name}={value}" for name, value in self._options()]
        if self.ambiguous:
            parts.append(f"group {self.digest}")
        return ", ".join(parts)

    @property
    def name(self) -> str:
        """All that tells it from others, for people."""
        return (
            f"{self.network}, {self.first.config['recipe']}, {self.epochs} "
            f"epochs, {self.protocol} protocol, {self.how}"
        )

    @property
    def short(self) -> str:
        """A name for a figure: the arm, without what its title says."""
        config = self.first.config
        how = self.strategy
        if how != "baseline":
            heat, weight = config["temperature"], config["label_weight"]
            how += f" {config.get('loss', 'kd')}, T={_short(heat)}"
            how += f", label {_short(weight)}"
            names = [_plain(name) for name in config.get("teachers", [])]
            if config.get("assistants"):
                names += map(_plain, config["assistants"])
            if names:
                how += f", from {' + '.join(map(_network_of, names))}"
        options = "".join(f", {k} {v}" for k, v in self._options())
        return f"{self.network} {config['recipe']}: {how}{options}"

    def _options(self):
        """Values that differ from the defaults and from the named recipe."""
        for name, value in self.identity.items():
            default = _DEFAULTS.get(name, value)
            if name not in _NAMED and value != default:
                yield name, value
        named = RECIPES.get(self.first.config["recipe"])
        for name, value in self.identity["recipe_values"].items():
            if named and name != "epochs" and value != getattr(named, name, ""):
                yield name, value

    def values(self, measure: str) -> dict[int, float]:
        """Seed -> accuracy in percent.

        Of a seed that ran more than once the first run counts: means of
        several would have a smaller deviation than single runs.
        """
        found: dict[int, float] = {}
        for run in self.runs:
            value = getattr(run.record, measure)
            if value is not None:
                found.setdefault(run.record.config["seed"], 100 * value)
        return dict(sorted(found.items()))

    def estimate(self, measure: str) -> Estimate | None:
        """Mean and sample standard deviation over seeds, in percent."""
        return estimate(self.values(measure).values())


def group_runs(runs: Iterable[Run], hidden: Iterable[Run] = ()) -> list[Group]:
    """Returns the groups of `runs`, those of most epochs first.

    Their teachers are told by the records of `hidden` runs too.
    """
    runs = list(runs)
    by_slug = index_slugs([*hidden, *runs])
    groups: dict[str, tuple[dict[str, Any], list[Run]]] = {}
    for run in runs:
        identity = identify(run.record, by_slug)
        _, members = groups.setdefault(key_of(identity), (identity, []))
        members.append(run)
    found = [
        group
        for identity, members in groups.values()
        for group in _by_teachers_seeds(identity, members, by_slug)
    ]
    names = Counter((group.first.data_digest, group.name) for group in found)
    return sorted(
        (
            dataclasses.replace(
                group,
                ambiguous=names[group.first.data_digest, group.name] > 1,
                mixed_teachers=mixed_teachers(group.runs, by_slug),
            )
            for group in found
        ),
        key=lambda group: (
            data_name(group.first),
            group.protocol == "paper",  # for comparison: last
            -group.epochs,
            group.first.config["model"],
            group.first.config["width"],
            group.strategy != "baseline",
            group.name,
            group.digest,
        ),
    )


def _by_teachers_seeds(identity, runs, by_slug):
    """One group; or several, if a seed has teachers of its own and others.

    A teacher of another seed has seen what its student holds out.
    """
    parts: dict[str, list[Run]] = {}
    ways: dict[int, set[str]] = {}
    for run in runs:
        way = json.dumps(teachers_seeds(run.record, by_slug))
        parts.setdefault(way, []).append(run)
        ways.setdefault(run.record.config["seed"], set()).add(way)
    if all(len(found) == 1 for found in ways.values()):
        return [Group(identity, tuple(runs))]
    return [
        Group({**identity, "teacher_seeds": json.loads(way)}, tuple(members))
        for way, members in parts.items()
    ]


def _teaching(config):
    names = [_plain(name) for name in config.get("teachers", [])]
    if config.get("cache"):
        names.append(f"cache {_plain(config['cache'])}")
    text = (
        f"loss {config.get('loss', 'kd')}, "
        f"T={_short(config.get('temperature'))}, label weight "
        f"{_short(config.get('label_weight'))}, from {' + '.join(names)}"
    )
    if config.get("assistants"):
        text += f" by {' > '.join(map(_plain, config['assistants']))}"
    return text


def _short(number):
    return f"{number:g}" if isinstance(number, float) else str(number)


def _plain(path):
    """A teacher's name: its folder without seed and digest, or its file."""
    path = PurePosixPath(path)
    name = path.parent.name if path.name == "model.keras" else path.name
    parts = name.split("-")
    seeded = len(parts) > 2 and parts[-2][:1] == "s" and parts[-2][1:].isdigit()
    return "-".join(parts[:-2]) if seeded else name


def _network_of(name):
    """The network of a run's name, "gns-w1.6" of "gns-w1.6-cifar10-..."."""
    parts = name.split("-")
    return "-".join(parts[: 2 if parts[1:] and parts[1][:1] == "w" else 1])


def data_name(record: RunRecord) -> str:
    """The data's name, without where it lies."""
    return PurePosixPath(record.config["data"]).name or record.config["data"]


class Comparison(NamedTuple):
    """A group beside another, the baseline that matches; or without one."""

    group: Group
    baseline: Group | None
    validation: Difference | None
    test: Difference | None
    shared: tuple[int, ...] = ()  # seeds whose run is in both: no pair


def compare(groups: Iterable[Group]) -> list[Comparison]:
    """Compares every strategy with its baseline, paired by seed.

    The baseline has the same student, recipe, epochs, protocol and images.
    """
    groups = list(groups)
    baselines = {
        key_of(group.identity): group
        for group in groups
        if group.strategy == "baseline"
    }
    compared = []
    for group in groups:
        if group.strategy == "baseline":
            continue
        baseline = baselines.get(key_of(group.student))
        compared.append(
            compare_pair(group, baseline)
            if baseline
            else Comparison(group, None, None, None)
        )
    return compared


def compare_pair(group: Group, control: Group) -> Comparison:
    """Compares two groups, paired by seed; a run has no pair in itself."""
    theirs = {run.record.slug for run in control.runs}
    ours = (run.record for run in group.runs if run.record.slug in theirs)
    shared = tuple(sorted({record.config["seed"] for record in ours}))
    validation, test = (
        paired_difference(
            {
                seed: value
                for seed, value in group.values(measure).items()
                if seed not in shared
            },
            control.values(measure),
        )
        for measure in ("validation_accuracy", "test_accuracy")
    )
    return Comparison(group, control, validation, test, shared)


def mixed_seeds(groups: Iterable[Group]) -> list[int]:
    """Seeds whose runs were on several backends or machines."""
    found: dict[int, set[tuple[str, str]]] = {}
    for run in (run for group in groups for run in group.runs):
        place = run.record.backend, run.record.machines
        found.setdefault(run.record.config["seed"], set()).add(place)
    return sorted(seed for seed, places in found.items() if len(places) > 1)
