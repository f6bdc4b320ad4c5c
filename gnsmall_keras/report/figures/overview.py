"""All figures of a report, data by data."""

import re
from collections.abc import Sequence
from typing import Any

from gnsmall_keras.records.export import ExportRecord
from gnsmall_keras.report.figures.accuracies import (
    draw_curves,
    draw_differences,
    draw_widths,
)
from gnsmall_keras.report.figures.drawing import STYLE, Drawing, load_matplotlib
from gnsmall_keras.report.figures.fronts import COSTS, draw_pareto
from gnsmall_keras.report.figures.mistakes import draw_confusion, draw_mistakes
from gnsmall_keras.report.groups import Group, compare, data_name
from gnsmall_keras.report.winner import find_winners


def draw_all(
    groups: Sequence[Group],
    exports: Sequence[ExportRecord] = (),
    dataset: Any = None,
) -> list[tuple[str, list[Drawing]]]:
    """Draws all figures: (name of the data, its drawings), data by data.

    Accuracies on different images are never in one figure.

    Args:
        groups: of runs.
        exports: records of files, for what they cost.
        dataset: a `data.dataset.Dataset`, whose images are drawn where its
            winner was wrong.

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
            drawings = _draw_data(name, members, exports, dataset)
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


def _draw_data(name, groups, exports, dataset):
    drawings = [
        *_draw_winner(name, groups, dataset),
        draw_widths(name, groups),
        draw_differences(name, compare(groups)),
        *(draw_pareto(name, groups, cost, exports) for cost in COSTS),
        *draw_curves(name, groups),
    ]
    return [drawing for drawing in drawings if drawing]


def _draw_winner(name, groups, dataset):
    for winner in find_winners(groups):
        yield draw_confusion(name, winner)
        yield draw_mistakes(name, winner, dataset)
