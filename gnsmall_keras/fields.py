"""Fields of frozen values: their rules, read from types, and their age.

A rule stands once, in a field's type: `Annotated[int, Range(least=1)]`, a
`Literal`, `bool`. A field that came after the first files of its kind says so,
`Younger[int]`, and files without it stay what they were.
"""

# Values from users are checked at run time, whatever their type says.
# pyright: reportUnnecessaryIsInstance=false

import dataclasses
import functools
import json
import math
import numbers
import os
import types
from collections.abc import Iterable, Mapping
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

_Any = TypeVar("_Any")
_KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Range:
    """Where a number has to be; it has to be finite as well."""

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    cure: str = ""
    """What helps, at the end of the rule."""

    def __contains__(self, value: float) -> bool:
        return math.isfinite(_as_float(value)) and not (
            (self.least is not None and value < self.least)
            or (self.above is not None and value <= self.above)
            or (self.most is not None and value > self.most)
            or (self.below is not None and value >= self.below)
        )

    def describe(self, kind: Any) -> str:
        """Returns the rule for numbers of a kind, `int` or `float`."""
        low = self.above if self.least is None else self.least
        high = self.below if self.most is None else self.most
        if high is None:
            sign = ">" if self.least is None else ">="
            number = "whole" if kind is int else "finite"
            text = f"a {number} number {sign} {low}"
        else:
            first = "(" if self.least is None else "["
            text = f"in {first}{low}, {high}{')' if self.most is None else ']'}"
        return text + (f"; {self.cure}" if self.cure else "")


class Since(NamedTuple):
    """Marks a field that is younger than the first files of its kind."""

    schema: int = 0
    """The schema it came with, where lines name theirs."""


Younger = Annotated[_Any, Since()]


class _Rule(NamedTuple):
    kind: Any  # the type without marks and None
    optional: bool
    marks: dict[type, Any]


@functools.cache
def rules(kind: type) -> dict[str, Any]:
    """Returns the types of a frozen value's fields, with their marks."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


@functools.lru_cache(maxsize=256)
def _rule(hint: Any) -> _Rule:
    if get_origin(hint) is Annotated:
        inner, *marks = get_args(hint)
        rule = _rule(inner)
        own: dict[type, Any] = {type(mark): mark for mark in marks}
        return rule._replace(marks=rule.marks | own)
    if get_origin(hint) in (Union, types.UnionType):  # or None
        return _rule(get_args(hint)[0])._replace(optional=True)
    return _Rule(hint, False, {})


def check(name: str, hint: Any, value: Any) -> Any:
    """Returns a value if it is what its type asks for.

    1 becomes 1.0 where it is real, and a number of NumPy's Python's own.

    Args:
        name: what messages call it.
        hint: the type, with its rules.
        value: the value.

    Raises:
        ValueError: if it is not, with the rule and the value.
    """
    rule = _rule(hint)
    kind = rule.kind
    if value is None and rule.optional:
        return None
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"`{name}` must be a list. Received: {value!r}.")
        item = get_args(kind)[0]
        items = enumerate(cast("Iterable[Any]", value))
        return tuple(check(f"{name}[{n}]", item, one) for n, one in items)
    given, value = value, _own_number(kind, value)
    if get_origin(kind) is Literal:
        fits, told = value in get_args(kind), f"one of {get_args(kind)}"
    else:
        allowed = (int, float) if kind is float else kind
        fits = isinstance(value, allowed) and (
            kind is bool or not isinstance(value, bool)
        )
        told = _KINDS[kind]
    if limits := rule.marks.get(Range):
        fits = fits and value in limits
        told = limits.describe(kind)
    if not fits:
        raise ValueError(f"`{name}` must be {told}. Received: {given!r}.")
    return value


def _own_number(kind: Any, value: Any) -> Any:
    """A number as Python's own of a kind; what is none as it is."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value
    if kind is float:
        return _as_float(value)
    if kind is int and isinstance(value, numbers.Integral):
        return int(value)
    if get_origin(kind) is Literal and value in get_args(kind):
        return get_args(kind)[get_args(kind).index(value)]
    return value


def _plain(hint: Any, value: Any) -> Any:
    """A value of NumPy's or a path as Python's own; one item as a tuple."""
    kind = _rule(hint).kind
    if isinstance(value, os.PathLike):
        value = os.fspath(cast("os.PathLike[str]", value))
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        if isinstance(value, str if item is str else numbers.Real):
            return value if isinstance(value, bool) else (_plain(item, value),)
        if not isinstance(value, Iterable):
            return value
        return tuple(_plain(item, one) for one in cast("Iterable[Any]", value))
    if kind is bool and value in (0, 1):
        return bool(value)
    return _own_number(kind, value)


def _as_float(value: Any) -> float:
    """The number; infinite where a whole one is larger than any float."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def settle(frozen: Any) -> None:
    """Gives all fields of a new frozen value the one form names are made of.

    1 is 1.0 where it is real, a path its text, a list a tuple, as is one item.

    Raises:
        ValueError: if one breaks its rule.
    """
    for name, hint in rules(frozen.__class__).items():
        value = _plain(hint, getattr(frozen, name))
        if value is None and not _rule(hint).optional:
            raise ValueError(f"`{name}` must have a value. Received: None.")
        value = check(name, hint, value)
        object.__setattr__(frozen, name, value)


def plain(frozen: Any) -> dict[str, Any]:
    """Returns all values as JSON has them: tuples are lists."""
    return json.loads(json.dumps(dataclasses.asdict(frozen)))


def defaults(kind: type) -> dict[str, Any]:
    """Returns the defaults of all fields that have one, as JSON has them."""
    found: dict[str, Any] = {
        field.name: field.default
        for field in dataclasses.fields(kind)
        if field.default is not dataclasses.MISSING
    }
    return json.loads(json.dumps(found))


def identity(frozen: Any) -> dict[str, Any]:
    """Returns the values that name it: a younger field only where it is used.

    So what was named before a field was there keeps its name.
    """
    hints = rules(frozen.__class__)
    return {
        field.name: getattr(frozen, field.name)
        for field in dataclasses.fields(frozen)
        if Since not in _rule(hints[field.name]).marks
        or getattr(frozen, field.name) != field.default
    }


def complete(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns stored values with what they are too old to say: defaults."""
    return {**defaults(kind), **values}


def is_boolean(hint: Any) -> bool:
    """Returns whether a type's values are true or false, and perhaps None."""
    return _rule(hint).kind is bool


def names(kind: type, schema: int) -> set[str]:
    """Returns the fields that a line of a schema has."""
    return {
        name
        for name, hint in rules(kind).items()
        if _rule(hint).marks.get(Since, Since()).schema <= schema
    }
