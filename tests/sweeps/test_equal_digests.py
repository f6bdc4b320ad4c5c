"""Runs whose digests of six characters are equal by chance are two runs."""

import dataclasses
from types import SimpleNamespace

import pytest
from support import ROOT

from gnsmall_keras.config import RunConfig
from gnsmall_keras.records.export import ExportRecord, describe_source
from gnsmall_keras.records.jsonl import merge_records
from gnsmall_keras.records.run import RunRecord, append_record, read_records
from gnsmall_keras.report.reading import Run
from gnsmall_keras.report.study import read_study
from gnsmall_keras.sweeps import cluster, sweep
from gnsmall_keras.sweeps.plan import SweepConfig

pytestmark = pytest.mark.any_backend

SEEDS = (22, 5750)
PLAN = SweepConfig(
    parameters={"strategy": "baseline"}, grid={"seed": list(SEEDS)}
)
KNOWN = ROOT / "papermill_runs" / "index.jsonl"


def _record(config):
    known = next(read_records(KNOWN))
    return dataclasses.replace(
        known,
        slug=config.slug,
        digest=config.digest,
        config=dataclasses.asdict(config),
    )


@pytest.fixture
def index(tmp_path):
    """An index that has the second run alone."""
    path = tmp_path / "index.jsonl"
    append_record(_record(PLAN.configs[1]), path)
    return path


def test_these_seeds_have_one_digest():
    first, second = (RunConfig(seed=seed) for seed in SEEDS)
    assert first.digest == second.digest
    assert first.slug != second.slug


def test_a_sweep_does_both(tmp_path):
    todo = sweep.list_todo(PLAN, tmp_path / "none.jsonl")
    assert [config.seed for config in todo.pending] == [*SEEDS]
    assert todo.repeated == 0


def test_a_recorded_one_does_not_stand_for_the_other(index):
    todo = sweep.list_todo(PLAN, index)
    assert [config.seed for config in todo.pending] == [SEEDS[0]]
    assert [config.seed for config in todo.finished] == [SEEDS[1]]
    for config, there in zip(PLAN.configs, (False, True), strict=True):
        job = SimpleNamespace(config=config, parameters={"index": index})
        assert cluster._recorded(job) == there


def test_a_study_takes_its_own(tmp_path):
    file = tmp_path / "study.toml"
    file.write_text(
        '[[grid]]\narm = "alone"\nstrategy = ["baseline"]\n'
        f"seed = [{SEEDS[0]}]\n"
    )
    runs = [Run(n, _record(config)) for n, config in enumerate(PLAN.configs)]
    (arm,) = read_study(file, runs).arms
    assert arm.group
    assert [run.record.config["seed"] for run in arm.group.runs] == [SEEDS[0]]


def test_a_merge_keeps_both_and_files_know_theirs(index, tmp_path):
    other = tmp_path / "other.jsonl"
    append_record(_record(PLAN.configs[0]), other)
    out = tmp_path / "all.jsonl"
    merged = merge_records([index, other], out, parse=RunRecord.from_json)
    assert (merged.records, merged.repeated) == (2, 0)
    second, first = read_records(out)
    file = ExportRecord(
        report={"source": describe_source(first), "sha256": "ab"},
        exported_at="",
    )
    assert file.run_key == first.key != second.key
