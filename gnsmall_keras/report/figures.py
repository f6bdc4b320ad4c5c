"""The figures, drawn with matplotlib; it is loaded when they are."""

import io
import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from gnsmall_keras.models.catalogue import NETWORKS
from gnsmall_keras.models.spec import COUNTS
from gnsmall_keras.report.groups import (
    Comparison,
    Estimate,
    Group,
    compare,
    data_name,
    estimate,
    key_of,
)
from gnsmall_keras.report.published import PAPER_EPOCHS, PAPER_RUNS, PEERS

# Okabe and Ito's, without the yellow, which is too pale for lines on white, and
# the black, which is the paper's here.
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
)
MARKERS = "osD^vP"
MOST_SERIES = len(COLOURS)  # in one figure; the tables have all
MOST_ROWS = 16  # of the figure of differences
MOST_CURVES = 6  # figures of learning curves of one data set
_GREY = "#666666"
_BLACK = "#000000"
_WIDTH = 5.2  # inches: text of 8 points stays legible on a phone
_STYLE = {
    "font.size": 9,
    "legend.fontsize": 7.5,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "gnsmall",  # the same records give the same file
    "text.parse_math": False,  # a "$" in a record's text is a "$"
}


class Drawing(NamedTuple):
    """A figure with its words."""

    name: str  # of the file
    title: str
    alt: str
    caption: str
    figure: Any


class _Point(NamedTuple):
    x: float
    estimate: Estimate
    label: str = ""


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
        with _matplotlib().rc_context(_STYLE):
            drawings = _draw_data(name, members)
        drawn.append(
            (
                name,
                [one._replace(name=f"{name}-{one.name}") for one in drawings],
            )
        )
    return drawn


def render(drawing: Drawing, form: str) -> bytes:
    """Returns the figure as "svg" or "png"."""
    buffer = io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with _matplotlib().rc_context(_STYLE):
        drawing.figure.savefig(
            buffer,
            format=form,
            dpi=160,
            metadata=nothing if form == "svg" else None,
        )
    return buffer.getvalue()


def draw_layer_errors(layers: Sequence[Any]) -> Drawing:
    """Draws how far an int8 file departs from its float network.

    Args:
        layers: `LayerError`s, in the file's order.

    Raises:
        ValueError: if matplotlib is not installed.
    """
    kinds = sorted({entry.op for entry in layers if entry.sqnr_db is not None})
    with _matplotlib().rc_context(_STYLE):
        figure, axes = _figure(3.2)
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


def _matplotlib():
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise ValueError(
            "Figures need matplotlib, which is not installed. Install the "
            "extra: pip install 'gnsmall-keras[report]'."
        ) from None
    return matplotlib


def _name_of(groups):
    names = sorted({data_name(group.first) for group in groups})
    return "cifar10" if "cifar10" in names else names[0]


def _draw_data(name, groups):
    drawings = [
        _draw_widths(name, groups),
        _draw_differences(name, compare(groups)),
        *(_draw_pareto(name, groups, cost) for cost in ("parameters", "macs")),
        *_draw_curves(name, groups),
    ]
    return [drawing for drawing in drawings if drawing]


def _figure(height):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)  # which can tell how long a text is
    return figure, figure.add_subplot()


def _legend(figure, axes, height=3.2):
    """Puts the legend below, as long as its labels are."""
    handles, labels = axes.get_legend_handles_labels()
    labels = [textwrap.fill(label, 68) for label in labels]
    lines = sum(label.count("\n") + 1 for label in labels)
    figure.set_figheight(height + 0.15 * lines)
    figure.legend(handles, labels, loc="outside lower left", frameon=False)


def _plot(axes, points, index, label, *, hollow=False, line="-"):
    """One series; bars are a sample standard deviation over seeds."""
    colour = COLOURS[index % len(COLOURS)]
    points = sorted(points)
    axes.errorbar(
        [point.x for point in points],
        [point.estimate.mean for point in points],
        yerr=[point.estimate.deviation or math.nan for point in points],
        color=colour,
        marker=MARKERS[index % len(MARKERS)],
        markerfacecolor="white" if hollow else colour,
        linestyle=line,
        markersize=5,
        capsize=3,
        linewidth=1.2,
        label=f"{label} ({_seeds(points)})",
    )


def _seeds(points):
    numbers = sorted({point.estimate.n for point in points})
    text = " to ".join(str(n) for n in sorted({numbers[0], numbers[-1]}))
    return f"n={text}"


def _measures(protocol):
    """Attribute of a record, what it is, and whether it is drawn hollow."""
    yield "test_accuracy", "", False
    if protocol == "paper":
        yield "best_test_accuracy", ", best epoch on test", True


