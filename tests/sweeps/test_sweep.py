"""Sweeps with a runner in the place of notebooks: what is done, and told."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from support import ROOT

from gnsmall_keras import cli
from gnsmall_keras.config import RunConfig
from gnsmall_keras.distill.stored_teacher import teacher_digest
from gnsmall_keras.records.run import (
    INDEX_FILE,
    RECORD_FILE,
    append_record,
    read_records,
)
from gnsmall_keras.sweeps import local, notebook, sweep, worker
from gnsmall_keras.sweeps.jobs import Ended, Job, Queue
from gnsmall_keras.sweeps.plan import SweepConfig, read_sweep
from gnsmall_keras.writing import lock

SWEEP = """
[parameters]
strategy = "baseline"
[grid]
seed = [0, 1, 2]
"""
FAMILY = """
[parameters]
strategy = "kd"
[[runs]]
strategy = "baseline"
width = 0.5
[[runs]]
teachers = ["@middle"]
[[runs]]
teachers = ["@big"]
[teachers.big]
seed = 1
[teachers.middle]
strategy = "kd"
teachers = ["@big"]
seed = 2
"""
CONFIGS = SweepConfig(
    parameters={"strategy": "baseline"}, grid={"seed": [0, 1, 2]}
).configs


def _record(config):
    known = next(read_records(ROOT / "papermill_runs" / "index.jsonl"))
    return dataclasses.replace(known, slug=config.slug, digest=config.digest)


class FakeEngine:
    """Does what the notebook does, but for the training."""

    def __init__(self, failing=()):
        self.failing = failing
        self.done = []

    def __call__(self, jobs):
        for job in jobs:
            self.done.append(job.config.seed)
            if job.config.seed in self.failing:
                yield Ended(job, "ValueError: no luck")
                continue
            record = _record(job.config)
            job.executed.parent.mkdir(parents=True, exist_ok=True)
            path = job.executed.with_name(RECORD_FILE)
            path.write_text(record.to_json())
            append_record(record, job.parameters["index"])
            yield Ended(job, None)


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs `gnsmall sweep` on three runs, with an engine."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep.toml").write_text(SWEEP)

    def run(engine=None, *arguments):
        monkeypatch.setattr(local, "local_engine", lambda workers: engine)
        return cli.main(["sweep", "sweep.toml", *arguments])

    return run


def test_every_run_leaves_a_record_and_a_line(command, tmp_path, capsys):
    engine = FakeEngine()
    assert command(engine) == 0
    assert engine.done == [0, 1, 2]
    digests = [r.digest for r in read_records(tmp_path / "runs/index.jsonl")]
    assert digests == [config.digest for config in CONFIGS]
    printed = capsys.readouterr().out.splitlines()
    assert (
        printed[0] == "runs: 3 to do, 0 already recorded, 0 duplicates left out"
    )
    assert printed[1].startswith(f"1/3 {CONFIGS[0].slug}: validation 63.92 %")
    assert printed[-1] == "runs: 3 finished, 0 failed"
    assert len(printed) == 5, "no live bar where there is no terminal"


def test_seeds_are_done_alone_with_their_teachers(command, tmp_path, capsys):
    engine = FakeEngine()
    assert command(engine, "--seeds", "2", "0") == 0
    assert engine.done == [0, 2]
    assert command(engine, "--seeds", "4") == 2
    assert "`seeds` must be of the sweep's runs. Received: [4], where the " in (
        capsys.readouterr().err
    )
    study = read_sweep(ROOT / "papermill_runs/sweeps/study_cpu.toml")
    todo = sweep.list_todo(study, tmp_path / "none.jsonl", [2])
    everything = sweep.list_todo(study, tmp_path / "none.jsonl")
    assert {config.seed for config in todo.pending} == {2}
    assert 3 * len(todo.pending) == len(everything.pending)
    assert len(everything.pending) == len({c.digest for c in study.configs}) + 6


def test_runs_with_a_record_are_not_run_again(command, capsys):
    command(FakeEngine())
    again = FakeEngine()
    assert command(again) == 0
    assert again.done == []
    assert "runs: 0 to do, 3 already recorded" in capsys.readouterr().out


def test_changed_teachers_of_recorded_runs_are_named(tmp_path, capsys):
    inputs = keras.Input((4, 4, 3))
    logits = keras.layers.Dense(10)(keras.layers.Flatten()(inputs))
    keras.Model(inputs, logits).save(tmp_path / "teacher.keras")
    teacher = str(tmp_path / "teacher.keras")
    file, index = tmp_path / "sweep.toml", tmp_path / INDEX_FILE
    file.write_text(f'[[runs]]\nteachers = ["{teacher}"]\nstrategy = "kd"')
    (config,) = read_sweep(file).configs
    weights = teacher_digest(keras.saving.load_model(teacher))
    command = ["sweep", str(file), "--dry-run", "--out", str(tmp_path)]
    for digest, told in ((weights, False), ("another", True)):
        described = [{"name": teacher, "weights_digest": digest}]
        distillation = {"teachers": described, "stages": []}
        record = dataclasses.replace(_record(config), distillation=distillation)
        index.write_text(record.to_json() + "\n")
        assert cli.main(command) == 0
        assert ("has other weights" in capsys.readouterr().err) == told


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize("field", ["teachers", "assistants"])
def test_teachers_that_are_nowhere_are_told_first(tmp_path, capsys, field, dry):
    file, out = tmp_path / "sweep.toml", tmp_path / "runs"
    (tmp_path / "teacher.keras").touch()
    names = {
        "teachers": ["gns-w1-cifar10"],
        "assistants": ["gns-w0.5", str(tmp_path / "teacher.keras")],
    }
    names[field].append("gns-w1-cifar11")
    names["teachers"] = names["teachers"][-1:]
    lines = [f"{name} = {json.dumps(value)}" for name, value in names.items()]
    file.write_text('[[runs]]\nstrategy = "assistant"\n' + "\n".join(lines))
    assert cli.main(["sweep", str(file), "--out", str(out), *dry]) == 2
    told = capsys.readouterr().err
    assert "'gns-w1-cifar11', which does not exist" in told
    assert told.count("\n") == 1
    assert not [*out.glob("gns*")]


def test_runs_recorded_under_an_older_name_are_not_run_again(command, capsys):
    """As `gnsmall train` named them, before a baseline had one name."""
    slug, digest = CONFIGS[1].aliases[0]
    assert "baseline" not in slug
    record = dataclasses.replace(_record(CONFIGS[1]), slug=slug, digest=digest)
    append_record(record, "runs/index.jsonl")
    engine = FakeEngine()
    assert command(engine) == 0
    assert engine.done == [0, 2]
    assert "runs: 2 to do, 1 already recorded" in capsys.readouterr().out


def test_what_baselines_ignore_is_told(command, tmp_path, capsys):
    assert command(FakeEngine(), "--dry-run") == 0
    assert not capsys.readouterr().err
    shared = SWEEP.replace("[grid]", "[grid]\ntemperature = [1, 4]")
    (tmp_path / "sweep.toml").write_text(shared)
    assert command(FakeEngine(), "--dry-run") == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("runs: 3 to do, 0 already recorded, 3 dupl")
    (line,) = printed.err.splitlines()
    assert "note: temperature of 3 baselines ignored: they have no" in line


def test_a_failure_is_written_down_and_the_others_go_on(
    command, tmp_path, capsys
):
    assert command(FakeEngine(failing=[1])) == 1
    (line,) = (tmp_path / "runs/failed.jsonl").read_text().splitlines()
    failure = json.loads(line)
    assert failure["digest"] == CONFIGS[1].digest
    assert failure["error"] == "ValueError: no luck"
    assert failure["config"]["seed"] == 1
    assert "runs: 2 finished, 1 failed" in capsys.readouterr().out
    again = FakeEngine()
    assert command(again) == 0
    assert again.done == [1], "only what failed"


def test_a_run_without_a_record_has_failed(tmp_path):
    outcomes = sweep.run_all(
        CONFIGS[:1],
        out=tmp_path,
        index=tmp_path / INDEX_FILE,
        engine=lambda jobs: (Ended(job, None) for job in jobs),
    )
    (outcome,) = outcomes
    assert "left no record" in outcome.error


def test_runs_asked_for_twice_are_done_once(tmp_path):
    config = SweepConfig(
        parameters={"strategy": "baseline"},
        grid={"seed": [0, 1]},
        runs=[{"seed": 1}],
    )
    todo = sweep.list_todo(config, tmp_path / INDEX_FILE)
    assert [run.seed for run in todo.pending] == [0, 1]
    assert todo.repeated == 1


def test_a_damaged_line_of_the_index_is_named_and_left(command, capsys):
    command(FakeEngine())
    index = Path("runs/index.jsonl")
    index.write_text(index.read_text().replace('"slug"', "slug", 1))
    again = FakeEngine()
    assert command(again) == 0
    assert again.done == [0]
    assert "runs/index.jsonl, line 1: Not a JSON" in capsys.readouterr().err


def test_a_dry_run_lists_and_writes_nothing(command, tmp_path, capsys):
    assert command(None, "--dry-run") == 0
    assert CONFIGS[2].slug in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.toml"]


def test_a_second_sweep_on_an_index_says_so(command, tmp_path, capsys):
    (tmp_path / "runs").mkdir()
    with (tmp_path / "runs/index.jsonl.lock").open("ab") as file:
        lock(file)
        assert command(FakeEngine()) == 2
    assert "Another sweep works on runs/index.jsonl" in capsys.readouterr().err
    assert command(FakeEngine()) == 0


def test_a_second_sweep_on_a_folder_says_so(command, tmp_path, capsys):
    (tmp_path / "runs").mkdir()
    with (tmp_path / "runs/sweep.lock").open("ab") as file:
        lock(file)
        assert command(FakeEngine(), "--index", "other.jsonl") == 2
    error = capsys.readouterr().err
    assert "Another sweep works on runs. Wait" in error
    assert error.count("\n") == 1


def test_a_run_waits_for_one_that_still_ends(tmp_path, monkeypatch):
    path = tmp_path / worker.LOCK_FILE
    monkeypatch.setattr(worker, "_LOCK_SECONDS", 0)
    with path.open("ab") as first, path.open("ab") as second:
        lock(first)
        with pytest.raises(ValueError, match="Another process works on this"):
            worker._wait_for(second)
        first.close()
        worker._wait_for(second)


def test_without_resuming_nothing_may_have_begun(command, tmp_path, capsys):
    assert command(FakeEngine(), "--no-resume") == 0
    for dry in ([], ["--dry-run"]):
        assert command(FakeEngine(), "--no-resume", *dry) == 2
        assert "3 with a record, 0 with a folder" in capsys.readouterr().err
    assert command(FakeEngine(), "--resume") == 0
    (tmp_path / "runs/index.jsonl").unlink()
    assert command(FakeEngine(), "--no-resume") == 2
    assert "0 with a record, 3 with a folder" in capsys.readouterr().err


def test_how_often_a_worker_was_lost_is_told(command, capsys):
    def engine(jobs):
        for ended in FakeEngine()(jobs):
            yield ended._replace(lost=2)

    assert command(engine) == 0
    assert "(workers lost before: 2)" in capsys.readouterr().out


def test_out_that_is_no_folder_is_one_line(command, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert command(FakeEngine(), "--out", "file") == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_no_worker_is_refused(tmp_path, capsys, dry):
    (tmp_path / "sweep.toml").write_text(SWEEP)
    command = ["sweep", str(tmp_path / "sweep.toml"), *dry]
    command += ["--out", str(tmp_path / "runs")]
    assert cli.main([*command, "--workers", "0"]) == 2
    assert "`workers` must be >= 1" in capsys.readouterr().err
    assert cli.main([*command, "--address", "a:1"]) == 2
    assert "Add --engine ray" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_missing_papermill_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "papermill", None)
    with pytest.raises(ValueError, match="gnsmall-keras\\[notebooks\\]"):
        notebook.check_notebook(notebook.find_notebook(), ["width"])


def test_a_missing_kernel_is_named_with_its_cure(monkeypatch):
    monkeypatch.setattr(notebook, "KERNEL", "python9")
    with pytest.raises(ValueError, match="python -m ipykernel install"):
        notebook.check_notebook(notebook.find_notebook(), ["width"])


def test_an_unknown_parameter_is_refused():
    with pytest.raises(ValueError, match=r"has no parameters \['speed'\]"):
        notebook.check_notebook(notebook.find_notebook(), ["width", "speed"])


def test_a_notebook_without_a_parameters_cell_is_refused(tmp_path):
    path = tmp_path / "plain {x}.ipynb"  # no place to be filled in
    text = notebook.find_notebook().read_text()
    path.write_text(text.replace('"parameters"\n', '"values"\n'))
    with pytest.raises(ValueError, match="Tag the cell"):
        notebook.check_notebook(path, ["width"])


def test_the_notebook_is_in_the_wheel_s_package_or_the_checkout(
    tmp_path, monkeypatch
):
    package = tmp_path / "gnsmall_keras" / "sweeps"
    package.mkdir(parents=True)
    monkeypatch.setattr(
        notebook.resources, "files", lambda name: package.parent
    )
    with pytest.raises(ValueError, match="There is no notebook"):
        notebook.find_notebook()
    (package / "02_train.ipynb").touch()
    assert notebook.find_notebook() == package / "02_train.ipynb"


def test_every_parameter_is_given_to_the_notebook(tmp_path):
    config = RunConfig(strategy="kd", teachers=("a",))
    values = notebook.parameters_of(config, tmp_path, tmp_path / "i")
    assert values["teachers"] == ["a"]
    assert values["epochs"] is None
    assert set(values) == {
        *(field.name for field in dataclasses.fields(config)),
        "out",
        "index",
    }


class TestTeachers:
    """A file of a teacher, of its student, and of runs that learn of both."""

    @pytest.fixture(autouse=True)
    def family(self, command, tmp_path):
        (tmp_path / "sweep.toml").write_text(FAMILY)
        found = read_sweep(tmp_path / "sweep.toml")
        self.big, self.middle = found.teacher_configs
        self.baseline, self.second, self.first = found.configs

    def test_come_before_their_students(self):
        runs = [self.second, self.middle, self.first, self.big, self.baseline]
        assert sweep.stages(runs) == [
            [self.big, self.baseline],
            [self.middle, self.first],
            [self.second],
        ]

    def test_wait_for_nobody_else_s(self, tmp_path):
        runs = [self.big, self.baseline, self.middle, self.second]
        queue = Queue(Job(run, tmp_path, tmp_path, {}) for run in runs)
        taken = [queue.take(), queue.take()]
        assert [job.config for job in taken] == [self.big, self.baseline]
        assert queue.take() is None
        queue.end(self.big.slug)  # while the baseline is trained
        assert queue.take().config == self.middle
        ((lost, teacher),) = queue.lose(self.middle.slug)
        assert (lost.config, teacher) == (self.second, self.middle.slug)
        assert not queue

    def test_are_runs_like_others_and_named_in_a_dry_run(self, command, capsys):
        names = [self.big.slug, self.baseline.slug]
        for run, teacher in (
            (self.middle, self.big),
            (self.first, self.big),
            (self.second, self.middle),
        ):
            names.append(f"{run.slug} from {teacher.slug}")
        assert command(None, "--dry-run", "--out", "elsewhere") == 0
        assert capsys.readouterr().out.splitlines() == [
            "runs: 5 to do, 0 already recorded, 0 duplicates left out",
            *names,
        ]
        assert command(FakeEngine()) == 0
        found = read_records("runs/index.jsonl")
        assert [r.slug for r in found] == [name.split()[0] for name in names]

    def test_that_fail_fail_their_students(self, command, capsys):
        engine = FakeEngine(failing=[2])
        assert command(engine) == 1
        assert engine.done == [1, 0, 2, 0], "the other ones go on"
        lines = Path("runs/failed.jsonl").read_text().splitlines()
        middle, second = map(json.loads, lines)
        assert middle["slug"] == self.middle.slug
        assert second["slug"] == self.second.slug
        assert second["error"] == f"Its teacher {self.middle.slug} failed."
        assert second["notebook"] is None
        printed = capsys.readouterr().out.splitlines()
        failure = next(n for n, line in enumerate(printed) if "luck" in line)
        told = f"teacher {self.middle.slug} failed."
        assert printed[failure + 1].endswith(told)
        assert printed[-1] == "runs: 3 finished, 2 failed"

    def test_that_are_recorded_must_be_there(self, command, tmp_path, capsys):
        append_record(_record(self.big), "runs/index.jsonl")
        for arguments in ([], ["--dry-run"]):
            assert command(None, *arguments) == 2
            told = capsys.readouterr().err
            assert f"runs/{self.big.slug}/model.keras" in told
            assert told.count("\n") == 1
        older = tmp_path / "runs" / self.big.aliases[0].slug
        older.mkdir()
        (older / "model.keras").touch()
        record = dataclasses.replace(
            _record(self.big),
            slug=older.name,
            config=dataclasses.asdict(self.big),
        )
        (older / "record.json").write_text(record.to_json())
        again = FakeEngine()
        assert command(again) == 0
        assert again.done == [2, 0, 0, 0]


class TestGpus:
    @pytest.mark.parametrize(
        ("given", "found"),
        [("0,2", ["0", "2"]), ("", []), ("-1", []), ("GPU-a", ["GPU-a"])],
    )
    def test_named_by_the_environment(self, monkeypatch, given, found):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        assert local.visible_gpus() == found

    def test_named_by_nvidia_smi(self, monkeypatch):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        answer = subprocess.CompletedProcess([], 0, stdout="0\n1\n")
        monkeypatch.setattr(subprocess, "run", lambda *a, **k: answer)
        assert local.visible_gpus() == ["0", "1"]

    def test_one_for_each_worker(self):
        environments = local.worker_environments(["4", "5"], 2)
        assert environments == [
            {"CUDA_VISIBLE_DEVICES": "4"},
            {"CUDA_VISIBLE_DEVICES": "5"},
        ]

    def test_shared_by_more_workers(self):
        first, _, third = local.worker_environments(["4", "5"], 3)
        assert first == third
        assert first["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"

    def test_left_alone_for_one_worker_or_without_any(self):
        assert local.worker_environments(["4", "5"], 1) == [{}]
        assert local.worker_environments([], 2) == [{}, {}]

    def test_runs_on_gpus_share_what_jax_compiles(self, tmp_path):
        executed = tmp_path / "run" / "train.ipynb"
        jobs = [Job(RunConfig(strategy="baseline"), tmp_path, executed, {})]
        cache = str(tmp_path / "jax-cache")
        shared = local.compiled_programs(["0"], jobs)
        assert shared == {"JAX_COMPILATION_CACHE_DIR": cache}
        assert local.compiled_programs([], jobs) == {}

    def test_a_run_on_several_needs_one_worker(self, monkeypatch, tmp_path):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
        config = RunConfig(strategy="baseline", devices=2)
        job = Job(config, tmp_path, tmp_path / "a.ipynb", {})
        with pytest.raises(ValueError, match="number of workers to 1"):
            next(local.local_engine()(Queue([job])))
