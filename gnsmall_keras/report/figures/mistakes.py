"""What the run to deploy gets wrong: its confusions, its worst mistakes."""

import textwrap
from typing import Any

from gnsmall_keras.records.run import RunRecord
from gnsmall_keras.report.figures.drawing import Drawing, new_figure

MOST_COUNTS = 20  # classes of which a figure has names and counts
_LONGEST = 14  # characters of a class's name
_BLUES = "Blues"  # pale to dark: also for those who see no colours
_COLUMNS = 4  # of images


def draw_confusion(name: str, record: RunRecord) -> Drawing | None:
    """Draws how often each class was taken for which; None if not recorded.

    Args:
        name: of the data.
        record: of the run.
    """
    if record.test_predictions is None:
        return None
    counts = record.test_predictions["confusion"]
    classes = len(counts)
    figure, axes = new_figure(4.5)
    wrong = [
        [None if row == column else count for column, count in enumerate(line)]
        for row, line in enumerate(counts)
    ]
    image = _draw_cells(axes, wrong)
    numbered = "" if classes <= MOST_COUNTS else " (by its number)"
    axes.set_xlabel(f"predicted class{numbered}")
    axes.set_ylabel(f"true class{numbered}")
    if classes <= MOST_COUNTS:
        _write_names(axes, record.test_predictions["class_names"])
        _write_counts(axes, counts, most=image.norm.vmax)
    else:
        bar = figure.colorbar(image, label="mistakes (images)", shrink=0.7)
        bar.ax.yaxis.get_major_locator().set_params(integer=True)
    most = _most_often(record.test_predictions)
    return Drawing(
        "confusion",
        f"{name}: the confusion matrix of the winner",
        f"Confusion matrix of {record.slug} on the test split of {name}, "
        f"{classes} true classes by {classes} predicted ones. Most often: "
        f"{most}.",
        f"{record.slug}, n={record.test_images:,} test images: a row for each "
        "true class, a column for each predicted one. A stronger colour is "
        "more often; what was right, on the diagonal, has no colour. Most "
        f"often: {most}.",
        figure,
    )


def _draw_cells(axes, wrong):
    """Colours mistakes alone: beside what was right they would all be pale."""
    import numpy as np

    values = np.array(wrong, dtype=float)  # None is nan, which stays white
    axes.grid(visible=False)
    return axes.imshow(
        values, cmap=_BLUES, vmin=0, vmax=max(1.0, np.nanmax(values))
    )


def _write_names(axes, names):
    names = [
        text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
        for text in names
    ]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)


def _write_counts(axes, counts, *, most):
    size = min(8, 90 / len(counts))
    for row, line in enumerate(counts):
        for column, count in enumerate(line):
            dark = row != column and count > most / 2
            axes.text(
                column,
                row,
                str(count),
                ha="center",
                va="center",
                fontsize=size,
                fontweight="bold" if row == column else "normal",
                color="white" if dark else "black",
            )


def _most_often(kept):
    names = kept["class_names"]
    found = sorted(
        (-count, row, column)
        for row, line in enumerate(kept["confusion"])
        for column, count in enumerate(line)
        if row != column and count
    )
    return (
        "; ".join(
            f"{names[row]} taken for {names[column]}, {-count} times"
            for count, row, column in found[:3]
        )
        or "no mistake"
    )


def draw_mistakes(name: str, record: RunRecord, dataset: Any) -> Drawing | None:
    """Draws the images of a run's worst mistakes.

    Args:
        name: of the data.
        record: of the run.
        dataset: a `data.dataset.Dataset`, or None.

    Returns:
        The drawing, or None where there are no mistakes or no images, or the
        images are not those that the run was tested on.
    """
    kept = record.test_predictions
    if kept is None or not kept["worst"] or dataset is None:
        return None
    if dataset.digest != record.data_digest:
        return None
    rows = -(-len(kept["worst"]) // _COLUMNS)
    figure, axes = new_figure(1.6 * rows, (rows, _COLUMNS))
    for place in axes.flat:
        place.set_axis_off()
    names = kept["class_names"]
    for place, one in zip(axes.flat, kept["worst"], strict=False):
        place.imshow(
            dataset.test_images[one["index"]], cmap="gray", vmin=0, vmax=255
        )
        label, predicted = (
            textwrap.shorten(names[one[key]], _LONGEST, placeholder="…")
            for key in ("label", "predicted")
        )
        place.set_title(
            f"#{one['index']}: {label}\nas {predicted}, "
            f"{100 * one['probability']:.1f} %",
            fontsize=7,
        )
    return Drawing(
        "mistakes",
        f"{name}: the winner's worst mistakes",
        f"The {len(kept['worst'])} test images of {name} that {record.slug} "
        "took for another class with the highest probability; the table below "
        "has their classes.",
        f"{record.slug}: index in the test split, true class, predicted class "
        "and its probability.",
        figure,
    )
