"""What a sweep compares: named arms, and contrasts between two of them."""

import dataclasses
import string
from collections.abc import Mapping, Sequence
from typing import Any

from gnsmall_keras import fields
from gnsmall_keras.config import RunConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrast:
    """Runs of one arm minus those of another, paired by seed."""

    treated: str
    control: str
    hypothesis: str = ""
    """What it is for, in a word, such as "H1"."""
    primary: bool = False
    """Whether it decides: primary contrasts are corrected together."""


def name_arm(where: str, template: Any, values: Mapping[str, Any]) -> str:
    """Returns the name of the arm that a run with `values` belongs to.

    Args:
        where: what messages call the name.
        template: the name, in which "{width}" stands for the width.
        values: fields of the run, as its file has them.

    Raises:
        ValueError: if it is no text, or names a field that is not there.
    """
    if not isinstance(template, str) or not template:
        raise ValueError(
            f"`{where}` must be a text. Received: {template!r}. Write, for "
            'example, arm = "baseline".'
        )
    parts = _parse(template)
    if parts is None or any(
        field is not None and (field not in values or form or conversion)
        for _, field, form, conversion in parts
    ):
        raise ValueError(
            f"`{where}` may have fields of its runs in braces. Received: "
            f"{template!r}. Use: {', '.join(sorted(values))}."
        )
    return "".join(
        text + (_show(values[field]) if field is not None else "")
        for text, field, _, _ in parts
    )


def _parse(template):
    """The parts of a format, None where its braces do not fit."""
    try:
        return [*string.Formatter().parse(template)]
    except ValueError:
        return None


def _show(value):
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return " + ".join(str(one).removeprefix("@") for one in value)
    return str(value)


def check_seeds(arms: Mapping[str, Sequence[RunConfig]]) -> None:
    """Checks that an arm has one run for each seed.

    Raises:
        ValueError: if it has two of one.
    """
    for name, configs in arms.items():
        seeds = [config.seed for config in configs]
        if len(seeds) != len(set(seeds)):
            raise ValueError(
                f"An arm has one run for each seed. Received: {name!r} with "
                f"the seeds {seeds}. Leave the repeated ones out."
            )


def not_an_arm(
    name: str, first: Mapping[str, Any], second: Mapping[str, Any]
) -> ValueError:
    """Returns what is said of an arm whose runs differ in more than a seed.

    Args:
        name: the arm's.
        first, second: values of two runs, without their seeds.
    """
    keys = sorted(first.keys() | second.keys())
    differ = [key for key in keys if first.get(key) != second.get(key)]
    return ValueError(
        "Runs of one arm differ in their seed alone. Received: "
        f"{name!r} with several values of {', '.join(differ)}. Name them in "
        f'braces: arm = "... {{{differ[0]}}}".'
    )


def build_contrasts(
    tables: Sequence[Any], arms: Mapping[str, Sequence[RunConfig]]
) -> tuple[Contrast, ...]:
    """Returns the contrasts that tables ask for, in order.

    Args:
        tables: each with `treated`, a list of arms, `control`, one arm, and,
            if need be, `hypothesis` and `primary`.
        arms: the runs of each, by name.

    Raises:
        ValueError: if a table has other keys, names no arm or arms without a
            pair of runs, or is of a primary contrast that is there already.
    """
    found: list[Contrast] = []
    for number, table in enumerate(tables):
        where = f"contrasts[{number}]"
        if not isinstance(table, Mapping):
            raise ValueError(f"`{where}` must be a table. Received: {table!r}.")
        values = {"hypothesis": "", "primary": False, **table}
        _check(where, table, values, arms)
        found += [
            Contrast(
                treated=name,
                control=values["control"],
                hypothesis=values["hypothesis"],
                primary=values["primary"],
            )
            for name in values["treated"]
        ]
    _check_pairs(found, arms)
    return tuple(found)


def _check_pairs(contrasts, arms):
    """Checks that there is something to compare, and that nothing is twice."""
    runs = {
        name: {(config.seed, config.slug) for config in arms[name]}
        for one in contrasts
        for name in (one.treated, one.control)
    }
    seen = set()
    for one in contrasts:
        treated, control = runs[one.treated], runs[one.control]
        if not dict(treated - control).keys() & dict(control - treated).keys():
            raise ValueError(
                "`contrasts` are paired by seed, of different runs. Received: "
                f"{one.treated!r} and {one.control!r} without a pair. Give "
                "them seeds in common, and more than the name to differ in, "
                "or leave the contrast out."
            )
        pair = frozenset((one.treated, one.control))
        if one.primary and pair in seen:
            raise ValueError(
                "Primary `contrasts` are corrected together, each once. "
                f"Received: {one.treated!r} and {one.control!r} twice. Leave "
                "one of them out."
            )
        if one.primary:
            seen.add(pair)


def _check(where, table, values, arms):
    if values.keys() != fields.rules(Contrast).keys():
        raise ValueError(
            f"`{where}` needs `treated` and `control`, and may have "
            f"`hypothesis` and `primary`. Received: {sorted(table)}."
        )
    rules = fields.rules(Contrast)
    for name in rules.keys() - {"treated"}:
        fields.check(f"{where}.{name}", rules[name], values[name])
    treated = values["treated"]
    if not isinstance(treated, list | tuple) or not treated:
        raise ValueError(
            f"`{where}.treated` must be a list of arms. Received: {treated!r}."
        )
    for name in (*treated, values["control"]):
        if name not in list(arms):  # it may be a list itself
            raise ValueError(
                f"`{where}`: {name!r} is no arm of this file. Use one of: "
                f"{', '.join(map(repr, arms))}."
            )
    if values["control"] in treated:
        raise ValueError(
            f"`{where}` must compare two arms. Received: "
            f"{values['control']!r} with itself. Leave it out of `treated`."
        )
