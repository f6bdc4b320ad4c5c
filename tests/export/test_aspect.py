"""How photos become squares goes with a file, in the report beside it."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support import ROOT

from gnsmall_keras import cli
from gnsmall_keras.config import ExportConfig
from gnsmall_keras.data import sources
from gnsmall_keras.data.sources import load_data
from gnsmall_keras.devices.labels import find_aspect
from gnsmall_keras.export import tflite
from gnsmall_keras.export.arguments import checked_images

pytestmark = pytest.mark.export
PUBLISHED = ROOT / "tflite/gns-w0.25-h320-cifar10-micro.tflite"


@pytest.fixture
def file(tmp_path):
    """A file outside a run's folder, with its report."""
    for suffix in (".tflite", ".json"):
        shutil.copy(PUBLISHED.with_suffix(suffix), tmp_path / f"a{suffix}")
    return tmp_path / "a.tflite"


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def _write(file, aspect):
    report = json.loads(PUBLISHED.with_suffix(".json").read_text("utf-8"))
    report["aspect"] = aspect
    file.with_suffix(".json").write_text(json.dumps(report), "utf-8")


def _classified(capsys, file, photo, *options):
    assert cli.main(["classify", str(file), str(photo), *options]) == 0
    return capsys.readouterr().out


def test_classify_reads_photos_as_the_report_says(file, photo, capsys):
    cropped = _classified(capsys, file, photo)  # an older report
    assert find_aspect(file) is None
    found = {"crop": cropped}
    for aspect in ("pad", "squash"):
        _write(file, aspect)
        found[aspect] = _classified(capsys, file, photo)
        with_option = _classified(capsys, file, photo, "--aspect", aspect)
        assert found[aspect] == with_option
        assert _classified(capsys, file, photo, "--aspect", "crop") == cropped
    assert len({*found.values()}) == 3


def test_evaluate_reads_photos_as_the_report_says(file, monkeypatch, capsys):
    seen = []

    def load_data(*_, aspect, **__):
        seen.append(aspect)
        raise ValueError("seen")

    monkeypatch.setattr(sources, "load_data", load_data)
    _write(file, "pad")
    for options in ([], ["--aspect", "squash"]):
        arguments = ["evaluate", str(file), "--data", "digits", *options]
        assert cli.main(arguments) == 2
    assert "seen" in capsys.readouterr().err
    assert seen == ["pad", "squash"]


def test_a_report_of_an_unknown_aspect_is_named(file, photo, capsys):
    _write(file, "zoom")
    assert cli.main(["classify", str(file), str(photo)]) == 2
    error = capsys.readouterr().err
    assert "Received: 'zoom'" in error
    assert "a.json. Export a.tflite again" in error
    assert error.count("\n") == 1


def test_an_export_reports_how_its_images_became_square(monkeypatch):
    given = []
    monkeypatch.setattr(
        tflite, "export_tflite", lambda *_, **given_: given.append(given_)
    )
    data = dataclasses.replace(load_data("digits"), aspect="pad")
    run = SimpleNamespace(config={"aspect": "squash"}, data_digest=data.digest)
    monkeypatch.setattr(tflite, "describe_source", lambda run: None)
    network = SimpleNamespace(output_shape=(None, 10))
    for of in (None, run):
        tflite.export_network(
            network, "a.tflite", data, ExportConfig(), run=of, exports="none"
        )
    assert [each["aspect"] for each in given] == ["pad", "squash"]


def test_an_unknown_aspect_is_refused():
    images = np.full((20, 32, 32, 3), 9, np.uint8)
    model = SimpleNamespace(input_shape=(None, 32, 32, 3))
    checked_images(images, model, None)
    with pytest.raises(ValueError, match="one of .* Received: 'zoom'"):
        checked_images(images, model, "zoom")