def _draw_widths(name, groups):
    series: dict[str, tuple[Group, list[Group]]] = {}
    for group in groups:
        known = NETWORKS.get(group.first.config["model"])
        if known and known.scales and group.values("test_accuracy"):
            key = key_of({**group.identity, "width": None})
            series.setdefault(key, (group, []))[1].append(group)
    if not series:
        return None
    figure, axes = _figure(4)
    ranked = sorted(series.values(), key=lambda found: -len(found[1]))
    for index, (first, members) in enumerate(ranked[:MOST_SERIES]):
        for measure, what, hollow in _measures(first.protocol):
            points = [
                _Point(group.first.config["width"], estimated)
                for group in members
                if (estimated := group.estimate(measure))
            ]
            if points:
                label = first.name.replace(
                    first.network, first.first.config["model"], 1
                )
                _plot(axes, points, index, label + what, hollow=hollow)
    if name == "cifar10":
        _plot_paper_widths(axes)
    axes.set_xlabel("width (channel multiplier)")
    _spread(axes)
    _legend(figure, axes, 4.0)
    return Drawing(
        "width",
        f"{name}: accuracy against width",
        f"Test accuracy in percent over width on {name}, a series for each "
        f"recipe, number of epochs, protocol and strategy: "
        f"{_listed(first for first, _ in ranked[:MOST_SERIES])}.",
        "Points are means over n seeds, bars one sample standard deviation. "
        "A line joins runs of one recipe, number of epochs, protocol and "
        "strategy only." + _left_out(len(ranked), MOST_SERIES, "series"),
        figure,
    )


def _plot_paper_widths(axes):
    runs = [
        (width, run)
        for (network, width), run in PAPER_RUNS.items()
        if network == "gns"
    ]
    for what, values, marker in (
        ("best epoch on test", [run.best for _, run in runs], "*"),
        ("last epoch", [run.last for _, run in runs], "_"),
    ):
        axes.plot(
            [width for width, _ in runs],
            values,
            color=_BLACK,
            marker=marker,
            linestyle=":" if marker == "*" else "",
            label=f"the paper: gns, {PAPER_EPOCHS} epochs, paper protocol, "
            f"{what} (n=1)",
        )


def _draw_differences(name: str, comparisons: Iterable[Comparison]):
    known = [found for found in comparisons if found.test]
    if not known:
        return None
    rows = known[:MOST_ROWS]
    settings = sorted({row.group.setting for row in rows})
    texts = [
        textwrap.fill(f"{row.group.name} (n={row.test.n})", 78) for row in rows
    ]
    heights = [0.35 + 0.14 * (text.count("\n") + 1) for text in texts]
    figure, axes = _figure(0.8 + sum(heights))
    axes.axvline(0, color=_GREY, linewidth=1)
    bottom = 0.0  # in inches, from above
    for row, text, height in zip(rows, texts, heights, strict=True):
        axes.text(
            *(0.01, bottom - 0.06),
            text,
            fontsize=7,
            va="top",
            bbox={"facecolor": "white", "alpha": 0.8, "pad": 0, "lw": 0},
            transform=axes.get_yaxis_transform(),  # x in parts of the axes
        )
        bottom -= height
        index = settings.index(row.group.setting)
        axes.errorbar(
            row.test.mean,
            bottom + 0.15,
            xerr=row.test.half_width,
            color=COLOURS[index % len(COLOURS)],
            marker="x" if row.test.half_width is None else "o",
            capsize=3,
        )
    axes.set_ylim(bottom - 0.05, 0.05)
    axes.set_yticks([])
    low, high = axes.get_xlim()
    if high - low < 1:  # one pair alone: zero and it, not zero over and over
        axes.set_xlim(low - 0.5, high + 0.5)
    axes.set_xlabel("test accuracy minus the baseline's (percentage points)")
    return Drawing(
        "differences",
        f"{name}: every strategy against its baseline",
        f"Differences of test accuracy on {name}, paired by seed, with 95 "
        f"percent intervals: {_listed(row.group for row in rows)}.",
        "Means of differences paired by seed, with the 95 % interval by "
        "Student's t; a cross has n=1 and no interval. A colour is one "
        "protocol and number of epochs."
        + _left_out(len(known), MOST_ROWS, "strategies"),
        figure,
    )


_COSTS = {
    "parameters": ("deployed_parameters", "parameters, deployed"),
    "macs": ("deployed_macs", "multiply-accumulates of an image"),
}


