"""Studies on images of one's own, whose runs are named by these."""

import dataclasses
import shutil

import pytest
from data import photos

from gnsmall_keras.cli import main
from gnsmall_keras.data.dataset import split_indices
from gnsmall_keras.data.sources import load_data
from gnsmall_keras.report.pages.markdown import RESULTS
from gnsmall_keras.report.study import read_study
from gnsmall_keras.sweeps.plan import read_sweep
from gnsmall_keras.sweeps.sweep import with_images

FILE = """
[parameters]
data = "photos"
width = 0.5
{more}
[[grid]]
arm = "alone"
seed = [0, 1]
strategy = ["baseline"]
[[grid]]
arm = "kd"
seed = [0, 1]
teachers = [["@big"]]
[[contrasts]]
treated = ["kd"]
control = "alone"
primary = true
[teachers.big]
width = 1.0
"""


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    for name, data in photos.files("a", "b", "c", count=10).items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "own.toml"
    path.write_text(FILE.format(more=""))
    return path


def _records(plan, make_record, images=(24, 3), classes="abc"):
    """A record of each run of a plan, of the number of images it had."""
    return [
        make_record(
            0.6,
            record={
                "data_digest": config.data_digest,
                "train_images": images[0],
                "validation_images": images[1],
                "images": {"class_names": list(classes)},
            },
            **{
                field.name: getattr(config, field.name)
                for field in dataclasses.fields(config)
            },
        )
        for named in (plan.arms, plan.teacher_arms)
        for configs in named.values()
        for config in configs
    ]


@pytest.mark.parametrize(
    "more", ["", 'recipe = "finetune"', 'recipe = "quick"\nepochs = 3']
)
def test_runs_are_found_where_the_images_are_not(
    sweep, make_record, runs_of, more
):
    sweep.write_text(FILE.format(more=more))
    plan = with_images(read_sweep(sweep))
    records = _records(plan, make_record)
    assert all(record.config["data_digest"] for record in records)
    (sweep.parent / "photos").rename(sweep.parent / "elsewhere")
    study = read_study(sweep, runs_of(*records))
    assert [(arm.name, arm.done) for arm in study.arms] == [
        ("alone", 2),
        ("kd", 2),
    ]
    assert [arm.done for arm in study.teachers] == [2]


def test_a_path_may_be_written_in_several_ways(sweep, make_record, runs_of):
    plan = with_images(read_sweep(sweep))
    runs = runs_of(*_records(plan, make_record))
    folder = sweep.parent / "photos"
    for path in ("photos", "./photos", "photos/", str(folder)):
        sweep.write_text(FILE.format(more="").replace("photos", path))
        study = read_study(sweep, runs)
        assert [arm.done for arm in study.arms] == [2, 2], path
    # A folder of the same name elsewhere holds others.
    sweep.write_text(FILE.format(more="").replace("photos", "other/photos"))
    assert [arm.done for arm in read_study(sweep, runs).arms] == [0, 0]


def test_runs_are_found_where_a_tenth_is_fewer_than_the_classes(
    sweep, make_record, runs_of
):
    """Which are held out then; it decides the epochs, and so the name."""
    folder = sweep.parent / "photos"
    classes = [f"class {number}" for number in range(20)]
    shutil.rmtree(folder)
    for name, data in photos.files(*classes, count=7).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    plan = with_images(read_sweep(sweep))
    _, held_out = split_indices(
        load_data(folder).train_labels, fraction=0.1, seed=0
    )
    assert len(held_out) == 20
    records = _records(plan, make_record, (100, 20), classes)
    study = read_study(sweep, runs_of(*records))
    assert [arm.done for arm in study.arms] == [2, 2]


def test_a_study_without_a_run_is_said(sweep, write_index, capsys):
    index = write_index()
    index.write_text("")
    page = sweep.with_name("study.md")
    page.write_text("\n".join([*RESULTS, ""]))
    command = ["report", "--index", str(index), "--study", str(sweep)]
    assert main([*command, "--readme", str(page)]) == 0
    assert f"none of the runs of own is in {index}" in capsys.readouterr().err
    text = page.read_text()
    assert "Missing: alone (0 of 2); kd (0 of 2)." in text
