"""What is written for TensorBoard, read back."""

import struct
import sys

import numpy as np
import pytest
from support import tiny_network

from gnsmall_keras import cli
from gnsmall_keras.config import RunConfig
from gnsmall_keras.records.run import read_records
from gnsmall_keras.training import fit as learn
from gnsmall_keras.training import run as fit
from gnsmall_keras.training.callbacks import EventFiles
from gnsmall_keras.training.clock import Clock
from gnsmall_keras.training.interruption import StopRequest, TrainingInterrupted

CONFIG = RunConfig(epochs=2, batch_size=128)  # 10 steps an epoch


def _events(folder):
    """Those of all files: length, its checksum, the event, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.iterdir(), key=lambda path: path.suffix):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack_from("<Q", data)
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


@pytest.mark.any_backend
@pytest.mark.backend
def test_a_run_that_goes_on_continues_its_curves(tmp_path, monkeypatch):
    monkeypatch.setattr(learn, "create_model", tiny_network)
    with monkeypatch.context() as stopped:
        reasons = iter(["", "", "the test says so", "for the message"])
        stopped.setattr(
            StopRequest, "reason", property(lambda self: next(reasons))
        )
        with pytest.raises(TrainingInterrupted):
            fit.train(CONFIG, out=tmp_path, progress=False, tensorboard=True)
    arguments = ["train", "--epochs", "2", "--batch-size", "128"]
    arguments += ["--out", str(tmp_path), "--tensorboard"]
    assert cli.main(arguments) == 0
    (record,) = read_records(tmp_path / "index.jsonl")
    assert record.slug == CONFIG.slug
    events = list(_events(tmp_path / CONFIG.slug / "tensorboard"))
    # What an earlier call wrote from these steps on is to be forgotten.
    assert [e.step for e in events if e.session_log.status] == [1, 4]
    curves = {}
    for event in events:
        for value in event.summary.value:
            curve = curves.setdefault(value.tag, {})
            curve[event.step] = value.simple_value
    running = curves.pop("running/loss")
    assert list(running) == list(range(1, 21))
    rates = curves.pop("learning_rate")
    assert rates.keys() == {10, 20}
    assert 0 <= rates[20] < 1e-6 < rates[10] < 0.1
    assert curves.keys() == record.history.keys()
    for name, curve in curves.items():
        assert list(curve) == [10, 20]
        np.testing.assert_allclose(
            list(curve.values()), record.history[name], atol=2e-6
        )
    assert running[20] == pytest.approx(curves["loss"][20])


def test_steps_that_are_looked_at_together_end_with_the_epoch(tmp_path):
    """Four at a time of ten, of which an earlier call has done three."""
    clock = Clock(10, step=3)
    writer = EventFiles(tmp_path, clock)
    for epoch, looks in ((0, (3, 7)), (1, (3, 7, 11))):
        clock.on_epoch_begin(epoch)
        for batch in looks:
            clock.on_train_batch_end(batch)
            writer.on_train_batch_end(batch, {"loss": 1.0})
    writer.close()
    events = [e for e in _events(tmp_path) if e.summary.value]
    assert [event.step for event in events] == [7, 10, 14, 18, 20]


def test_a_missing_package_is_named_before_anything_is_done(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ValueError, match=r"gnsmall-keras\[tensorboard\]"):
        fit.train(CONFIG, out=tmp_path, tensorboard=True)
    assert not list(tmp_path.iterdir())