def _draw_pareto(name, groups, cost):
    attribute, title = _COSTS[cost]
    series: dict[tuple[str, int], list[Group]] = {}
    for group in groups:
        if group.values("test_accuracy"):
            key = (group.protocol, group.epochs)
            series.setdefault(key, []).append(group)
    if not series:
        return None
    figure, axes = _figure(4)
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.08)
    labelled = []
    ranked = sorted(series.items(), key=lambda found: -len(found[1]))
    for index, (key, members) in enumerate(ranked[:MOST_SERIES]):
        points = [
            _Point(
                getattr(group.first, attribute),
                group.estimate("test_accuracy"),
                group.network
                + (f" {group.strategy}" * (group.strategy != "baseline")),
            )
            for group in members
        ]
        _plot(axes, points, index, _setting_name(*key), line="")
        labelled += _plot_front(axes, points, COLOURS[index % len(COLOURS)])
    if name == "cifar10":
        labelled += _plot_published(axes, cost)
    axes.set_xlabel(f"{title} (logarithmic)")
    _spread(axes)
    _tick_sizes(axes)
    _legend(figure, axes, 5.4)
    _label(figure, axes, labelled)
    peers = " The published peers' names stand beside their points."
    return Drawing(
        cost,
        f"{name}: accuracy against {title}",
        f"Test accuracy in percent over {title} on {name}, with a Pareto front "
        "for each protocol and number of epochs"
        + (" and for the published peers." if name == "cifar10" else "."),
        "Steps are Pareto fronts: nothing of the same protocol and number of "
        "epochs is both smaller and better."
        + (peers if name == "cifar10" else "")
        + _left_out(len(ranked), MOST_SERIES, "settings"),
        figure,
    )


def find_front(points: Iterable[tuple[float, float]]) -> list[int]:
    """Returns indices of (cost, value) that no other point beats, by cost."""
    points = list(points)
    front: list[int] = []
    for index in sorted(
        range(len(points)), key=lambda i: (points[i][0], -points[i][1])
    ):
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def _plot_front(axes, points, colour):
    """Draws the front; returns all points, with the names of those on it."""
    indices = find_front((p.x, p.estimate.mean) for p in points)
    front = [points[index] for index in indices]
    axes.step(
        [point.x for point in front],
        [point.estimate.mean for point in front],
        where="post",
        color=colour,
        linewidth=1,
    )
    return [
        (p.x, p.estimate.mean, p.label if i in indices else "", colour)
        for i, p in enumerate(points)
    ]


def _plot_published(axes, cost):
    """The paper's networks and the peers; returns what is to be labelled."""
    paper = [
        _Point(
            getattr(COUNTS[network, width], f"deployed_{cost}"),
            estimate([run.best]),
            f"w{width:g}" if network == "gns" else network,
        )
        for (network, width), run in PAPER_RUNS.items()
    ]
    peers = [
        _Point(getattr(peer, cost), estimate([peer.accuracy]), label)
        for label, peer in PEERS.items()
    ]
    said = (
        f"the paper: gns by width, gnd; {PAPER_EPOCHS} epochs, paper protocol, "
        "best epoch on test (n=1)"
    )
    own = "published peers, protocols of their own (n=1)"
    labelled = []
    for points, marker, colour, label in (
        (paper, "*", _BLACK, said),
        (peers, "+", _GREY, own),
    ):
        axes.plot(
            [point.x for point in points],
            [point.estimate.mean for point in points],
            color=colour,
            marker=marker,
            linestyle="",
            label=label,
        )
        labelled += [(p.x, p.estimate.mean, p.label, colour) for p in points]
    _plot_front(axes, peers, _GREY)
    return labelled


def _spread(axes):
    """Spaces accuracies by the reciprocal of the error: the best ones apart.

    So networks of 92 and 94 % differ visibly beside a run of one epoch.
    """
    axes.set_yscale("function", functions=(_to_scale, _from_scale))
    axes.set_ylabel("test accuracy (%), spaced by 1 / error")
    low, high = axes.get_ylim()
    ticks = (*range(0, 80, 20), 70, 80, 85, 88, *range(90, 101))
    axes.set_yticks([tick for tick in ticks if low <= tick <= high])


def _to_scale(accuracy):
    import numpy as np

    return 1 / np.maximum(101 - np.asarray(accuracy), 0.1)


def _from_scale(scaled):
    import numpy as np

    return 101 - 1 / np.maximum(np.asarray(scaled), 1e-3)


def _tick_sizes(axes):
    """Ticks that people read, such as 300 k and 1 M."""
    low, high = axes.get_xlim()
    axes.minorticks_off()
    steps = (1, 3) if high > 50 * low else (1, 2, 5)
    ticks = [
        step * 10.0**power
        for power in range(math.floor(math.log10(low)), 12)
        for step in steps
    ]
    ticks = [tick for tick in ticks if low <= tick <= high]
    axes.set_xticks(ticks, [_short(tick) for tick in ticks])


def _short(number):
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:g}{unit}"
    return f"{number:g}"


# In points from the marker, near ones first.
_OFFSETS = [(5, 0), (-5, 0)] + [
    (radius * math.cos(angle), radius * math.sin(angle))
    for radius in range(8, 80, 8)
    for angle in [math.pi * (0.5 + turn / 8) for turn in range(16)]
]


