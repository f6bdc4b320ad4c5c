"""A file as C++: it compiles against stubs and has the file's bytes."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image
from support import ROOT, TESTS

from gnsmall_keras import cli
from gnsmall_keras.devices import c_array
from gnsmall_keras.devices.c_array import add_method, write_c_array
from gnsmall_keras.devices.labels import find_labels
from gnsmall_keras.devices.runtime import TFLiteModel
from gnsmall_keras.export.tflite import export_tflite
from gnsmall_keras.models.ghostnet import ghostnetv3_small

pytestmark = pytest.mark.export
STUBS = TESTS / "devices/stubs"
LABELS = [f"class {number}, é" for number in range(10)]
# What is in the array, and where.
DUMP = """
#include <cstdint>
#include <cstdio>
#include "model.h"
int main() {
  if (reinterpret_cast<std::uintptr_t>(g_model) % 16) return 1;
  std::fwrite(g_model, 1, kModelBytes, stdout);
}
"""


@pytest.fixture(scope="module")
def sources(int8_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("c")
    write_c_array(int8_file, folder, labels=LABELS)
    return folder


def _compile(sources, main):
    if not shutil.which("g++"):
        pytest.skip("no g++")
    program = sources / main.stem
    flags = ("-std=c++17", "-Wall", "-Wextra", "-Werror")
    folders = (f"-I{sources}", f"-I{STUBS}")
    files = (main, sources / "model.cc", "-o", program)
    subprocess.run(["g++", *flags, *folders, *files], check=True)
    return program


def test_the_array_is_the_file(sources, int8_file):
    (sources / "dump.cc").write_text(DUMP)
    program = _compile(sources, sources / "dump.cc")
    done = subprocess.run([program], capture_output=True, check=True)
    assert done.stdout == int8_file.read_bytes()


def test_the_program_prints_a_label(sources):
    """The stub's score of a class is the value of the image's byte."""
    program = _compile(sources, ROOT / "tflite/micro/main.cc")
    image = bytearray(range(10)) + bytes(32 * 32 * 3 - 10)
    image[7] = 255
    done = subprocess.run([program], input=image, capture_output=True)
    assert (done.returncode, done.stdout.decode()) == (0, "class 7, é: 127\n")
    done = subprocess.run([program], input=image[:-1], capture_output=True)
    assert (done.returncode, done.stdout[:6]) == (1, b"error:")


def test_kernels_are_those_of_int8_alone(sources):
    """Of operators that have such; the resolver takes the others' usual."""
    text = (sources / "model.h").read_text("utf-8")
    assert "AddConv2D(tflite::Register_CONV_2D_INT8())" in text
    assert "AddMul(tflite::Register_MUL_INT8())" in text
    assert "AddConcatenation())" in text


def test_float_layers_have_kernels_that_take_floats(tmp_path):
    """Those of int8 alone would take their floats for integers."""
    path = tmp_path / "islands.tflite"
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), "uint8")
    network = ghostnetv3_small(width=0.25, head_units=320)
    export_tflite(
        network, path, calibration_images=images, float_layers=("head_conv",)
    )
    write_c_array(path, tmp_path, labels=LABELS)
    text = (tmp_path / "model.h").read_text("utf-8")
    assert "AddConv2D());" in text
    assert "AddMul(tflite::Register_MUL_INT8())" in text


def test_the_arena_is_one_that_it_starts_in(sources, int8_file):
    """Also where planning needs more than what is kept, as at this width."""
    text = (sources / "model.h").read_text("utf-8")
    (arena,) = re.findall(r"kArenaBytes = (\d+);", text)
    TFLiteModel(int8_file, runtime="tflite-micro", arena_bytes=int(arena))
    with pytest.raises(ValueError, match=f"must have {int(arena):,} bytes"):
        TFLiteModel(
            int8_file, runtime="tflite-micro", arena_bytes=int(arena) - 16
        )


def test_labels_are_those_of_the_export(tmp_path):
    """Where the file has none itself, and the report is of that file."""
    name = "gns-w0.25-h320-cifar10-micro"
    for suffix in (".tflite", ".json"):
        shutil.copy(ROOT / f"tflite/{name}{suffix}", tmp_path)
    write_c_array(tmp_path / f"{name}.tflite", tmp_path)
    assert '"airplane",' in (tmp_path / "model.cc").read_text("utf-8")
    report = tmp_path / f"{name}.json"
    report.write_text(
        report.read_text("utf-8").replace('"sha256": "', '"sha256": "0')
    )
    write_c_array(tmp_path / f"{name}.tflite", tmp_path)
    assert '"0",' in (tmp_path / "model.cc").read_text("utf-8")


