"""Accuracies by width and by epoch, and differences of them."""

import textwrap
from collections.abc import Iterable

from gnsmall_keras.models.catalogue import NETWORKS
from gnsmall_keras.report.figures.drawing import (
    BLACK,
    COLOURS,
    GREY,
    MARKERS,
    MOST_SERIES,
    Drawing,
    Point,
    add_legend,
    left_out,
    list_groups,
    new_figure,
    plot_series,
    setting_name,
    spread_accuracies,
)
from gnsmall_keras.report.groups import Comparison, Group
from gnsmall_keras.report.identity import key_of
from gnsmall_keras.report.published import PAPER_EPOCHS, PAPER_RUNS

MOST_ROWS = 16  # of the figure of differences
MOST_CURVES = 6  # figures of learning curves of one data set


def _measures(protocol):
    """Attribute of a record, what it is, and whether it is drawn hollow."""
    yield "test_accuracy", "", False
    if protocol == "paper":
        yield "best_test_accuracy", ", best epoch on test", True


def draw_widths(name, groups):
    """Draws accuracy against width; None without networks that have one."""
    series: dict[str, tuple[Group, list[Group]]] = {}
    for group in groups:
        known = NETWORKS.get(group.first.config["model"])
        if known and known.scales and group.values("test_accuracy"):
            key = key_of({**group.identity, "width": None})
            series.setdefault(key, (group, []))[1].append(group)
    if not series:
        return None
    figure, axes = new_figure(4)
    ranked = sorted(series.values(), key=lambda found: -len(found[1]))
    for index, (first, members) in enumerate(ranked[:MOST_SERIES]):
        for measure, what, hollow in _measures(first.protocol):
            points = [
                Point(group.first.config["width"], estimated)
                for group in members
                if (estimated := group.estimate(measure))
            ]
            if points:
                label = first.name.replace(
                    first.network, first.first.config["model"], 1
                )
                plot_series(axes, points, index, label + what, hollow=hollow)
    if name == "cifar10":
        _plot_paper_widths(axes)
    axes.set_xlabel("width (channel multiplier)")
    spread_accuracies(axes)
    add_legend(figure, axes, 4.0)
    return Drawing(
        "width",
        f"{name}: accuracy against width",
        f"Test accuracy in percent over width on {name}, a series for each "
        f"recipe, number of epochs, protocol and strategy: "
        f"{list_groups(first for first, _ in ranked[:MOST_SERIES])}.",
        "Points are means over n seeds, bars one sample standard deviation. "
        "A line joins runs of one recipe, number of epochs, protocol and "
        "strategy only." + left_out(len(ranked), MOST_SERIES, "series"),
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
            color=BLACK,
            marker=marker,
            linestyle=":" if marker == "*" else "",
            label=f"the paper: gns, {PAPER_EPOCHS} epochs, paper protocol, "
            f"{what} (n=1)",
        )


def draw_differences(name: str, comparisons: Iterable[Comparison]):
    """Draws strategies against their baselines; None without any."""
    known = [found for found in comparisons if found.test]
    if not known:
        return None
    rows = known[:MOST_ROWS]
    settings = sorted({row.group.setting for row in rows})
    texts = [
        textwrap.fill(
            f"{row.group.short}, {row.group.epochs} epochs (n={row.test.n})",
            72,
        )
        for row in rows
    ]
    heights = [0.35 + 0.15 * (text.count("\n") + 1) for text in texts]
    figure, axes = new_figure(0.8 + sum(heights))
    axes.axvline(0, color=GREY, linewidth=1)
    bottom = 0.0  # in inches, from above
    for row, text, height in zip(rows, texts, heights, strict=True):
        axes.text(
            *(0.01, bottom - 0.06),
            text,
            fontsize=7.5,
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
        f"percent intervals: {list_groups(row.group for row in rows)}.",
        "Means of differences paired by seed, with the 95 % interval by "
        "Student's t; a cross has no interval. A colour is one "
        "protocol and number of epochs."
        + left_out(len(known), MOST_ROWS, "strategies"),
        figure,
    )


def draw_curves(name, groups):
    """Draws learning curves, a figure for each protocol and epochs."""
    settings: dict[tuple[str, int], list[Group]] = {}
    for group in groups:
        if _curve(group, "val_accuracy"):
            key = (group.protocol, group.epochs)
            settings.setdefault(key, []).append(group)
    ranked = sorted(settings.items(), key=lambda found: -len(found[1]))
    for (protocol, epochs), members in ranked[:MOST_CURVES]:
        members.sort(key=lambda group: -_curve(group, "val_accuracy")[-1])
        figure, axes = new_figure(4)
        for index, group in enumerate(members[:MOST_SERIES]):
            _plot_curves(axes, group, COLOURS[index % len(COLOURS)], index)
        monitored = "validation" if protocol == "validation" else "test"
        axes.set_xlabel("epoch")
        axes.set_ylabel("accuracy (%)")
        axes.xaxis.get_major_locator().set_params(integer=True)
        add_legend(figure, axes)
        setting = setting_name(protocol, epochs)
        yield Drawing(
            f"curves-{protocol}-e{epochs}",
            f"{name}: learning curves, {setting}",
            f"Accuracy in percent after each of {epochs} epochs on {name}, on "
            f"the training and the {monitored} split: "
            f"{list_groups(members[:MOST_SERIES])}.",
            f"Lines: {monitored} split; dashed: training images as they were "
            "augmented. Means over seeds."
            + left_out(len(members), MOST_SERIES, "groups")
            + left_out(len(ranked), MOST_CURVES, "settings"),
            figure,
        )


def _plot_curves(axes, group, colour, index):
    seeds = {run.record.config["seed"] for run in group.runs}
    label = f"{group.short} (n={len(seeds)})"
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
    """Percent after each epoch: the mean over seeds, of each its first run."""
    by_seed: dict[int, list[float]] = {}
    for run in group.runs:
        values = run.record.history.get(measure)
        if values:
            by_seed.setdefault(run.record.config["seed"], values)
    epochs = zip(*by_seed.values(), strict=False)
    return [100 * sum(epoch) / len(epoch) for epoch in epochs]
