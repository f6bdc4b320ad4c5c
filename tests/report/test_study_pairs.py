"""Contrasts of a study whose arms share a run."""

import dataclasses

import pytest

from gnsmall_keras.cli import main
from gnsmall_keras.report.pages.markdown import RESULTS
from gnsmall_keras.report.reading import read_runs
from gnsmall_keras.report.study import read_study
from gnsmall_keras.sweeps.plan import read_sweep

# Seed 0's own teacher is the teacher of seed 0.
FILE = """
[parameters]
data = "cifar10"
width = 0.5
epochs = 3
[[grid]]
arm = "{teachers}"
seed = [0, 1, 2]
teachers = [["@own"], ["@one"]]
[teachers.own]
[teachers.one]
seed = 0
[[contrasts]]
treated = ["own"]
control = "one"
primary = true
"""
TESTS = {"own": (0.6, 0.62, 0.63), "one": (0.6, 0.6, 0.6)}


@pytest.fixture
def index(tmp_path, make_record, predict, write_index):
    path = tmp_path / "small.toml"
    path.write_text(FILE)
    plan = read_sweep(path)
    scores = {config.slug: 0.8 for config in plan.teacher_configs}
    for arm, configs in plan.arms.items():
        names = [config.slug for config in configs]
        scores |= zip(names, TESTS[arm], strict=True)
    configs = {one.slug: one for one in (*plan.teacher_configs, *plan.configs)}
    assert len(configs) == 3 + 5
    records = []
    for slug, config in configs.items():
        record, *_ = predict(make_record(0.5, **vars(config)))
        records.append(dataclasses.replace(record, test_accuracy=scores[slug]))
    return write_index(*records)


def test_a_run_has_no_pair_in_itself(tmp_path, index):
    sweep, page = tmp_path / "small.toml", tmp_path / "study.md"
    (row,) = read_study(sweep, read_runs(index).runs).rows
    assert row.found.shared == (0,)
    assert row.found.test.n == 2
    assert row.found.test.mean == pytest.approx(2.5)
    page.write_text("\n".join([*RESULTS, ""]))
    command = ["report", "--index", str(index), "--study", str(sweep)]
    assert main([*command, "--readme", str(page)]) == 0
    text = page.read_text()
    assert "make no pair: own minus one (seed 0)." in text
    assert "seed 1: +" in text
    assert "seed 0: +" not in text
