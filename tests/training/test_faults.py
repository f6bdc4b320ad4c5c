"""What is told of files that cannot be written, read or trusted any more."""

import contextlib
import errno
import os
import resource
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from gnsmall_keras import cli
from gnsmall_keras.config import RunConfig
from gnsmall_keras.data.augment import Views
from gnsmall_keras.data.batches import TrainingBatches
from gnsmall_keras.distill.distiller import Distiller
from gnsmall_keras.distill.losses import LabelCrossEntropy
from gnsmall_keras.records.jsonl import append_line
from gnsmall_keras.records.run import MODEL_FILE, RECORD_FILE, read_records
from gnsmall_keras.training import fit, run
from gnsmall_keras.training.callbacks import StopOnNaN
from gnsmall_keras.training.clock import Clock
from gnsmall_keras.training.holding import holding
from gnsmall_keras.writing import naming, replacing

pytestmark = pytest.mark.any_backend

OPTIONS = {"data": "digits", "epochs": 1, "batch_size": 256}


def _network(name="", *, classes=10, **_):
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(classes),
        ]
    )


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(fit, "create_model", _network)


@contextlib.contextmanager
def _full_disk():
    """Files end at 100 bytes; in a test alone, for pytest's output is one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_does_not_fit_on_a_disk_is_named(tmp_path):
    path = tmp_path / "record.json"
    with (
        pytest.raises(OSError, match=f"{path}") as error,
        _full_disk(),
        replacing(path) as unfinished,
    ):
        unfinished.write_text("x" * 1000)
    assert error.value.errno == errno.EFBIG
    with pytest.raises(OSError, match="index.jsonl"), _full_disk():
        append_line("x" * 1000, tmp_path / "index.jsonl")


def test_of_a_link_the_file_behind_is_replaced(tmp_path):
    (tmp_path / "store").mkdir()
    behind = tmp_path / "store" / "blob"
    link = tmp_path / "model.keras"
    link.symlink_to("store/blob")
    for text in ("new", "again"):  # at first there is no file behind
        with replacing(link) as unfinished:
            assert unfinished.suffix == ".keras"
            unfinished.write_text(text)
        assert link.is_symlink()
        assert behind.read_text() == text
    assert [*behind.parent.iterdir()] == [behind]


def test_errors_that_name_a_file_stay_as_they_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="other"), naming("one"):
        (tmp_path / "other").read_text()
    with pytest.raises(OSError, match="one"), naming("one"):
        raise OSError("h5py: no number, no name")


def test_a_full_disk_says_that_the_same_command_goes_on(capsys, monkeypatch):
    def fill(**_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/a")

    monkeypatch.setitem(cli.COMMANDS, "models", fill)
    assert cli.main(["models"]) == 2
    error = capsys.readouterr().err
    assert "'runs/a'. Make room, then give the same command again" in error


def test_too_little_memory_is_one_line(capsys, monkeypatch):
    def ask(**_):
        raise MemoryError("Unable to allocate 1.57 TiB")

    monkeypatch.setitem(cli.COMMANDS, "models", ask)
    assert cli.main(["models"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", ["numpy", "openvino", "unknown"])
def test_a_backend_that_does_not_train_is_one_line(name, capsys, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", name)
    assert cli.main(["train"]) == 2
    assert "must be one of tensorflow, torch, jax" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["index", "out"])
@pytest.mark.parametrize("fault", ["folder", "below a file"])
def test_where_it_is_written_is_checked_before_training(
    name, fault, tmp_path, monkeypatch
):
    monkeypatch.setattr(run, "load_data", None)
    place = tmp_path / "place"
    if fault == "folder" and name == "index":
        place.mkdir()
    else:
        place.write_text("here")
    if fault == "below a file":
        place /= "below"
    places = {"out": tmp_path / "runs", name: place}
    with pytest.raises(ValueError, match=f"`{name}` must be a file that can"):
        run.train(RunConfig(**OPTIONS), **places)
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("here")
    place = tmp_path / "file" / "runs" / "gns"
    with (
        pytest.raises(ValueError, match=r"`out` must be a folder.*Not a dir"),
        holding(place),
    ):
        pass


@pytest.mark.parametrize("name", ["runs [old]", "runs[/x]", "runs :smile:"])
def test_a_path_is_printed_as_it_is(name, tmp_path, capsys):
    out = tmp_path / name
    words = ["--data", "digits", "--epochs", "1", "--batch-size", "256"]
    assert cli.main(["train", *words, "--out", str(out)]) == 0
    assert f"files: {out}/" in capsys.readouterr().out
    assert cli.main(["train", *words, "--out", str(out)]) == 0
    assert f"{out}/" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_damaged_record_is_named_and_made_again(text, tmp_path, capfd):
    config = RunConfig(**OPTIONS)
    first = run.train(config, out=tmp_path, progress=False)
    record = tmp_path / first.slug / RECORD_FILE
    ended = record.with_name("ended.json")
    record.unlink()
    ended.write_text(text)
    found = run.train(config, out=tmp_path, progress=False)
    assert f"{ended} is damaged" in capfd.readouterr().err
    assert found.history == first.history
    record.write_text(text)
    run.train(config, out=tmp_path, progress=False)
    assert f"{record} is damaged" in capfd.readouterr().err


def test_a_teacher_that_changed_is_told_and_taught_from(tmp_path, capfd):
    teacher = tmp_path / "teacher.keras"
    _network().save(teacher)
    config = RunConfig(**OPTIONS, strategy="kd", teachers=(str(teacher),))
    first = run.train(config, out=tmp_path, progress=False)
    assert run.train(config, out=tmp_path, progress=False) == first
    _network().save(teacher)
    time.sleep(1.1)  # records tell starts apart by the second
    capfd.readouterr()
    found = run.train(config, out=tmp_path, progress=False)
    assert f"{teacher} changed: it is trained anew" in capfd.readouterr().err
    assert found.distillation != first.distillation
    assert len(list(read_records(tmp_path / "index.jsonl"))) == 2
    assert Path(tmp_path, found.slug, MODEL_FILE).is_file()
    teacher.unlink()  # a record that cannot be compared is kept
    assert run.train(config, out=tmp_path, progress=False) == found


class TestTeacherOfNaN:
    def test_weights_are_looked_at_before_training(self):
        with pytest.raises(ValueError, match="teacher .* NaN or inf"):
            Distiller(student=_network(), teacher=_with_weights(np.nan))

    def test_images_that_lead_to_it_blame_the_teacher(self):
        images = np.zeros((8, 32, 32, 3), np.uint8)
        labels = np.zeros(8, int)
        batches = TrainingBatches(
            images, labels, batch_size=8, seed=0, views=Views(augment=False)
        )
        teacher = _network()
        distiller = Distiller(student=_network(), teacher=teacher)
        teacher.set_weights(_with_weights(np.inf).get_weights())
        distiller.compile("sgd", loss=LabelCrossEntropy())
        clock = Clock(len(batches))
        with pytest.raises(ValueError, match="The teacher 'sequential.*'"):
            distiller.fit(
                batches, callbacks=[clock, StopOnNaN(batches, clock)], verbose=0
            )


def _with_weights(value):
    network = _network()
    network.set_weights([np.full_like(w, value) for w in network.get_weights()])
    return network
