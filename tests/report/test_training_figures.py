"""Curves of one run: whole epochs, and a scale that most values decide."""

import numpy as np
import pytest

from gnsmall_keras.data.dataset import Dataset
from gnsmall_keras.report.figures.training import (
    draw_history,
    draw_predictions,
    find_scale,
)


@pytest.mark.parametrize(
    ("values", "least", "most"),
    [
        ([1.0, 1.2, 900.0], 1.2, 2),
        ([2.3, 1.9, 1.5, 1.2], 2.3, 3),
        ([5.0], 5.0, 6),
        ([1.0, float("nan"), float("inf")], 1.0, 2),
        ([1.0] * 18 + [50.0, 60.0], 1.0, 2),
    ],
)
def test_one_bad_value_does_not_decide_the_scale(values, least, most):
    assert least <= find_scale(values) <= most


def test_no_values_have_no_scale():
    assert find_scale([]) is None


@pytest.mark.parametrize("epochs", [1, 2, 12, 200])
def test_epochs_are_whole(make_record, epochs):
    record = make_record(0.5, epochs=epochs)
    record.history["loss"] = [2.0] * epochs
    figure = draw_history(record).figure
    figure.draw_without_rendering()
    for axes in figure.axes:
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert ticks
        assert all(tick == int(tick) for tick in ticks)


def test_a_loss_above_the_scale_is_an_arrow(make_record):
    record = make_record(0.5, epochs=3)
    record.history.update(loss=[2.0, 1.5, 1.2], val_loss=[2.1, 700.0, 1.4])
    axes = draw_history(record).figure.axes[0]
    assert axes.get_ylim()[1] < 5
    assert [line.get_marker() for line in axes.lines].count("^") == 1


def test_wrong_predictions_are_told(make_record):
    images = np.zeros((5, 8, 8, 3), np.uint8)
    labels = np.array([0, 1, 0, 1, 0], np.int32)
    data = Dataset("two", images, labels, images, labels, ("cat", "dog"))
    logits = np.tile([[1.0, 0.0]], (5, 1))
    drawing = draw_predictions(data, logits)
    titles = [axes.get_title() for axes in drawing.figure.axes]
    assert titles[:5] == ["cat", "cat, not dog", "cat", "cat, not dog", "cat"]
    assert "2 are wrong" in drawing.alt
