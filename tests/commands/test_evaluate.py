"""`gnsmall evaluate` on one's own photos: which images are measured."""

import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support import tiny_network

from gnsmall_keras import cli
from gnsmall_keras.commands.arguments import ImageOptions
from gnsmall_keras.commands.images import (
    held_out,
    load_split,
    warn_of_trained,
)
from gnsmall_keras.data.dataset import split_indices
from gnsmall_keras.data.sources import load_data
from gnsmall_keras.models.saving.files import save_model

pytestmark = pytest.mark.any_backend

CLASSES = ("a", "b", "c")


def _photos(root, count, labels=CLASSES):
    generator = np.random.default_rng(count)
    for label in labels:
        (root / label).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / label / f"{number}.png")
    return str(root)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.keras"
    save_model(tiny_network("gns", classes=3), path, CLASSES)
    return str(path)


def test_all_images_of_a_new_folder_count(model, tmp_path, capsys):
    new = _photos(tmp_path / "new", 1, ("b", "c"))
    assert cli.main(["evaluate", model, "--data", new, "--split", "all"]) == 0
    captured = capsys.readouterr()
    assert "n=2" in captured.out
    assert "The test split has no ['a']" in captured.out
    assert cli.main(["evaluate", model, "--data", new]) == 2
    capsys.readouterr()
    digits = ["evaluate", model, "--data", "digits", "--split", "all"]
    assert cli.main(digits) == 2
    assert "is for a folder or archive" in capsys.readouterr().err


def test_another_split_than_the_runs_is_warned_of(tmp_path, capsys):
    """Where images were added, some of its test images were trained on."""
    dataset = load_data(_photos(tmp_path / "photos", 5))
    warn_of_trained(dataset, {"aspect": "crop"}, "of fewer")
    assert "add --split all" in capsys.readouterr().err
    for known in (dataset.digest, None):
        warn_of_trained(dataset, {}, known)
        assert capsys.readouterr().err == ""


def test_a_file_outside_of_its_runs_folder_is_warned_of(tmp_path, capsys):
    """By the report of its export, which has the digest of the images."""
    dataset = load_data(_photos(tmp_path / "photos", 5))
    file = tmp_path / "model.tflite"
    file.write_bytes(b"a file")
    sha256 = hashlib.sha256(b"a file").hexdigest()
    report = {"sha256": sha256, "source": {"data_digest": "of fewer"}}
    file.with_suffix(".json").write_text(json.dumps(report))
    arguments = ["test", str(tmp_path / "photos"), (32, 32, 3)]
    load_split(*arguments, ImageOptions(), file, None, CLASSES)
    assert "add --split all" in capsys.readouterr().err
    report["source"]["data_digest"] = dataset.digest
    file.with_suffix(".json").write_text(json.dumps(report))
    load_split(*arguments, ImageOptions(), file, None, CLASSES)
    assert capsys.readouterr().err == ""


def test_a_limit_takes_of_each_class(model, tmp_path, monkeypatch, capsys):
    from gnsmall_keras.training import evaluation

    seen = []
    kept = evaluation.accuracy
    monkeypatch.setattr(
        evaluation,
        "accuracy",
        lambda logits, labels: seen.extend(labels) or kept(logits, labels),
    )
    data = _photos(tmp_path / "photos", 5)
    arguments = ["evaluate", model, "--data", data, "--split", "all"]
    assert cli.main([*arguments, "--limit", "6"]) == 0
    assert sorted(seen) == [0, 0, 1, 1, 2, 2]


def test_images_that_a_run_held_out_can_be_measured(tmp_path):
    dataset = load_data(_photos(tmp_path / "photos", 10))
    config = {"protocol": "validation", "validation_fraction": 0.25, "seed": 3}
    run = SimpleNamespace(
        config=config, data_digest=dataset.digest, slug="a-run"
    )
    found = held_out(dataset, tmp_path / "model.tflite", run)
    held = split_indices(dataset.train_labels, fraction=0.25, seed=3)[1]
    np.testing.assert_array_equal(found.images, dataset.train_images[held])
    np.testing.assert_array_equal(found.labels, dataset.train_labels[held])
    run.config["protocol"] = "paper"
    with pytest.raises(ValueError, match="held images out.*'paper', a-run"):
        held_out(dataset, tmp_path / "model.tflite", run)
    run.data_digest = "of others"
    with pytest.raises(ValueError, match="run did not have, 'photos'"):
        held_out(dataset, tmp_path / "model.tflite", run)


def test_without_a_record_the_data_say_what_is_held_out(
    model, tmp_path, capsys
):
    folder = tmp_path / "photos"
    arguments = ["evaluate", model, "--split", "validation", "--data"]
    assert cli.main([*arguments, _photos(folder / "train", 4)]) == 2
    assert "without a record beside it" in capsys.readouterr().err
    _photos(folder / "val", 2)
    assert cli.main([*arguments, str(folder)]) == 0
    assert "validation accuracy" in (out := capsys.readouterr().out)
    assert "n=6" in out
