"""A study's arms and contrasts as figures."""

import textwrap
from collections.abc import Sequence

from gnsmall_keras.report.figures.drawing import (
    BLACK,
    COLOURS,
    GREY,
    STYLE,
    Drawing,
    load_matplotlib,
    new_figure,
)
from gnsmall_keras.report.study import Row, Study

_ROW = 0.24  # inches
_LINE = 0.13  # a further line of a name
_LONGEST = 36  # characters of one: the axes keep half of the width
_MINUS = " \N{MINUS SIGN} "
_MARGINS = 0.8


def draw_study(study: Study) -> list[Drawing]:
    """Draws the arms by seed, and the contrasts with their intervals.

    Raises:
        ValueError: if matplotlib is not installed.
    """
    with load_matplotlib().rc_context(STYLE):
        drawings = [_draw_arms(study), _draw_contrasts(study)]
    return [drawing for drawing in drawings if drawing]


def _draw_arms(study: Study) -> Drawing | None:
    measure = "validation_accuracy" if study.selection else "test_accuracy"
    what = "validation" if study.selection else "test"
    arms = [
        (arm.name, values)
        for arm in study.arms
        if arm.group and (values := arm.group.values(measure))
    ]
    if not arms:
        return None
    figure, axes = _list([name for name, _ in arms])
    for place, (_, values) in enumerate(arms):
        accuracies = list(values.values())
        axes.plot(
            accuracies,
            [place] * len(accuracies),
            marker="o",
            linestyle="",
            markersize=4,
            color=COLOURS[0],
        )
        axes.plot(
            sum(accuracies) / len(accuracies),
            place,
            marker="|",
            markersize=11,
            color=BLACK,
        )
    axes.set_xlabel(f"{what} accuracy (%)")
    listed = "; ".join(
        f"{name}: {', '.join(f'{one:.2f}' for one in values.values())}"
        for name, values in arms
    )
    return Drawing(
        f"{study.name}-arms",
        f"{study.name}: every run",
        f"{what.capitalize()} accuracy in percent of each run, by arm: "
        f"{listed}.",
        "A point is a run, of one seed; a bar the mean of its arm.",
        figure,
    )


def _draw_contrasts(study: Study) -> Drawing | None:
    rows = [row for row in study.rows if row.found and row.found.test]
    if not rows:
        return None
    figure, axes = _list([_name(row) for row in rows])
    axes.axvline(0, color=GREY, linewidth=1)
    for place, row in enumerate(rows):
        difference = row.found.test
        axes.errorbar(
            difference.mean,
            place,
            xerr=difference.half_width,
            color=COLOURS[1 if row.contrast.primary else 0],
            marker="x" if difference.half_width is None else "o",
            markersize=5,
            capsize=3,
        )
    axes.set_xlabel("difference of test accuracy\n(percentage points)")
    return Drawing(
        f"{study.name}-contrasts",
        f"{study.name}: what was compared",
        "Differences of test accuracy in percentage points, with 95 percent "
        f"intervals: {_describe(rows)}.",
        "Means of differences paired by seed, with the 95 % interval by "
        "Student's t, not corrected for multiple comparisons; a cross has no "
        "interval. Primary contrasts are orange.",
        figure,
    )


def _list(names: Sequence[str]):
    """Axes with a row for each name, from above."""
    texts = [_wrap(name) for name in names]
    further = sum(text.count("\n") for text in texts)
    figure, axes = new_figure(_MARGINS + _ROW * len(names) + _LINE * further)
    axes.set_yticks(range(len(texts)), texts, fontsize=7.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    return figure, axes


def _wrap(name: str) -> str:
    """A long name on lines of its own, each side of a difference on some."""
    if len(name) <= _LONGEST:
        return name
    sides = name.replace(_MINUS, f"\n{_MINUS.lstrip()}").splitlines()
    return "\n".join(textwrap.fill(side, _LONGEST) for side in sides)


def _name(row: Row) -> str:
    contrast = row.contrast
    hypothesis = f"{contrast.hypothesis}: " if contrast.hypothesis else ""
    return f"{hypothesis}{contrast.treated}{_MINUS}{contrast.control}"


def _describe(rows: Sequence[Row]) -> str:
    shown = []
    for row in rows:
        test = row.found.test
        spread = "" if test.half_width is None else f" ± {test.half_width:.2f}"
        shown.append(f"{_name(row)}: {test.mean:+.2f}{spread}")
    return "; ".join(shown)
