"""Class names: found wherever they stand, and data of others refused."""

import hashlib
import json
import shutil

import pytest
from data import photos
from support import ROOT, tiny_network

from gnsmall_keras import cli
from gnsmall_keras.devices.labels import find_labels
from gnsmall_keras.export.metadata import check_beside, write_beside
from gnsmall_keras.models.saving.files import (
    class_names_of,
    load_model,
    save_model,
)

pytestmark = pytest.mark.any_backend

OURS, OTHERS = ("a", "b", "ü"), ("a", "b", "c")


@pytest.fixture
def folder(tmp_path):
    for name, data in photos.files(*OTHERS).items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "photos"


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_data_of_other_names_are_refused_with_both_lists(
    command, folder, tmp_path, capsys
):
    path = tmp_path / "model.keras"
    save_model(tiny_network("gns", classes=3), path, OURS)
    assert cli.main([command, str(path), "--data", str(folder)]) == 2
    error = capsys.readouterr().err
    assert str([*OURS]) in error
    assert str([*OTHERS]) in error
    assert error.count("\n") == 1


def test_a_model_keeps_its_names_and_is_loaded_as_before(tmp_path):
    path = tmp_path / "model.keras"
    model = tiny_network("gns", classes=3)
    save_model(model, path, OURS)
    assert class_names_of(path) == OURS
    assert load_model(path).output_shape == (None, 3)
    save_model(model, path)
    assert class_names_of(path) == ()
    assert class_names_of(__file__) == ()


def test_names_of_a_file_stand_in_its_report_or_beside_it(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"some bytes")
    assert find_labels(path) == []
    write_beside(path, OURS)
    assert (tmp_path / "labels.txt").read_text("utf-8") == "a\nb\nü\n"
    assert find_labels(path) == [*OURS]
    report = {
        "sha256": hashlib.sha256(b"some bytes").hexdigest(),
        "class_names": [*OTHERS],
    }
    path.with_suffix(".json").write_text(json.dumps(report))
    assert find_labels(path) == [*OTHERS]
    report["sha256"] = "of another file"
    for text in (json.dumps(report), "{}", "[]"):
        path.with_suffix(".json").write_text(text)
        assert find_labels(path) == [*OURS]
    path.with_suffix(".json").write_text('{"sha256": ')
    with pytest.raises(ValueError, match=r"model\.json is not the report"):
        find_labels(path)


@pytest.mark.export
def test_names_of_another_number_of_classes_are_refused(tmp_path, capsys):
    file = tmp_path / "a.tflite"
    shutil.copy(ROOT / "tflite/gns-w0.25-h320-cifar10-micro.tflite", file)
    (tmp_path / "labels.txt").write_text("a\nb\n")
    photos.picture(40, 40).save(tmp_path / "photo.png")
    assert cli.main(["classify", str(file), str(tmp_path / "photo.png")]) == 2
    error = capsys.readouterr().err
    assert "has 10 classes. Received: 2 names" in error
    assert error.count("\n") == 1


def test_labels_of_another_file_are_not_overwritten(tmp_path):
    first, second = tmp_path / "first.tflite", tmp_path / "second.tflite"
    check_beside(first, OURS)
    write_beside(first, OURS)
    first.write_bytes(b"")
    check_beside(first, OTHERS)  # its own
    check_beside(second, OURS)
    with pytest.raises(ValueError, match="names the classes of other files"):
        check_beside(second, OTHERS)
    first.rename(tmp_path / "unfinished-first.tflite")  # by a kill
    check_beside(second, OTHERS)


def test_labels_that_are_there_are_told_to_a_file_without_names(tmp_path):
    """Of an older export, say: readers would give its names to the new one."""
    path = tmp_path / "model.tflite"
    check_beside(path, None)
    write_beside(path, OURS)
    with pytest.warns(UserWarning, match="Give `class_names`, or remove it"):
        check_beside(path, None)
