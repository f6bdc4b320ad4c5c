"""Sweep files: what runs they ask for, checked before anything runs."""

# Values from files are checked at run time, whatever their type says.
# pyright: reportUnnecessaryIsInstance=false

import dataclasses
import functools
import itertools
import math
import os
import tomllib
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gnsmall_keras import fields
from gnsmall_keras.config import Distilling, RunConfig
from gnsmall_keras.sweeps.contrasts import (
    Contrast,
    build_contrasts,
    check_seeds,
    name_arm,
    not_an_arm,
)

_FIELDS = fields.rules(RunConfig)
# What a teacher takes from the run that names it, unless its table says
# otherwise: so it has seen no image that its student holds out.
_FROM_STUDENT = (
    *("data", "image_size", "channels", "aspect", "flip", "skip_broken"),
    *("protocol", "validation_fraction", "seed"),
)
_MARK = "@"  # before the name of a teacher's table
# Above these a file is a mistake: a list too long, a chain without an end.
MAX_RUNS = 100_000
MAX_CHAIN = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Which runs to do: all combinations of `grid`, then each of `runs`.

    Raises:
        ValueError: if it asks for no run, or a value does not fit; the message
            has the key.

    Example:
        >>> baseline = {"strategy": "baseline", "data": "digits"}
        >>> grid = {"width": [0.25, 0.5], "seed": [0, 1, 2]}
        >>> len(gns.SweepConfig(parameters=baseline, grid=grid).configs)
        6
    """

    parameters: Mapping[str, Any] = dataclasses.field(
        default_factory=dict[str, Any]
    )
    """Fields of `RunConfig`, of every run that has no value of its own."""
    grid: Mapping[str, Any] | Sequence[Mapping[str, Any]] = ()
    """Lists of values; the last one changes fastest. Or several such tables.
    `arm` is no list but names their runs, "T={temperature}": those of one name
    differ in their seed alone."""
    runs: Sequence[Mapping[str, Any]] = ()
    """More runs, one by one."""
    teachers: Mapping[str, Mapping[str, Any]] = dataclasses.field(
        default_factory=dict[str, Mapping[str, Any]]
    )
    """Runs that others learn from, as "@NAME" in `teachers`, `assistants` or
    `cache`. A table has nothing from `parameters`; where it does not say
    `data`, `protocol`, `validation_fraction` or `seed`, there is a teacher for
    each of the students'. It is a baseline where it names no `strategy`."""
    contrasts: Sequence[Mapping[str, Any]] = ()
    """What `gnsmall report --study` compares: `treated`, a list of arms, each
    minus the arm `control`. `hypothesis` says what for; `primary = true` are
    those that decide."""
    settle: Callable[[RunConfig], RunConfig] | None = None
    """What images decide of a run's config, where they are at hand; no key of a
    file."""
    selection: bool = False
    """Whether the arms are there to choose one by its validation accuracy:
    the report shows no other, and takes the later one of equals."""

    def __post_init__(self):
        if not self.grid and not self.runs:
            raise ValueError(
                "A sweep needs runs. Received: neither `grid` nor `runs`. "
                "Write [grid] with lists of values, or [[runs]] with single "
                "ones."
            )
        _ = self._built
        if self.selection and (self.contrasts or self._watches_test()):
            raise ValueError(
                "A selection is by validation accuracy alone. Received: "
                "`selection` beside `contrasts`, or with protocol='paper', "
                "which both look at the test split. Leave one of them out."
            )

    def _watches_test(self) -> bool:
        return any(config.protocol == "paper" for config in self.configs)

    @property
    def configs(self) -> tuple[RunConfig, ...]:
        """The runs in order; one that is asked for twice is there twice."""
        return self._built.configs

    @property
    def teacher_configs(self) -> tuple[RunConfig, ...]:
        """Their teachers, each once, after those that it learns from itself."""
        return self._built.teacher_configs

    @property
    def arms(self) -> Mapping[str, Sequence[RunConfig]]:
        """The runs of each arm, one for each seed."""
        return self._built.arms

    @property
    def teacher_arms(self) -> Mapping[str, Sequence[RunConfig]]:
        """The runs of each table of teachers."""
        return self._built.teacher_arms

    @property
    def pairs(self) -> tuple[Contrast, ...]:
        """The contrasts, each of two arms."""
        return self._built.pairs

    @functools.cached_property
    def _built(self) -> "_Built":
        common = _checked("parameters", self.parameters)
        teachers = _Teachers(self.teachers, self.settle)
        arms: dict[str, list[RunConfig]] = {}
        kept: dict[str, dict[str, Any]] = {}
        configs: list[RunConfig] = []
        for where, values, arm in self._asked(common):
            configs.append(teachers.build(where, values))
            if arm is not None:
                arms.setdefault(arm, []).append(configs[-1])
                values.pop("seed", None)
                if kept.setdefault(arm, values) != values:
                    raise not_an_arm(arm, kept[arm], values)
        teachers.check_used()
        check_seeds(arms)
        return _Built(
            tuple(configs),
            tuple(teachers.configs.values()),
            arms,
            {k: [*found.values()] for k, found in teachers.by_name.items()},
            build_contrasts(self.contrasts, arms),
        )

    def _asked(
        self, common: Mapping[str, Any]
    ) -> Iterator[tuple[str, dict[str, Any], str | None]]:
        """The runs' values, with where they come from, and their arms."""
        for where, grid in self._grids():
            axes = {k: _axis(where, k, grid[k]) for k in grid if k != "arm"}
            _check_count(where, math.prod(map(len, axes.values())))
            for values in itertools.product(*axes.values()):
                own = dict(zip(axes, values, strict=True))
                shown = ", ".join(f"{k}={v!r}" for k, v in own.items())
                asked = {**common, **own}
                arm = None
                if "arm" in grid:
                    arm = name_arm(f"{where}.arm", grid["arm"], asked)
                yield f"{where}, {shown}", asked, arm
        for number, values in enumerate(self.runs):
            where = f"runs[{number}]"
            if not isinstance(values, Mapping):
                raise _not_a_table(where, values)
            yield where, {**common, **_checked(where, values)}, None

    def _grids(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The tables of lists, with what messages call them."""
        if isinstance(self.grid, Mapping):
            if self.grid:
                yield "grid", self.grid
            return
        for number, grid in enumerate(self.grid):
            where = f"grid[{number}]"
            if not isinstance(grid, Mapping):
                raise _not_a_table(where, grid)
            if not grid:
                raise ValueError(
                    f"`{where}` must have a list of values or more. Received: "
                    "an empty table. Leave it out."
                )
            yield where, grid


def read_sweep(path: str | os.PathLike[str]) -> SweepConfig:
    """Reads a sweep file: TOML, a table for each field of `SweepConfig`.

    Args:
        path: the file.

    Raises:
        ValueError: if it is no TOML file, or asks for what is not possible.

    Example:
        >>> sweep = gns.read_sweep("papermill_runs/sweeps/smoke.toml")
        >>> dict(sweep.grid)
        {'recipe': ['quick', 'best']}
    """
    if not Path(path).is_file():
        received = "a folder" if Path(path).is_dir() else "no file"
        raise ValueError(
            f"A sweep is a TOML file. Received: {path}, {received}. Give the "
            "path of one, such as sweep.toml."
        )
    try:
        # Editors on Windows write a mark before the text.
        text = Path(path).read_text(encoding="utf-8-sig")
        return _sweep(tomllib.loads(text))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: TOML is text in UTF-8. Received: a byte "
            f"0x{error.object[error.start]:02x} that is none, at place "
            f"{error.start}. Save the file as UTF-8."
        ) from None
    except RecursionError:
        raise ValueError(f"{path}: must not be nested so deeply.") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _sweep(values: dict[str, Any]) -> SweepConfig:
    known = {field.name for field in dataclasses.fields(SweepConfig)}
    known.discard("settle")
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(
            f"A sweep has the keys {sorted(known)}. Received: {unknown}. "
            "Values of all runs stand in [parameters]."
        )
    fields.check("selection", bool, values.get("selection", False))
    for key in ("parameters", "grid", "teachers"):
        kinds = (dict, list) if key == "grid" else dict
        if not isinstance(values.get(key, {}), kinds):
            raise _not_a_table(key, values[key])
    for key in ("runs", "contrasts"):
        if not isinstance(values.get(key, []), list):
            raise ValueError(
                f"`{key}` must be tables. Write [[{key}]], not [{key}]."
            )
    return SweepConfig(**values)


class _Built(typing.NamedTuple):
    configs: tuple[RunConfig, ...]
    teacher_configs: tuple[RunConfig, ...]
    arms: dict[str, list[RunConfig]]
    teacher_arms: dict[str, list[RunConfig]]
    pairs: tuple[Contrast, ...]


class _Teachers:
    """The runs that tables of teachers become, for the runs that name them."""

    def __init__(
        self,
        tables: Mapping[str, Any],
        settle: Callable[[RunConfig], RunConfig] | None,
    ):
        self._settle = settle
        self._tables: dict[str, dict[str, Any]] = {}
        for name, table in tables.items():
            where = f"teachers.{name}"
            if not isinstance(table, Mapping):
                raise _not_a_table(where, table)
            self._tables[name] = _checked(
                where, typing.cast("Mapping[str, Any]", table)
            )
        self.by_name: dict[str, dict[str, RunConfig]] = {}
        self.configs: dict[str, RunConfig] = {}  # by slug
        self._slugs: dict[tuple[Any, ...], str] = {}

    def build(
        self,
        where: str,
        values: Mapping[str, Any],
        students: Sequence[str] = (),
    ) -> RunConfig:
        """Returns a run with the slugs of its teachers.

        Args:
            where: what messages call it.
            values: its fields.
            students: the teachers that learn from it, for it is one as well.
        """

        def resolve(name: str) -> str:
            if not name.startswith(_MARK):
                return name
            return self._slug(where, name, values, students)

        resolved = dict(values)
        for field in ("teachers", "assistants"):
            resolved[field] = tuple(map(resolve, values.get(field, ())))
        resolved["cache"] = resolve(values.get("cache", ""))
        try:
            config = Distilling(**resolved)
            return self._settle(config) if self._settle else config
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None

    def _slug(
        self,
        where: str,
        mark: str,
        student: Mapping[str, Any],
        students: Sequence[str],
    ) -> str:
        name = mark.removeprefix(_MARK)
        if name not in self._tables:
            raise ValueError(
                f"{where}: {mark!r} names no teacher of this file. Write a "
                f"table [teachers.{name}], or use one of: {[*self._tables]}."
            )
        if name in students:
            chain = " from ".join([*students, name])
            raise ValueError(
                f"{where}: a teacher must not learn from itself. Received: "
                f"{chain}. Leave one of them out."
            )
        if len(students) >= MAX_CHAIN:
            raise ValueError(
                f"{where}: a chain has at most {MAX_CHAIN} teachers, each of "
                f"the one before. Received: {' from '.join(students[:3])} ..."
            )
        shared = {key: student[key] for key in _FROM_STUDENT if key in student}
        known = (name, *shared.items())
        if known in self._slugs:  # another student of the same images
            return self._slugs[known]
        config = self.build(
            f"teachers.{name}",
            {"strategy": "baseline", **shared, **self._tables[name]},
            (*students, name),
        )
        self.by_name.setdefault(name, {}).setdefault(config.slug, config)
        self.configs.setdefault(config.slug, config)
        self._slugs[known] = config.slug
        return config.slug

    def check_used(self) -> None:
        """Refuses a table that no run needs."""
        unused = [name for name in self._tables if name not in self.by_name]
        if unused:
            raise ValueError(
                f"No run learns from the teachers {unused}. Write, for "
                f'example, teachers = ["{_MARK}{unused[0]}"] in a run, or '
                "leave their tables out."
            )


def _check_count(where: str, runs: int) -> None:
    if runs > MAX_RUNS:
        raise ValueError(
            f"`{where}` must ask for {MAX_RUNS:,} runs or fewer. Received: "
            f"{runs:,} combinations. Shorten a list, or split the file."
        )


def _axis(where: str, name: str, values: Any) -> list[Any]:
    key = f"{where}.{name}"
    _check_name(key, name)
    if not isinstance(values, list | tuple) or not values:
        raise ValueError(
            f"`{key}` must be a list of one value or more. "
            f"Received: {values!r}."
        )
    listed = typing.cast("Sequence[Any]", values)
    hint = _FIELDS[name]
    return [fields.check(f"{key}[{n}]", hint, v) for n, v in enumerate(listed)]


def _checked(where: str, values: Mapping[str, Any]) -> dict[str, Any]:
    checked: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{where}.{name}"
        _check_name(key, name)
        checked[name] = fields.check(key, _FIELDS[name], value)
    return checked


def _check_name(key: str, name: str) -> None:
    if name not in _FIELDS:
        raise ValueError(
            f"`{key}` is no parameter of a run. Use one of: "
            f"{', '.join(sorted(_FIELDS))}."
        )


def _not_a_table(key: str, value: Any) -> ValueError:
    return ValueError(f"`{key}` must be a table. Received: {value!r}.")
