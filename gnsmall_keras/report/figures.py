"""All figures of a report, data by data."""

import re
from collections.abc import Sequence

from gnsmall_keras.report.accuracies import (
    draw_curves,
    draw_differences,
    draw_widths,
)
from gnsmall_keras.report.drawing import STYLE, Drawing, load_matplotlib
from gnsmall_keras.report.fronts import draw_pareto
from gnsmall_keras.report.groups import Group, compare, data_name


def draw_all(groups: Sequence[Group]) -> list[tuple[str, list[Drawing]]]:
    """Draws all figures: (name of the data, its drawings), data by data.

    Accuracies on different images are never in one figure.

    Raises:
        ValueError: if matplotlib is not installed.
    """
    by_data: dict[str, list[Group]] = {}
    for group in groups:
        by_data.setdefault(group.first.data_digest, []).append(group)
    drawn, names = [], set()
    for digest, members in by_data.items():
        # A record's text makes no path.
        name = re.sub(r"[^\w.-]", "_", _name_of(members))
        if name in names:  # other images under the same name
            name = f"{name}-{digest[:6]}"
        names.add(name)
        with load_matplotlib().rc_context(STYLE):
            drawings = _draw_data(name, members)
        drawn.append(
            (
                name,
                [one._replace(name=f"{name}-{one.name}") for one in drawings],
            )
        )
    return drawn


def _name_of(groups):
    names = sorted({data_name(group.first) for group in groups})
    return "cifar10" if "cifar10" in names else names[0]


def _draw_data(name, groups):
    drawings = [
        draw_widths(name, groups),
        draw_differences(name, compare(groups)),
        *(draw_pareto(name, groups, cost) for cost in ("parameters", "macs")),
        *draw_curves(name, groups),
    ]
    return [drawing for drawing in drawings if drawing]
