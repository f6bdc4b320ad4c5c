"""Notebooks in processes: a record, an error, and a sweep that is killed."""

import importlib.util
import subprocess
import sys

import nbformat
import pytest
from support import wait_for

from gnsmall_keras.distill.stored_teacher import teacher_digest
from gnsmall_keras.models.saving.files import load_model
from gnsmall_keras.records.run import INDEX_FILE, MODEL_FILE, read_records
from gnsmall_keras.sweeps import sweep
from gnsmall_keras.sweeps.local import local_engine
from gnsmall_keras.sweeps.plan import SweepConfig

pytestmark = pytest.mark.notebook
SWEEP = """
import sys
from pathlib import Path
from gnsmall_keras.sweeps import local, plan, sweep

out, notebook, *seeds = sys.argv[1:]
config = plan.SweepConfig(
    parameters={"strategy": "baseline"}, grid={"seed": [*map(int, seeds)]}
)
outcomes = sweep.run_all(
    config.configs,
    out=Path(out),
    index=Path(out, "index.jsonl"),
    engine=local.local_engine(1),
    notebook=Path(notebook),
)
print([outcome.error for outcome in outcomes])
"""


def _configs(*seeds):
    return SweepConfig(
        parameters={"strategy": "baseline", "peak_learning_rate": 1e-5},
        grid={"seed": seeds},
    ).configs


def test_one_run_leaves_a_record_and_another_its_error(tmp_path, notebook):
    out = tmp_path / "runs{x} {seed}"  # no places that papermill fills in
    notebook = notebook.rename(tmp_path / "{} notebook.ipynb")
    outcomes = sweep.run_all(
        _configs(0, 1),
        out=out,
        index=out / INDEX_FILE,
        engine=local_engine(2),
        notebook=notebook,
    )
    good, bad = sorted(outcomes, key=lambda outcome: outcome.config.seed)
    assert good.record == next(read_records(out / INDEX_FILE))
    assert good.record.digest == good.config.digest
    assert bad.error == "ValueError: no luck, on two lines"
    assert "no luck" in bad.notebook.read_text()
    assert bad.config.digest in (out / "failed.jsonl").read_text()
    injected = next(
        cell.source
        for cell in nbformat.read(good.notebook, as_version=4).cells
        if "injected-parameters" in cell.metadata.get("tags", ())
    )
    assert "epochs = None" in injected
    assert "peak_learning_rate = 1e-05" in injected
    assert not good.notebook.with_suffix(".log").exists()


@pytest.mark.slow
def test_a_student_learns_from_the_run_of_its_teacher(tmp_path, monkeypatch):
    """In the real notebook, with an `out` that no config names."""
    if importlib.util.find_spec("torch"):
        monkeypatch.setenv("KERAS_BACKEND", "torch")  # it starts fastest
    small = {"width": 0.25, "epochs": 1, "batch_size": 512}
    config = SweepConfig(
        runs=[{"strategy": "kd", "teachers": ["@big"], **small}],
        teachers={"big": small},
    )
    out = tmp_path / "runs"
    outcomes = sweep.run_all(
        sweep.list_todo(config, out / INDEX_FILE).pending,
        out=out,
        index=out / INDEX_FILE,
        engine=local_engine(1),
    )
    assert [outcome.error for outcome in outcomes] == [None, None]
    teacher, student = read_records(out / INDEX_FILE)
    assert student.config["teachers"] == [teacher.slug]
    assert student.distillation
    (learnt_from,) = student.distillation["teachers"]
    model = load_model(out / teacher.slug / MODEL_FILE)
    assert learnt_from["weights_digest"] == teacher_digest(model)


def test_a_killed_sweep_takes_its_runs_along_and_goes_on(tmp_path, notebook):
    out = tmp_path / "runs"
    process = subprocess.Popen(
        [sys.executable, "-c", SWEEP, out, notebook, "0", "2"],
        stdout=subprocess.DEVNULL,
    )
    wait_for((out / "waiting").exists)
    process.kill()
    process.wait()
    wait_for((out / "interrupted").exists)
    config = SweepConfig(
        parameters={"strategy": "baseline"}, grid={"seed": [0, 2]}
    )
    todo = sweep.list_todo(config, out / INDEX_FILE)
    assert [run.seed for run in todo.pending] == [2]
