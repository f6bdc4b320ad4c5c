"""What decides a run's result, told from its record and its teachers'."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from gnsmall_keras import fields
from gnsmall_keras.config import TEACHING, complete
from gnsmall_keras.recipes import Recipe
from gnsmall_keras.records.run import RunRecord
from gnsmall_keras.report.reading import Run

_RECIPE_FIELDS = {field.name for field in dataclasses.fields(Recipe)}


def index_slugs(runs: Iterable[Run]) -> dict[str, RunRecord]:
    """Returns the records by their slugs, those of other versions as well."""
    runs = list(runs)
    found = {slug: run.record for run in runs for slug in run.record.slugs}
    return found | {run.record.slug: run.record for run in runs}


def identify(
    record: RunRecord,
    by_slug: Mapping[str, RunRecord],
    seen: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """Returns what decides a run's result, but for its seed.

    Fields that a record is too old for have their defaults. Data and teachers
    are what they hold, not where they lie: a teacher whose record is there is
    that record's group, so that each seed can have a teacher of its seed;
    another is the digest of its weights.
    """
    config = record.config
    known = complete(config)
    strategy = known["strategy"]
    dropped = {"seed", "data", "recipe", *_RECIPE_FIELDS}
    if strategy == "baseline":  # what only teachers have does nothing
        dropped |= {*TEACHING}
    values = {
        name: value for name, value in known.items() if name not in dropped
    }
    values |= {
        "width": float(config["width"]),  # 1 in JSON is 1.0
        "strategy": strategy,
        "recipe_values": fields.complete(Recipe, record.recipe),
        "data_digest": record.data_digest,
    }
    if strategy != "baseline":
        digests = {
            teacher["name"]: teacher["weights_digest"]
            for teacher in (record.distillation or {}).get("teachers", [])
        }
        values["teachers"] = [
            _teacher(name, digests, by_slug, seen | {record.slug})
            for name in config.get("teachers", [])
        ]
        cache = config.get("cache", "")
        values["cache"] = _teacher(
            cache, digests, by_slug, seen | {record.slug}
        )
        values["assistants"] = [
            _teacher(name, {}, by_slug, seen | {record.slug})
            for name in config.get("assistants", [])
        ]
    return values


def _teacher(name, digests, by_slug, seen):
    """What a teacher is, whatever its seed."""
    for part in _last_parts(name):
        if part in by_slug and part not in seen:
            return hash_of(identify(by_slug[part], by_slug, seen))
    return digests.get(name, name)


def teachers_seeds(
    record: RunRecord, by_slug: Mapping[str, RunRecord]
) -> list[Any]:
    """Seeds of the runs that one learns from, or "own" where it is its own."""
    parts = [part for name in record.sources for part in _last_parts(name)]
    seeds = [by_slug[part].config["seed"] for part in parts if part in by_slug]
    own = record.config["seed"]
    return ["own" if seed == own else seed for seed in seeds]


def mixed_teachers(
    runs: Iterable[Run], by_slug: Mapping[str, RunRecord]
) -> tuple[str, ...]:
    """Recorded teachers that runs learned from with several weights.

    Their record is one identity, whichever of its weights a student had. Runs
    that count are looked at, the first of each seed.
    """
    first: dict[int, RunRecord] = {}
    for run in runs:
        first.setdefault(run.record.config["seed"], run.record)
    weights: dict[str, set[str]] = {}
    for record in first.values():
        for teacher in (record.distillation or {}).get("teachers", ()):
            for part in _last_parts(teacher["name"]):
                if part in by_slug:
                    slug = by_slug[part].slug
                    weights.setdefault(slug, set()).add(
                        teacher["weights_digest"]
                    )
    return tuple(sorted(slug for slug, n in weights.items() if len(n) > 1))


def _last_parts(name):
    """Of a path: the file's name, then the folder's."""
    return PurePosixPath(name).parts[:-3:-1]


def key_of(identity: Mapping[str, Any]) -> str:
    """Returns the identity as text."""
    return json.dumps(identity, sort_keys=True)


def hash_of(identity: Mapping[str, Any]) -> str:
    """Returns the identity as a digest."""
    return hashlib.sha256(key_of(identity).encode()).hexdigest()