def test_labels_may_have_any_character_that_folders_have(tmp_path):
    """Emojis have joiners that are not printed, Japanese a wide space."""
    file = ROOT / "tflite/gns-w0.25-h320-cifar10-micro.tflite"
    names = ["👩\u200d🚀", "犬\u3000猫", "a\u00a0b", *map(str, range(7))]
    write_c_array(file, tmp_path, labels=names)
    source = (tmp_path / "model.cc").read_text("utf-8")
    assert all(f'    "{name}",' in source for name in names)


def test_a_byte_order_mark_is_no_part_of_a_label(tmp_path):
    file = tmp_path / "a.tflite"
    shutil.copy(ROOT / "tflite/gns-w0.25-h320-cifar10-micro.tflite", file)
    text = "\ufeff" + (ROOT / "tflite/labels.txt").read_text("utf-8")
    labels = tmp_path / "labels.txt"
    labels.write_text(text, "utf-8")
    assert find_labels(file)[0] == "airplane"
    arguments = ["--out", str(tmp_path), "--labels", str(labels)]
    assert cli.main(["c-array", str(file), *arguments]) == 0
    assert '    "airplane",' in (tmp_path / "model.cc").read_text("utf-8")


def test_numbers_in_place_of_names_are_told(tmp_path, capsys):
    name = "gns-w0.25-h320-cifar10-micro"
    file = tmp_path / "a.tflite"
    shutil.copy(ROOT / f"tflite/{name}.tflite", file)
    image = tmp_path / "photo.png"
    Image.new("RGB", (40, 40)).save(image)
    commands = (
        (["c-array", str(file), "--out", str(tmp_path)], "Give --labels"),
        (["classify", str(file), str(image)], "Put its labels.txt"),
    )
    for command, cure in commands:
        assert cli.main(command) == 0
        error = capsys.readouterr().err
        assert f"no class names are known of {file}: numbers. {cure}" in error
        assert error.count("\n") == 1
    shutil.copy(ROOT / "tflite/labels.txt", tmp_path)
    for command, _ in commands:
        assert cli.main(command) == 0
        assert capsys.readouterr().err == ""


def test_without_tflite_micro_the_arena_is_the_report_s(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(c_array, "installed_runtimes", lambda: ["litert"])
    name = "gns-w0.25-h320-cifar10-micro"
    file = tmp_path / f"{name}.tflite"
    shutil.copy(ROOT / f"tflite/{name}.tflite", file)
    arguments = ["c-array", str(file), "--out", str(tmp_path / "c")]
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert "for Linux on x86-64 alone" in error
    assert error.count("\n") == 1
    shutil.copy(ROOT / f"tflite/{name}.json", tmp_path)
    assert cli.main(arguments) == 0
    arena = json.loads((tmp_path / f"{name}.json").read_text())["arena_bytes"]
    header = (tmp_path / "c/model.h").read_text("utf-8")
    assert f"kArenaBytes = {arena};" in header
    monkeypatch.undo()
    write_c_array(file, tmp_path)  # measured
    assert (tmp_path / "model.h").read_text("utf-8") == header


def test_a_file_of_other_numbers_is_refused_with_the_cure(
    int8_file, tmp_path, monkeypatch, capsys
):
    types = ("int16", "int16")
    monkeypatch.setattr(c_array.TFLiteModel, "dtypes", types, raising=False)
    assert cli.main(["c-array", str(int8_file), "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f"{types}. Export with --target micro --quantization int8" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("op", "method"),
    [
        ("CONV_2D", "AddConv2D"),
        ("RESIZE_NEAREST_NEIGHBOR", "AddResizeNearestNeighbor"),
        ("PADV2", "AddPadV2"),
        ("UNIDIRECTIONAL_SEQUENCE_LSTM", "AddUnidirectionalSequenceLSTM"),
    ],
)
def test_operators_have_methods(op, method):
    assert add_method(op) == method


def test_an_operator_without_a_kernel_is_named():
    with pytest.raises(ValueError, match="Received: TILE"):
        add_method("TILE")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("a\nb\n", "one a class, 10. Received: 2"),
        ("a\n" * 9 + "\t", "in one line, without control characters"),
    ],
)
def test_labels_are_checked(capsys, int8_file, tmp_path, labels, message):
    (tmp_path / "labels.txt").write_text(labels)
    arguments = [str(int8_file), "--out", str(tmp_path / "c"), "--labels"]
    arguments.append(str(tmp_path / "labels.txt"))
    assert cli.main(["c-array", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "c").exists()
