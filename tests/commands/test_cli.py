"""The command line: one line and exit status 2 for every bad input."""

import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from support import ROOT, tiny_network

from gnsmall_keras import cli
from gnsmall_keras.data.sources import load_data
from gnsmall_keras.models.ghostnet import ghostnetv3_small
from gnsmall_keras.models.saving.files import load_model, save_model
from gnsmall_keras.models.torch.weights import to_torch_state_dict

pytestmark = pytest.mark.any_backend


@pytest.fixture(scope="module")
def small():
    return ghostnetv3_small(0.25)


@pytest.fixture(scope="module")
def checkpoint(small, tmp_path_factory):
    """GN-S 0.25 as PyTorch keeps it."""
    file = tmp_path_factory.mktemp("torch") / "gns.safetensors"
    save_file(to_torch_state_dict(small), file)
    return file


def _error(capsys, *arguments):
    assert cli.main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("gnsmall: error: ")
    assert captured.err.count("\n") == 1, "one line"
    assert "Error parsing" not in captured.err  # tyro's
    return captured.err


def test_models_prints_the_tables(capsys):
    assert cli.main(["models"]) == 0
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("483,554", "91,494", "28,334,410"))


def test_a_checkpoint_is_imported(capsys, tmp_path, small, checkpoint):
    out = tmp_path / "gns.keras"
    arguments = ["import-torch", str(checkpoint), "--model", "gns"]
    arguments += ["--width", "0.25", "--out", str(out), "--data", "digits"]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "mapped 1034 entries: conv_stem.weight" in printed
    assert "num_batches_tracked" in printed
    assert "n=360" in printed
    np.testing.assert_array_equal(
        load_model(out).get_weights()[0], small.get_weights()[0]
    )


def test_a_checkpoint_of_another_network_leaves_no_file(
    capsys, tmp_path, checkpoint
):
    arguments = ["import-torch", checkpoint, "--model", "gns", "--width", "0.5"]
    message = _error(capsys, *arguments, "--out", tmp_path / "gns.keras")
    assert "gns of width 0.25" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [[], *[[name] for name in cli.COMMANDS]])
