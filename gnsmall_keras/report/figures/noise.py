"""The noise of an int8 file, as a figure."""

from collections.abc import Sequence
from typing import Any

from gnsmall_keras.report.figures.drawing import (
    COLOURS,
    MARKERS,
    STYLE,
    Drawing,
    load_matplotlib,
    new_figure,
)


def draw_layer_errors(layers: Sequence[Any]) -> Drawing:
    """Draws how far an int8 file departs from its float network.

    Args:
        layers: `LayerError`s, in the file's order.

    Raises:
        ValueError: if matplotlib is not installed.
    """
    kinds = sorted({entry.op for entry in layers if entry.sqnr_db is not None})
    with load_matplotlib().rc_context(STYLE):
        figure, axes = new_figure(3.2)
        for index, kind in enumerate(kinds):
            points = [
                (number, -entry.sqnr_db)
                for number, entry in enumerate(layers)
                if entry.op == kind and entry.sqnr_db is not None
            ]
            axes.plot(
                *zip(*points, strict=True),
                MARKERS[index % len(MARKERS)],
                color=COLOURS[index % len(COLOURS)],
                fillstyle="full" if index < len(COLOURS) else "none",
                markersize=3.5,
                label=kind,
            )
        worst = max(
            (
                number
                for number, e in enumerate(layers)
                if e.sqnr_db is not None
            ),
            key=lambda number: -layers[number].sqnr_db,
            default=None,
        )
        if worst is not None:
            axes.annotate(
                layers[worst].layer,
                (worst, -layers[worst].sqnr_db),
                (0, 5),
                textcoords="offset points",
                ha="right" if worst > len(layers) / 2 else "left",
                fontsize=7.5,
            )
        axes.set_xlabel("operator, in the file's order")
        axes.set_ylabel("noise of int8, dB of the signal")
        axes.margins(y=0.12)
        figure.legend(loc="outside lower center", ncols=3)
    return Drawing(
        "layer-errors",
        "Noise of int8, operator by operator",
        "Points: the noise of each operator's output in decibels of its signal",
        "The int8 file against the float network on the same images. An "
        "operator's noise includes that of all operators before it.",
        figure,
    )
