"""The package's own networks as teachers."""

import hashlib

import pytest
from support import tiny_network

from gnsmall_keras.config import Distilling
from gnsmall_keras.data.sources import load_data
from gnsmall_keras.models.saving import pretrained
from gnsmall_keras.models.saving.files import load_model
from gnsmall_keras.training import checkpoint
from gnsmall_keras.training import fit as learn
from gnsmall_keras.training import run as fit
from gnsmall_keras.training.evaluation import agreement, predict_logits
from gnsmall_keras.training.experiment import resolve
from gnsmall_keras.training.splits import split
from gnsmall_keras.training.strategies import find_changed

pytestmark = pytest.mark.any_backend

SMALL = {"width": 0.5, "epochs": 2, "batch_size": 128}


@pytest.fixture(autouse=True)
def tiny_networks(monkeypatch):
    monkeypatch.setattr(learn, "create_model", tiny_network)


def test_a_published_network_teaches_by_its_name(tmp_path, monkeypatch):
    def pretend(model, teachers, batches, monitored, stage):
        assert teachers is not None
        return checkpoint.Progress(1, {"loss": [1.0]}, 1.0)

    model = tmp_path / "model.keras"
    tiny_network("gns", classes=10, width=2.0).save(model)
    sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
    known = pretrained.Pretrained(str(model), sha256)
    monkeypatch.setattr(fit, "learn", pretend)
    published = {"gns": {(2.0, 1280): known}}
    monkeypatch.setattr(pretrained, "PUBLISHED", published)
    monkeypatch.setattr(pretrained, "TEACHERS", ())
    config = Distilling(**SMALL, teachers=("model",))
    record = fit.train(config, out=tmp_path, progress=False)
    (teacher,) = record.distillation["teachers"]
    assert teacher["name"] == "model"
    student = load_model(tmp_path / record.slug / "model.keras")
    images = split(load_data("digits"), resolve(config).partition).validation[0]
    same = agreement(
        predict_logits(student, images),
        predict_logits(load_model(model), images),
    )
    assert record.agreements == {"model": same}
    assert find_changed(record.distillation, tmp_path) == []
    config = Distilling(**SMALL, teachers=("models",))
    with pytest.raises(ValueError, match=r"published network: \['model'\]"):
        fit.train(config, out=tmp_path, progress=False)
