"""One training and what came of it, for notebooks."""

from typing import Any

from gnsmall_keras.records.run import RunRecord
from gnsmall_keras.report.figures.drawing import (
    COLOURS,
    STYLE,
    Drawing,
    load_matplotlib,
    new_figure,
)

_PART = 0.75  # of the values are usual ones
_TIMES = 3  # of the largest of these is still shown
_IMAGES = 12
_COLUMNS = 4


def draw_history(record: RunRecord) -> Drawing:
    """Draws loss and accuracy after each epoch.

    The scale ends below losses that are far above the usual: these are arrows
    at the edge.

    Args:
        record: of the run.

    Raises:
        ValueError: if matplotlib is not installed.
    """
    epochs = len(record.history.get("accuracy", ()))
    monitored = "test" if record.config["protocol"] == "paper" else "validation"
    with load_matplotlib().rc_context(STYLE):
        figure, (left, right) = new_figure(2.8, (1, 2))
        losses = _plot(left, record.history, "loss", 1, monitored)
        _plot(right, record.history, "accuracy", 100, monitored)
        most = find_scale(losses)
        if most is not None:
            left.set_ylim(0, most)
            _mark_above(left, record.history, most)
        left.set_ylabel("loss")
        right.set(ylabel="accuracy (%)", ylim=(0, 102))
        for axes in (left, right):
            axes.set_xlabel("epoch")
            axes.set_xlim(0.5, max(1, epochs) + 0.5)
            axes.xaxis.get_major_locator().set_params(
                integer=True, nbins=6, min_n_ticks=1
            )
        left.legend(frameon=False)
    return Drawing(
        "history",
        f"{record.slug}: loss and accuracy",
        f"Loss and accuracy of {record.slug} on training and {monitored} "
        f"images after each of {epochs} epochs.",
        "Training images are augmented, those held out are not. An arrow is "
        "a loss above the scale.",
        figure,
    )


def find_scale(values: list[float]) -> float | None:
    """Returns the top of a scale that a few large values do not decide.

    Args:
        values: >= 0, in any order; up to a quarter of them may lie above.

    Returns:
        None where there are none.
    """
    finite = sorted(value for value in values if value < float("inf"))
    if not finite:
        return None
    usual = finite[int(_PART * (len(finite) - 1))]
    return 1.08 * max(one for one in finite if one <= _TIMES * usual)


def _plot(axes, history, name, factor, monitored):
    drawn = []
    for index, (key, label) in enumerate(
        ((name, "training"), (f"val_{name}", monitored))
    ):
        values = [factor * value for value in history.get(key, ())]
        if values:
            axes.plot(
                range(1, len(values) + 1),
                values,
                "os"[index],
                linestyle=("-", "--")[index],
                color=COLOURS[index],
                markersize=4,
                markevery=max(1, len(values) // 12),
                label=label,
            )
        drawn += values
    return drawn


def _mark_above(axes, history, most):
    for index, key in enumerate(("loss", "val_loss")):
        for epoch, value in enumerate(history.get(key, ()), 1):
            if value > most:
                axes.plot(
                    epoch,
                    0.97 * most,
                    "^",
                    color=COLOURS[index],
                    markersize=7,
                )


def draw_predictions(dataset: Any, logits: Any) -> Drawing:
    """Draws the first test images with what was predicted of them.

    Args:
        dataset: a `data.dataset.Dataset`.
        logits: `(n, classes)`, of the first n test images; twelve are drawn.

    Raises:
        ValueError: if matplotlib is not installed.
    """
    names = dataset.class_names
    images = dataset.test_images[: min(_IMAGES, len(logits))]
    rows = max(1, -(-len(images) // _COLUMNS))
    with load_matplotlib().rc_context(STYLE):
        figure, grid = new_figure(1.45 * rows, (rows, _COLUMNS))
        for place in grid.flat:
            place.set_axis_off()
        wrong = 0
        for place, image, row, label in zip(
            grid.flat, images, logits, dataset.test_labels, strict=False
        ):
            found = int(row.argmax())
            wrong += found != label
            place.imshow(image, cmap="gray", vmin=0, vmax=255)
            right = found == label
            place.set_title(
                names[found]
                if right
                else f"{names[found]}, not {names[label]}",
                fontsize=8,
                color="black" if right else COLOURS[1],
                fontweight="normal" if right else "bold",
            )
    return Drawing(
        "predictions",
        "The first test images and their predicted classes",
        f"{len(images)} test images of {dataset.name} with their predicted "
        f"classes; {wrong} are wrong.",
        "Bold: another class than the label's.",
        figure,
    )