def test_help_is_there(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*command, "--help"])
    assert stop.value.code == 0
    assert "usage: gnsmall" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "no command 'fly'"),
        ([], "Expected one of"),
        (["cache-teacher"], "Missing from gnsmall cache-teacher"),
        (["train", "--width", "wide"], "--width"),
        (["train", "--width", "0"], "must be in (0, 32]"),
        (["train", "--width", "nan"], "must be in (0, 32]"),
        (["train", "--width", "1e9"], "must be in (0, 32]"),
        (["train", "--recipe", "slow"], "`recipe` must be one of"),
        (["train", "--data", "mnist"], "No data at 'mnist'"),
        (["train", "--model", "resnet"], "`model` must be one of"),
        (["train", "--speed", "9"], "--speed"),
        (
            ["import-torch", "no.pth", "--model", "gns", "--out", "a.keras"],
            "No checkpoint file",
        ),
        (
            ["import-torch", "no.pth", "--model", "gns", "--out", "a.h5"],
            "must end in .keras",
        ),
        (["export", "none.keras", "--data", "digits"], "does not exist"),
        (
            ["export", "a.keras", "--data", "a", "--compress", "cluster:1"],
            "N >= 2",
        ),
        (["evaluate", "none.tflite", "--data", "digits"], "No file"),
        (["sweep", "none.toml"], "Received: none.toml, no file"),
        (["records", "merge", "--out", "a.jsonl"], "one file or more"),
        (["records", "join", "a.jsonl", "--out", "b.jsonl"], "merge"),
    ],
)
def test_bad_input_is_one_line(
    capsys, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    assert message in _error(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_is_missing_is_named(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "gnsmall_keras.training.run", None)
    with pytest.raises(ModuleNotFoundError):  # ours is a defect
        cli.main(["train"])
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    (tmp_path / "a.tflite").write_bytes(b"....TFL3")
    error = _error(capsys, "benchmark", "a.tflite")
    assert "ai_edge_litert" in error
    assert "gnsmall-keras[EXTRA]" in error


def test_evaluate_prints_accuracy_with_its_n(capsys, tmp_path):
    save_model(tiny_network("", classes=10), tmp_path / "model.keras")
    arguments = ["evaluate", str(tmp_path / "model.keras"), "--data", "digits"]
    assert cli.main([*arguments, "--limit", "20"]) == 0
    assert "n=20" in capsys.readouterr().out


def test_classify_names_the_best_classes_of_photos(capsys, tmp_path):
    photo = tmp_path / "photo.png"
    Image.fromarray(load_data("digits").test_images[0]).save(photo)
    file = ROOT / "tflite/gns-w0.25-h320-cifar10-micro.tflite"
    keras_file = tmp_path / "model.keras"
    save_model(tiny_network("", classes=10), keras_file)
    for model in (file, keras_file):
        assert cli.main(["classify", str(model), str(photo), str(photo)]) == 0
        one, other = capsys.readouterr().out.splitlines()
        assert one == other
        assert one.startswith(f"{photo}: ")
        values = [float(part.split()[-1]) for part in one.split(",")]
        assert values == sorted(values, reverse=True)
    script = [sys.executable, str(ROOT / "tflite/run_model.py"), file, photo]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    assert cli.main(["classify", str(file), str(photo)]) == 0
    found = capsys.readouterr().out.strip().removeprefix(f"{photo}: ")
    assert found == ", ".join(done.stdout.splitlines())


def test_classify_names_a_file_that_is_no_image(capsys, tmp_path):
    save_model(tiny_network("", classes=10), tmp_path / "model.keras")
    (tmp_path / "photo.png").write_text("no image")
    names = (tmp_path / "model.keras", tmp_path / "photo.png")
    error = _error(capsys, "classify", *names)
    assert str(names[1]) in error
    Image.new("RGB", (40, 40)).save(tmp_path / "whole.png")
    names = [*names, tmp_path, tmp_path / "none.png", tmp_path / "whole.png"]
    assert cli.main(["classify", *map(str, names)]) == 2
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{tmp_path / 'whole.png'}: ")
    assert f"{tmp_path}: Is a directory; " in captured.err
    assert "needs images" in _error(capsys, "classify", names[0])


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_data_of_other_classes_is_refused(command, capsys, tmp_path):
    save_model(tiny_network("", classes=3), tmp_path / "model.keras")
    error = _error(
        capsys, command, tmp_path / "model.keras", "--data", "digits"
    )
    assert "3 classes" in error


def test_model_of_another_task_is_refused(capsys, tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.save(tmp_path / "model.keras")
    error = _error(
        capsys, "export", tmp_path / "model.keras", "--data", "digits"
    )
    assert "not a classifier" in error


def test_export_into_a_missing_folder_is_refused(capsys, tmp_path):
    save_model(tiny_network("", classes=10), tmp_path / "model.keras")
    error = _error(
        capsys,
        "export",
        tmp_path / "model.keras",
        "--data",
        "digits",
        "--out",
        tmp_path / "none" / "model.tflite",
    )
    assert "does not exist" in error


def test_evaluate_needs_enough_images_for_a_test_split(capsys, tmp_path):
    save_model(tiny_network("", classes=2), tmp_path / "model.keras")
    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / "images/train" / name).mkdir(parents=True)
        pixels = np.zeros((32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images/train" / name / "0.png")
    error = _error(
        capsys,
        "evaluate",
        tmp_path / "model.keras",
        "--data",
        tmp_path / "images",
    )
    assert "one of them to be split off as test" in error


def test_the_commands_that_take_jax_are_named():
    text = (ROOT / "docs/commands.md").read_text("utf-8")
    names = re.findall(r"sees a GPU, (.*) take JAX and say so", text)[0]
    assert set(re.findall(r"`(.*?)`", names)) == cli._TRAINING
