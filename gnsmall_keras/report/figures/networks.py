"""Published int8 networks and their peers, by bytes and by arithmetic."""

from typing import NamedTuple

from gnsmall_keras.report.figures.drawing import (
    STYLE,
    Drawing,
    load_matplotlib,
    new_figure,
    tick_sizes,
)
from gnsmall_keras.report.figures.labels import place_labels
from gnsmall_keras.report.networks import Network, Networks

MOST_BYTES, MOST_MACS = 1_000_000, 150_000_000  # of what is drawn
LEAST_ACCURACY = 82.0
_STAR, _DOT = 12.0, 5.5  # points across


class Theme(NamedTuple):
    """Colours that are read on one background."""

    background: str
    text: str
    grid: str
    ours: str
    others: str


THEMES = {
    "light": Theme("#ffffff", "#1f2328", "#dddddd", "#0072B2", "#6e6e6e"),
    "dark": Theme("#0d1117", "#e6edf3", "#30363d", "#56B4E9", "#a0a0a0"),
}


def draw_networks(networks: Networks, theme: str = "light") -> Drawing:
    """Draws accuracy against bytes and against multiply-accumulates.

    Args:
        networks: ours and the peers.
        theme: one of `THEMES`.

    Raises:
        ValueError: if matplotlib is not installed.
    """
    colours = THEMES[theme]
    points = [
        one
        for one in (*networks.ours, *networks.peers)
        # A file for phones is of the same network.
        if one.target != "android"
        and (_bytes(one) or 0) <= MOST_BYTES
        and (one.macs or 0) <= MOST_MACS
    ]
    with load_matplotlib().rc_context({**STYLE, **_style(colours)}):
        figure, panels = new_figure(6.4, (2, 1))
        figure.set_facecolor(colours.background)
        for axes, cost, title in (
            (panels[0], _bytes, "bytes of the int8 file"),
            (panels[1], _macs, "multiply-accumulates of an image"),
        ):
            _draw_panel(axes, points, cost, colours)
            axes.set_xlabel(f"{title} (logarithmic)")
        figure.legend(
            *panels[0].get_legend_handles_labels(),
            loc="outside lower left",
            frameon=False,
        )
        for axes, cost in zip(panels, (_bytes, _macs), strict=True):
            _label(figure, axes, points, cost, colours)
    names = ", ".join(
        f"{one.name} with {one.int8:.2f} %"
        for one in networks.ours
        if one.target != "android"
    )
    return Drawing(
        f"networks-{theme}",
        "int8 accuracy against bytes and multiply-accumulates",
        "Accuracy on CIFAR-10's test images over the bytes of the int8 file, "
        "and over the multiply-accumulates of an image: this package's "
        f"{names}; MLPerf Tiny's ResNet-8s and other published networks.",
        "Filled markers: accuracy of the int8 file. Hollow markers: no int8 "
        "file is published, so the accuracy is the float network's and the "
        "size is one byte per parameter. Higher and further left is better.",
        figure,
    )


def _style(colours):
    return {
        **dict.fromkeys(
            ("text.color", "axes.labelcolor", "axes.edgecolor"), colours.text
        ),
        **dict.fromkeys(("xtick.color", "ytick.color"), colours.text),
        "axes.facecolor": colours.background,
        "savefig.facecolor": colours.background,
        "grid.color": colours.grid,
        "font.size": 9.5,
    }


def _bytes(network: Network):
    if network.size_bytes or network.int8:
        return network.size_bytes
    return network.parameters  # a byte each, at least


def _macs(network: Network):
    return network.macs


def _accuracy(network: Network):
    return network.int8 or network.float


def _visible(points, cost):
    for one in points:
        value, accuracy = cost(one), _accuracy(one)
        if value and accuracy >= LEAST_ACCURACY:
            yield one, value, accuracy


def _draw_panel(axes, points, cost, colours):
    shown = list(_visible(points, cost))
    for ours, filled, marker, label in (
        (True, True, "*", "this package, int8"),
        (False, True, "o", "others, int8"),
        (False, False, "o", "others, float; bytes: one for each parameter"),
    ):
        some = [
            (value, accuracy)
            for one, value, accuracy in shown
            if one.ours is ours and (one.int8 is not None) is filled
        ]
        colour = colours.ours if ours else colours.others
        axes.plot(
            [value for value, _ in some],
            [accuracy for _, accuracy in some],
            marker,
            color=colour,
            markerfacecolor=colour if filled else colours.background,
            markersize=_STAR if ours else _DOT,
            label=label,
        )
    axes.set_xscale("log")
    axes.margins(x=0.16, y=0.1)
    axes.set_ylabel("accuracy (%)")
    tick_sizes(axes)


def _label(figure, axes, points, cost, colours):
    shown = sorted(_visible(points, cost), key=lambda found: not found[0].ours)
    place_labels(
        figure,
        axes,
        [
            (
                value,
                accuracy,
                one.name,
                colours.ours if one.ours else colours.text,
            )
            for one, value, accuracy in shown
        ],
        background=colours.background,
        size=8,
        radii=[_STAR / 2 if one.ours else _DOT / 2 for one, _, _ in shown],
    )