def _label(figure, axes, labelled):
    """Writes names beside their points, where nothing is written yet."""
    from matplotlib.text import Text

    figure.draw_without_rendering()  # which lays the axes out
    renderer = figure.canvas.get_renderer()
    frame, taken = axes.get_window_extent(renderer).extents, []
    for x, y, _, _ in labelled:
        left, bottom = axes.transData.transform((x, y))
        taken.append((left - 4, bottom - 4, left + 4, bottom + 4))
    for x, y, name, colour in labelled:
        for right, up in _OFFSETS if name else ():
            text = axes.annotate(
                name,
                (x, y),
                (right, up),
                textcoords="offset points",
                ha="left" if right > 1 else "right" if right < -1 else "center",
                va="center",
                fontsize=6.5,
                color=colour,
                bbox={"facecolor": "white", "alpha": 0.7, "pad": 0, "lw": 0},
                arrowprops={"arrowstyle": "-", "lw": 0.4, "color": colour}
                if math.hypot(right, up) > 9
                else None,
            )
            # Of the words alone: the line to the point may cross others.
            text.update_positions(renderer)
            box = Text.get_window_extent(text, renderer).extents
            if _fits(box, frame, taken):
                taken.append(box)
                break
            text.remove()


def _fits(box, frame, taken):
    inside = (
        box[0] >= frame[0]
        and box[1] >= frame[1]
        and box[2] <= frame[2]
        and box[3] <= frame[3]
    )
    return inside and not any(
        box[0] < other[2]
        and other[0] < box[2]
        and box[1] < other[3]
        and other[1] < box[3]
        for other in taken
    )


def _draw_curves(name, groups):
    settings: dict[tuple[str, int], list[Group]] = {}
    for group in groups:
        if _curve(group, "val_accuracy"):
            key = (group.protocol, group.epochs)
            settings.setdefault(key, []).append(group)
    ranked = sorted(settings.items(), key=lambda found: -len(found[1]))
    for (protocol, epochs), members in ranked[:MOST_CURVES]:
        members.sort(key=lambda group: -_curve(group, "val_accuracy")[-1])
        figure, axes = _figure(4)
        for index, group in enumerate(members[:MOST_SERIES]):
            _plot_curves(axes, group, COLOURS[index % len(COLOURS)], index)
        watched = "validation" if protocol == "validation" else "test"
        axes.set_xlabel("epoch")
        axes.set_ylabel("accuracy (%)")
        axes.xaxis.get_major_locator().set_params(integer=True)
        _legend(figure, axes)
        setting = _setting_name(protocol, epochs)
        yield Drawing(
            f"curves-{protocol}-e{epochs}",
            f"{name}: learning curves, {setting}",
            f"Accuracy in percent after each of {epochs} epochs on {name}, on "
            f"the training and the {watched} split: "
            f"{_listed(members[:MOST_SERIES])}.",
            f"Lines: {watched} split; dashed: training images as they were "
            "augmented. Means over seeds."
            + _left_out(len(members), MOST_SERIES, "groups")
            + _left_out(len(ranked), MOST_CURVES, "settings"),
            figure,
        )


def _plot_curves(axes, group, colour, index):
    seeds = {run.record.config["seed"] for run in group.runs}
    label = (
        f"{group.network}, {group.first.config['recipe']}, {group.how} "
        f"(n={len(seeds)})"
    )
    for measure, line in (("val_accuracy", "-"), ("accuracy", "--")):
        values = _curve(group, measure)
        axes.plot(
            range(1, len(values) + 1),
            values,
            color=colour,
            linestyle=line,
            linewidth=1.4 if line == "-" else 0.8,
            marker=MARKERS[index % len(MARKERS)] if line == "-" else "",
            markersize=4,
            markevery=max(1, len(values) // 10),
            label=label if line == "-" else None,
        )


def _curve(group, measure):
    """Percent after each epoch: the mean over seeds, of each its runs' mean."""
    by_seed: dict[int, list[list[float]]] = {}
    for run in group.runs:
        values = run.record.history.get(measure)
        if values:
            by_seed.setdefault(run.record.config["seed"], []).append(values)
    seeds = [
        [sum(epoch) / len(epoch) for epoch in zip(*curves, strict=False)]
        for curves in by_seed.values()
    ]
    return [
        100 * sum(epoch) / len(epoch) for epoch in zip(*seeds, strict=False)
    ]


def _setting_name(protocol, epochs):
    return f"{protocol} protocol, {epochs} epochs"


def _listed(groups):
    """What a few groups are, for those who cannot see them."""
    return "; ".join(group.name for group in groups)


def _left_out(found, most, what):
    if found <= most:
        return ""
    return f" Of {found} {what} {most} are drawn; the tables have all."
