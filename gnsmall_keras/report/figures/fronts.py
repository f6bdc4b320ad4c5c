"""Accuracy against what a network costs, with Pareto fronts."""

from collections.abc import Iterable, Sequence

from gnsmall_keras.models.spec import COUNTS
from gnsmall_keras.records.export import ExportRecord
from gnsmall_keras.report.costs import find_group_cost
from gnsmall_keras.report.estimates import estimate
from gnsmall_keras.report.figures.drawing import (
    BLACK,
    COLOURS,
    GREY,
    MOST_SERIES,
    Drawing,
    Point,
    add_legend,
    left_out,
    new_figure,
    plot_series,
    setting_name,
    spread_accuracies,
    tick_sizes,
)
from gnsmall_keras.report.figures.labels import place_labels
from gnsmall_keras.report.groups import Group
from gnsmall_keras.report.published import (
    PAPER_EPOCHS,
    PAPER_RUNS,
    REFERENCE,
    find_peers,
)

COSTS = {
    "parameters": "parameters, deployed",
    "macs": "multiply-accumulates of an image",
    "bytes": "bytes of the int8 file",
    "latency": f"latency of the int8 file / {REFERENCE}'s",
}
_OF_FILES = ("bytes", "latency")
_SAID_OF_FILES = (
    " Accuracies are the float networks'. Hollow points have the file of "
    "another run of the same network; networks without a file are left out."
)


def draw_pareto(
    name: str,
    groups: Sequence[Group],
    cost: str,
    exports: Sequence[ExportRecord] = (),
) -> Drawing | None:
    """Draws accuracy against one of `COSTS`; None where it is not known.

    Args:
        name: of the data.
        groups: on these data.
        cost: one of `COSTS`.
        exports: records of files, for the costs of files.
    """
    title = COSTS[cost]
    series: dict[tuple[str, int], list[tuple[Point, bool]]] = {}
    for group in groups:
        found = _cost(group, cost, exports)
        if found and group.values("test_accuracy"):
            key = (group.protocol, group.epochs)
            series.setdefault(key, []).append(
                (_point(group, found[0]), found[1])
            )
    if not series:
        return None
    figure, axes = new_figure(4)
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.08)
    labelled = []
    ranked = sorted(series.items(), key=lambda found: -len(found[1]))
    for index, (key, members) in enumerate(ranked[:MOST_SERIES]):
        for own, what in ((True, ""), (False, ", file of another run")):
            points = [point for point, is_own in members if is_own is own]
            if points:
                label = setting_name(*key) + what
                plot_series(axes, points, index, label, hollow=not own, line="")
        points = [point for point, _ in members]
        labelled += _plot_front(axes, points, COLOURS[index % len(COLOURS)])
    if name == "cifar10":
        labelled += _plot_published(axes, cost)
    axes.set_xlabel(f"{title} (logarithmic)")
    spread_accuracies(axes)
    tick_sizes(axes)
    add_legend(figure, axes, 5.4)
    place_labels(figure, axes, labelled)
    peers = " The published peers' names stand beside their points."
    return Drawing(
        cost,
        f"{name}: accuracy against {title}",
        f"Test accuracy in percent over {title} on {name}, with a Pareto front "
        "for each protocol and number of epochs"
        + (" and for the published peers." if name == "cifar10" else "."),
        "Steps are Pareto fronts: nothing of the same protocol and number of "
        "epochs is both smaller and better."
        + (_SAID_OF_FILES if cost in _OF_FILES else "")
        + (peers if name == "cifar10" else "")
        + left_out(len(ranked), MOST_SERIES, "settings"),
        figure,
    )


def _cost(group, cost, exports):
    """What a group's network costs, and whether by a file of its own."""
    if cost not in _OF_FILES:
        return getattr(group.first, f"deployed_{cost}"), True
    found = find_group_cost([run.record for run in group.runs], exports, cost)
    return (found.value, found.own) if found else None


def _point(group, cost):
    taught = f" {group.strategy}" * (group.strategy != "baseline")
    return Point(cost, group.estimate("test_accuracy"), group.network + taught)


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


def _peer_cost(peer, cost):
    if cost == "latency":
        return 1.0 if peer.name == REFERENCE else None
    return getattr(peer, "size_bytes" if cost == "bytes" else cost)


def _plot_published(axes, cost):
    """The paper's networks and the peers; returns what is to be labelled.

    The paper has no files.
    """
    paper = [
        Point(
            getattr(COUNTS[network, width], f"deployed_{cost}"),
            estimate([run.best]),
            f"w{width:g}" if network == "gns" else network,
        )
        for (network, width), run in PAPER_RUNS.items()
        if cost not in _OF_FILES
    ]
    peers = [
        Point(value, estimate([peer.float_percent]), label)
        for label, peer in find_peers().items()
        if peer.float_percent and (value := _peer_cost(peer, cost))
    ]
    said = (
        f"the paper: gns by width, gnd; {PAPER_EPOCHS} epochs, paper protocol, "
        "best epoch on test (n=1)"
    )
    own = "published peers, protocols of their own (n=1)"
    labelled = []
    for points, marker, colour, label in (
        (paper, "*", BLACK, said),
        (peers, "+", GREY, own),
    ):
        if not points:
            continue
        axes.plot(
            [point.x for point in points],
            [point.estimate.mean for point in points],
            color=colour,
            marker=marker,
            linestyle="",
            label=label,
        )
        labelled += [(p.x, p.estimate.mean, p.label, colour) for p in points]
    _plot_front(axes, peers, GREY)
    return labelled
