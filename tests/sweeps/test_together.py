"""Runs of a sweep that train together: groups, failures, and refusals."""

import functools
import os

import keras
import pytest

from gnsmall_keras import backend
from gnsmall_keras.commands.runs import sweep as command
from gnsmall_keras.config import RunConfig
from gnsmall_keras.sweeps import local, process, together
from gnsmall_keras.sweeps.jobs import Job, Queue

ON_JAX = keras.config.backend() == "jax"
# Elsewhere one backend's refusals are enough.
pytestmark = pytest.mark.contract if ON_JAX else pytest.mark.any_backend
on_jax = pytest.mark.skipif(not ON_JAX, reason="JAX alone")


def _jobs(out, configs):
    return [
        Job(config, out / "n.ipynb", out / config.slug / "train.ipynb", {})
        for config in configs
    ]


def _end_all(engine, queue):
    ended = []
    for one in engine(queue):
        ended.append((one.job.config.seed, one.error))
        queue.end(one.job.config.slug)
    return ended


@pytest.fixture
def at_once(monkeypatch):
    """Notebooks end at once."""
    monkeypatch.setattr(
        process, "execute", lambda *args, **kwargs: process.Ending(None)
    )


@pytest.fixture
def groups(monkeypatch):
    """The seeds of each group that trains, which it does at once."""
    found = []
    monkeypatch.setattr(backend, "jax_sees_gpu", lambda: True)

    def pretend(group, environment):
        found.append([job.config.seed for job in group])
        return "no memory" if 9 in found[-1] else None

    monkeypatch.setattr(together, "_train", pretend)
    return found


@on_jax
def test_runs_of_one_shape_train_together_after_their_teacher(
    tmp_path, groups, at_once
):
    teacher = RunConfig(seed=5, width=0.5)
    students = [
        RunConfig(
            seed=seed, width=width, strategy="kd", teachers=(teacher.slug,)
        )
        for seed, width in ((0, 0.25), (1, 0.25), (2, 0.5), (3, 0.25), (4, 0.5))
    ]
    queue = Queue(_jobs(tmp_path, [teacher, *students]))
    found = _end_all(together.together_engine(2), queue)
    assert [seed for seed, _ in found] == [5, 0, 1, 2, 4, 3]
    assert groups == [[0, 1], [2, 4]]  # one alone trains in its notebook
    assert {error for _, error in found} == {None}


@on_jax
def test_a_program_that_fails_is_the_failure_of_its_runs(
    tmp_path, groups, at_once
):
    configs = [RunConfig(seed=seed) for seed in (8, 9, 10, 11)]
    queue = Queue(_jobs(tmp_path, configs))
    found = _end_all(together.together_engine(2), queue)
    assert found == [(8, "no memory"), (9, "no memory"), (10, None), (11, None)]


def test_ctrl_c_in_a_notebook_stops_the_sweep(tmp_path, interrupted, groups):
    queue = Queue(_jobs(tmp_path, [RunConfig(seed=s) for s in (0, 1, 2)]))
    with pytest.raises(KeyboardInterrupt):
        _end_all(functools.partial(together._run, runs=2), queue)
    (run,) = interrupted
    assert run.job.config.seed == 0
    assert run.process.returncode == 3


@on_jax
def test_on_a_cpu_runs_train_one_by_one(tmp_path, groups, monkeypatch, capsys):
    monkeypatch.setattr(backend, "jax_sees_gpu", lambda: False)
    engine = together.together_engine(2)
    assert "JAX sees no GPU: the runs train one by one" in (
        capsys.readouterr().err
    )
    assert engine.func is local._run
    assert engine.keywords == {"workers": 1}
    assert groups == []


@pytest.mark.skipif(ON_JAX, reason="one backend's is enough")
def test_a_process_that_ends_in_an_error_names_it(tmp_path):
    jobs = _jobs(
        tmp_path, [RunConfig(data="none-such", seed=s) for s in (0, 1)]
    )
    error = together._train(jobs, dict(os.environ))
    assert "2 runs together ended with exit status 2" in error
    assert "none-such" in error


@pytest.mark.skipif(ON_JAX, reason="other backends")
def test_another_backend_is_refused():
    with pytest.raises(ValueError, match="on JAX"):
        together.together_engine(2)


@on_jax
def test_one_run_together_is_refused():
    with pytest.raises(ValueError, match="2 runs or more"):
        together.together_engine(0)


@pytest.mark.parametrize(
    ("grid", "options", "message"),
    [
        ("width = [0.25, 0.5]", {}, "width=0.25"),
        ("seed = [0, 1]", {"workers": 2}, "workers=2"),
        ("seed = [0, 1]", {"engine": "ray"}, "engine='ray'"),
        ("seed = [0, 1]", {"kernels": "native"}, "kernels='native'"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(tmp_path, grid, options, message):
    file = tmp_path / "sweep.toml"
    file.write_text(f'[parameters]\nstrategy = "baseline"\n[grid]\n{grid}\n')
    with pytest.raises(ValueError, match="together") as error:
        command(file, out=tmp_path / "runs", together=4, **options)
    assert message in str(error.value)
    assert not (tmp_path / "runs" / "index.jsonl").exists()
