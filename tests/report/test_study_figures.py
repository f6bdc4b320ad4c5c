"""Figures of a study, whose names of arms are long."""

import pytest
from support import ROOT

from gnsmall_keras.report.figures.study import draw_study
from gnsmall_keras.report.reading import read_runs
from gnsmall_keras.report.study import read_study
from gnsmall_keras.sweeps.plan import read_sweep

pytestmark = pytest.mark.any_backend


def test_no_word_is_cut_off():
    file = ROOT / "papermill_runs/sweeps/study_long.toml"
    assert max(map(len, read_sweep(file).arms)) > 30
    runs = read_runs(ROOT / "papermill_runs/index.jsonl").runs
    drawings = draw_study(read_study(file, runs))
    assert len(drawings) == 2
    for drawing in drawings:
        drawing.figure.draw_without_rendering()
        (axes,) = drawing.figure.axes
        for text in (axes.xaxis.label, *axes.get_yticklabels()):
            place = text.get_window_extent().extents
            assert all(place[:2] >= 0)
            assert all(place[2:] <= drawing.figure.bbox.extents[2:])
