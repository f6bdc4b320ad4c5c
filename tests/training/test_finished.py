"""A run is trained by one process, once, and only a sound one is recorded."""

import dataclasses
import multiprocessing
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from gnsmall_keras import cli, fields
from gnsmall_keras.config import RunConfig
from gnsmall_keras.records.run import (
    MODEL_FILE,
    RECORD_FILE,
    RunRecord,
    read_records,
)
from gnsmall_keras.sweeps import sweep
from gnsmall_keras.sweeps.plan import SweepConfig
from gnsmall_keras.training import fit, run
from gnsmall_keras.training.holding import LOCK_FILE, holding

pytestmark = pytest.mark.any_backend

CONFIG = RunConfig(data="digits", epochs=1, batch_size=256)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    def network(name, *, classes, **_):
        return keras.Sequential(
            [
                keras.Input((32, 32, 3)),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(classes),
            ]
        )

    monkeypatch.setattr(fit, "create_model", network)


def test_a_finished_run_is_not_trained_again(tmp_path, capfd):
    first = run.train(CONFIG, out=tmp_path, progress=False)
    assert "finished" not in capfd.readouterr().err
    assert run.train(CONFIG, out=tmp_path, progress=False) == first
    assert "is finished; `again`" in capfd.readouterr().err
    heated = dataclasses.replace(CONFIG, temperature=1.0)
    assert run.train(heated, out=tmp_path, progress=False) == first
    assert "no teacher: {'temperature': 1.0} is ign" in capfd.readouterr().err
    assert len(list(read_records(tmp_path / "index.jsonl"))) == 1


def test_another_index_gets_the_record_of_a_finished_run(tmp_path, capfd):
    first = run.train(CONFIG, out=tmp_path, progress=False)
    other = tmp_path / "other.jsonl"
    for added in (True, False):
        run.train(CONFIG, out=tmp_path, index=other, progress=False)
        told = f"Its record was added to {other}." in capfd.readouterr().err
        assert told == added
        assert list(read_records(other)) == [first]


def test_a_sweep_with_another_index_records_finished_runs(tmp_path):
    plan = SweepConfig(parameters=fields.plain(CONFIG), grid={"seed": [0]})
    (config,) = plan.configs
    first = run.train(config, out=tmp_path, progress=False)
    other = tmp_path / "other.jsonl"

    def engine(queue):
        for job in queue:
            run.train(config, out=tmp_path, index=job.parameters["index"])
            yield sweep.Ended(job, None)

    todo = sweep.list_todo(plan, other).pending
    found = sweep.run_all(todo, out=tmp_path, index=other, engine=engine)
    assert [one.record for one in found] == [first]
    assert list(read_records(other)) == [first]
    assert sweep.list_todo(plan, other).finished == (config,)


def test_again_trains_it_anew(tmp_path):
    run.train(CONFIG, out=tmp_path, progress=False)
    time.sleep(1.1)  # records tell starts apart by the second
    run.train(CONFIG, out=tmp_path, progress=False, again=True)
    assert len(list(read_records(tmp_path / "index.jsonl"))) == 2


def test_another_backend_does_not_take_a_finished_run_s_place(tmp_path, capsys):
    first = run.train(CONFIG, out=tmp_path, progress=False)
    folder = tmp_path / first.slug
    elsewhere = dataclasses.replace(first, backend="another")
    (folder / RECORD_FILE).write_text(elsewhere.to_json() + "\n")
    weights = (folder / MODEL_FILE).read_bytes()
    arguments = ["train", "--epochs", "1", "--batch-size", "256"]
    arguments += ["--out", str(tmp_path)]
    capsys.readouterr()
    assert cli.main(arguments) == 2
    told = capsys.readouterr().err
    assert f"{folder} was finished on another. Give another `out`" in told
    assert told.count("\n") == 1
    assert (folder / MODEL_FILE).read_bytes() == weights
    assert RunRecord.read(folder / RECORD_FILE) == elsewhere
    assert cli.main([*arguments, "--again"]) == 0
    assert RunRecord.read(folder / RECORD_FILE).backend == first.backend


def test_another_data_set_under_the_name_is_trained(tmp_path, monkeypatch):
    first = run.train(CONFIG, out=tmp_path, progress=False)
    load = run.load_data

    def changed(source, **options):
        data = load(source, **options)
        data.train_images[0] ^= 1
        return data

    monkeypatch.setattr(run, "load_data", changed)
    found = run.train(CONFIG, out=tmp_path, progress=False)
    assert found.data_digest != first.data_digest


def test_a_network_that_diverged_in_the_end_is_no_success(
    tmp_path, monkeypatch
):
    learn = run.learn

    def diverge(model, *args):
        done = learn(model, *args)
        model.layers[-1].kernel.assign(np.full((3, 10), np.nan))
        return done

    monkeypatch.setattr(run, "learn", diverge)
    with pytest.raises(ValueError, match="NaN or inf: the training diverged"):
        run.train(CONFIG, out=tmp_path, progress=False)
    assert not (tmp_path / "index.jsonl").exists()
    assert not list(tmp_path.rglob("record.json"))


def test_validation_that_explodes_stops_a_training():
    from gnsmall_keras.training.callbacks import StopOnNaN

    callback = StopOnNaN(None, None)
    callback.on_epoch_end(0, {"val_loss": 1e30})
    with pytest.raises(ValueError, match="`val_loss` is inf after epoch 3"):
        callback.on_epoch_end(2, {"loss": 1.0, "val_loss": float("inf")})


def _hold(folder, seconds):
    with holding(folder):
        (folder / "held").touch()
        time.sleep(seconds)


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_another_process_waits_and_says_for_whom(tmp_path, capfd):
    folder = tmp_path / "run"
    context = multiprocessing.get_context("fork")
    other = context.Process(target=_hold, args=(folder, 1.0))
    other.start()
    while not (folder / "held").exists():
        time.sleep(0.01)
    with holding(folder):
        assert f"process {other.pid} on" in capfd.readouterr().err
    other.join()
    assert not (folder / LOCK_FILE).exists()


def test_torch_trains_on_the_cpu_by_name(tmp_path):
    if keras.config.backend() == "torch":
        run.train(CONFIG, out=tmp_path, progress=False, device="cpu")
        return
    pytest.importorskip("torch")
    code = (
        "import keras; "
        "from gnsmall_keras.training.devices import on_devices\n"
        "with on_devices('cpu'):\n"
        "    layer = keras.layers.Dense(2)\n"
        "    layer.build((None, 3))\n"
        "    assert layer.kernel.value.is_leaf"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env={**__import__("os").environ, "KERAS_BACKEND": "torch"},
    )
