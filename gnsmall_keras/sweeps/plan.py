"""Sweep files: what runs they ask for, checked before anything runs."""

import dataclasses
import itertools
import os
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from gnsmall_keras.config import DistillConfig

_HINTS = typing.get_type_hints(DistillConfig)
_KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Which runs to do: all combinations of `grid`, then each of `runs`.

    Raises:
        ValueError: if it asks for no run, or a value does not fit; the message
            has the key.
    """

    parameters: Mapping[str, Any] = dataclasses.field(
        default_factory=dict[str, Any]
    )
    """Fields of `DistillConfig`, of every run that has no value of its own."""
    grid: Mapping[str, Sequence[Any]] = dataclasses.field(
        default_factory=dict[str, Sequence[Any]]
    )
    """Lists of values; the last one changes fastest."""
    runs: Sequence[Mapping[str, Any]] = ()
    """More runs, one by one."""

    def __post_init__(self):
        if not self.grid and not self.runs:
            raise ValueError(
                "A sweep needs runs. Received: neither `grid` nor `runs`. "
                "Write [grid] with lists of values, or [[runs]] with single "
                "ones."
            )
        _ = self.configs

    @property
    def configs(self) -> tuple[DistillConfig, ...]:
        """The runs in order; one that is asked for twice is there twice."""
        common = _checked("parameters", self.parameters)
        return tuple(
            _build(where, {**common, **values})
            for where, values in self._asked()
        )

    def _asked(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The runs' own values, with where they come from."""
        if self.grid:
            axes = {key: _axis(key, self.grid[key]) for key in self.grid}
            for values in itertools.product(*axes.values()):
                values = dict(zip(axes, values, strict=True))
                shown = ", ".join(f"{k}={v!r}" for k, v in values.items())
                yield f"grid, {shown}", values
        for number, values in enumerate(self.runs):
            where = f"runs[{number}]"
            if not isinstance(values, Mapping):
                raise _not_a_table(where, values)
            yield where, _checked(where, values)


def read_sweep(path: str | os.PathLike[str]) -> SweepConfig:
    """Reads a sweep file (TOML): [parameters], [grid] and [[runs]].

    Raises:
        ValueError: if it is not TOML, or what it asks for is not possible.
    """
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        return _sweep(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _sweep(values: dict[str, Any]) -> SweepConfig:
    known = {field.name for field in dataclasses.fields(SweepConfig)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(
            f"A sweep has the keys {sorted(known)}. Received: {unknown}. "
            "Values of all runs stand in [parameters]."
        )
    for key in ("parameters", "grid"):
        if not isinstance(values.get(key, {}), dict):
            raise _not_a_table(key, values[key])
    if not isinstance(values.get("runs", []), list):
        raise ValueError("`runs` must be tables. Write [[runs]], not [runs].")
    return SweepConfig(**values)


def _axis(name: str, values: Any) -> list[Any]:
    key = f"grid.{name}"
    _check_name(key, name)
    if not isinstance(values, list | tuple) or not values:
        raise ValueError(
            f"`{key}` must be a list of one value or more. "
            f"Received: {values!r}."
        )
    listed = typing.cast("Sequence[Any]", values)
    return [_value(f"{key}[{n}]", name, v) for n, v in enumerate(listed)]


def _checked(where: str, values: Mapping[str, Any]) -> dict[str, Any]:
    checked: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{where}.{name}"
        _check_name(key, name)
        checked[name] = _value(key, name, value)
    return checked


def _check_name(key: str, name: str) -> None:
    if name not in _HINTS:
        raise ValueError(
            f"`{key}` is no parameter of a run. Use one of: "
            f"{', '.join(sorted(_HINTS))}."
        )


def _value(key: str, name: str, value: Any) -> Any:
    """Returns `value` as the config has it: 1 becomes 1.0 where it is real.

    Else a run would have two names.
    """
    hint = _HINTS[name]
    if isinstance(hint, types.UnionType):  # or None, which TOML leaves out
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is not tuple:
        return _scalar(key, hint, value)
    if not isinstance(value, list | tuple):
        raise ValueError(f"`{key}` must be a list. Received: {value!r}.")
    item = typing.get_args(hint)[0]
    values = typing.cast("Sequence[Any]", value)
    return tuple(_scalar(f"{key}[{n}]", item, v) for n, v in enumerate(values))


def _scalar(key: str, hint: Any, value: Any) -> Any:
    allowed: Any = hint
    kind = _KINDS.get(hint, "")
    if typing.get_origin(hint) is Literal:
        kind = f"one of {typing.get_args(hint)}"
        fits = value in typing.get_args(hint)
    elif hint is bool:
        fits = isinstance(value, bool)
    else:
        allowed = (int, float) if hint is float else hint
        fits = isinstance(value, allowed) and not isinstance(value, bool)
    if not fits:
        raise ValueError(f"`{key}` must be {kind}. Received: {value!r}.")
    return float(value) if hint is float else value


def _build(where: str, values: dict[str, Any]) -> DistillConfig:
    try:
        return DistillConfig(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _not_a_table(key: str, value: Any) -> ValueError:
    return ValueError(f"`{key}` must be a table. Received: {value!r}.")
