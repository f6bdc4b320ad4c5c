"""The studies of this project: their files, pages and figures."""

import dataclasses
import re

import pytest
from support import ROOT

from gnsmall_keras.cli import main
from gnsmall_keras.report.figures.study import draw_study
from gnsmall_keras.report.reading import read_runs
from gnsmall_keras.report.study import read_study
from gnsmall_keras.sweeps.plan import read_sweep

pytestmark = pytest.mark.any_backend
SWEEPS = ROOT / "papermill_runs" / "sweeps"
INDEX = ROOT / "papermill_runs" / "index.jsonl"
PAGE = ROOT / "docs" / "study-pilot.md"
STUDIES = [
    SWEEPS / f"study_cpu{part}.toml" for part in ("_selection", "", "_paper")
]
WIDTHS = SWEEPS / "study_gpu_widths.toml"
LONG = [SWEEPS / f"study_long{part}.toml" for part in ("", "_selection")]


@pytest.mark.parametrize(
    ("page", "studies"),
    [
        pytest.param(PAGE, [*STUDIES, WIDTHS], marks=pytest.mark.slow),
        (PAGE.with_name("study.md"), LONG),
    ],
    ids=["pilot", "long"],
)
def test_the_page_of_the_study_is_what_its_records_give(
    page, studies, tmp_path
):
    copy = tmp_path / page.name
    copy.write_bytes(page.read_bytes())
    command = ["report", "--index", str(INDEX), "--readme", str(copy)]
    assert main([*command, "--study", *map(str, studies)]) == 0
    assert copy.read_text() == page.read_text(), (
        f"docs/{page.name} is not what its records give: make results"
    )
    shown = {
        page.parent / name
        for name in re.findall(
            rf"\(({page.stem}/[\w-]+\.svg)\)", copy.read_text()
        )
    }
    assert shown == {*page.with_suffix("").glob("*.svg")}
    for file in shown:
        again = tmp_path / page.stem / file.name
        if _drawn_by(file) == _drawn_by(again):
            assert again.read_bytes() == file.read_bytes(), file.name


def _drawn_by(figure):
    """The version of matplotlib, which decides how a figure is written."""
    return re.search(r"Matplotlib v([\w.]+)", figure.read_text()).group(1)


def test_the_student_itself_is_a_teacher_as_the_baseline():
    sweep = read_sweep(STUDIES[1])
    baselines = {config.slug for config in sweep.arms["baseline"]}
    assert {one.slug for one in sweep.teacher_arms["self"]} == baselines


def test_the_three_files_share_their_teachers():
    selection, arms, paper = map(read_sweep, STUDIES)
    strong, like = arms.teacher_arms["strong"], arms.teacher_arms["like"]
    assert paper.teacher_arms == {"strong": strong, "like": like}
    (first,) = selection.teacher_arms["strong"]
    assert {dataclasses.replace(one, seed=first.seed) for one in strong} == {
        first
    }


def test_what_was_chosen_is_measured_on_other_seeds():
    """The run that is best by chance would be an arm's run again."""
    selection, *others = map(read_sweep, STUDIES)
    seeds = {
        config.seed
        for sweep in others
        for configs in sweep.arms.values()
        for config in configs
    }
    assert seeds == {1, 2, 3}
    assert seeds.isdisjoint(config.seed for config in selection.configs)


def test_arms_of_the_study_share_what_was_chosen():
    selection = read_study(STUDIES[0], read_runs(INDEX).runs)
    if selection.chosen is None:
        pytest.skip("the choice has not been made")
    chosen = selection.chosen.group.first.config
    for arm, configs in read_sweep(STUDIES[1]).arms.items():
        if configs[0].strategy == "baseline":
            continue
        for name in ("temperature", "label_weight"):
            assert getattr(configs[0], name) == chosen[name], arm


def test_no_word_of_a_figure_is_cut_off():
    assert max(map(len, read_sweep(LONG[0]).arms)) > 30
    drawings = draw_study(read_study(LONG[0], read_runs(INDEX).runs))
    assert len(drawings) == 2
    for drawing in drawings:
        drawing.figure.draw_without_rendering()
        (axes,) = drawing.figure.axes
        for text in (axes.xaxis.label, *axes.get_yticklabels()):
            place = text.get_window_extent().extents
            assert all(place[:2] >= 0)
            assert all(place[2:] <= drawing.figure.bbox.extents[2:])
