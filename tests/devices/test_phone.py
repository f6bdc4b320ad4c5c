"""Files on a phone, with an adb that is a script."""

import json
import os
import stat

import pytest

from gnsmall_keras import cli
from gnsmall_keras.devices.phone import benchmark_on_phone
from gnsmall_keras.devices.resnet8 import RESNET8, resnet8

_ADB = """#!/bin/sh
echo "$@" >> {log}
case "$*" in
  devices) printf 'List of devices attached\\n{devices}\\n' ;;
  *ro.product.model*) echo Pixel ;;
  *0.tflite*--num_threads*) echo '{told}' ;;
  *--num_threads*) echo 'Inference (avg): 500' ;;
esac
"""
_TOLD = "Inference timings in us: Init: 5685, Inference (avg): 250.5"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(resnet8(RESNET8["resnet8-16-32-64"]))
    return path


@pytest.fixture
def binary(tmp_path):
    path = tmp_path / "benchmark_model"
    path.write_bytes(b"ELF")
    return path


@pytest.fixture
def adb(tmp_path, monkeypatch):
    """Puts an adb in front of all others; returns its log."""
    log, folder = tmp_path / "log", tmp_path / "bin"
    folder.mkdir()
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def make(devices="1234\\tdevice", told=_TOLD):
        script = folder / "adb"
        script.write_text(_ADB.format(log=log, devices=devices, told=told))
        script.chmod(script.stat().st_mode | stat.S_IEXEC)
        return log

    return make


def test_a_file_is_measured_in_turn_with_the_references(adb, file, binary):
    log = adb()
    report = benchmark_on_phone([file], binary, rounds=3)
    assert report.phone == "Pixel"
    ours, *references = report.latencies
    assert (ours.name, ours.turns) == (str(file), 3)
    assert ours.milliseconds == pytest.approx(0.2505)
    assert ours.ratio == pytest.approx(0.501)
    assert [one.name for one in references] == [*RESNET8]
    lines = log.read_text().splitlines()
    turns = [line for line in lines if "--num_threads" in line]
    assert len(turns) == 3 * 3
    assert "0.tflite" in turns[0]
    assert "0.tflite" in turns[3]
    # Else a turn lasts a second and a half, thousands of calls.
    for word in ("--num_runs=50", "--min_secs=0", "--warmup_min_secs=0"):
        assert all(word in turn.split() for turn in turns)
    assert lines[-1] == "shell rm -r /data/local/tmp/gnsmall"


def test_the_command_writes_a_report(adb, file, binary, tmp_path, capsys):
    adb()
    out = tmp_path / "phone.json"
    words = ["benchmark", file, "--adb", binary, "--rounds", "1", "--out", out]
    assert cli.main([*map(str, words)]) in (0, None)
    assert "Pixel, 1 thread(s)" in capsys.readouterr().out
    assert json.loads(out.read_text())["phone"] == "Pixel"


def test_files_of_one_name_are_told_apart(adb, file, binary, tmp_path, capsys):
    log = adb()
    other = tmp_path / "other" / file.name
    other.parent.mkdir()
    other.write_bytes(b"another network")
    words = ["benchmark", file, other, "--adb", binary, "--rounds", "1"]
    assert cli.main([*map(str, words)]) == 0
    printed = "".join(capsys.readouterr().out.split())
    assert "other/model.tflite" in printed.replace("│", "")
    pushed = [
        line.split()[1:]
        for line in log.read_text().splitlines()
        if line.startswith("push")
    ]
    folder = "/data/local/tmp/gnsmall"
    assert pushed[1:3] == [
        [str(file), f"{folder}/0.tflite"],
        [str(other), f"{folder}/1.tflite"],
    ]
    with pytest.raises(ValueError, match="each once"):
        benchmark_on_phone([file, file], binary)


@pytest.mark.parametrize(
    ("devices", "told"),
    [
        ("", "Received: none"),
        ("1234\\tunauthorized", "1234\tunauthorized"),
        ("1\\tdevice\\n2\\tdevice", "ANDROID_SERIAL"),
    ],
)
def test_one_phone_must_be_there(adb, file, binary, devices, told):
    adb(devices=devices)
    with pytest.raises(ValueError, match=told):
        benchmark_on_phone([file], binary)


def test_another_binary_is_refused(adb, file, binary):
    adb(told="Segmentation fault")
    with pytest.raises(ValueError, match="benchmark_model.*Segmentation fault"):
        benchmark_on_phone([file], binary)


def test_adb_is_named_where_it_is_missing(file, binary, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="apt-get install adb"):
        benchmark_on_phone([file], binary)


def test_what_is_of_this_machine_is_refused(file, binary, capsys):
    words = ["benchmark", file, "--adb", binary, "--profile"]
    assert cli.main([*map(str, words)]) == 2
    assert "--adb goes with" in capsys.readouterr().err


@pytest.mark.parametrize("counts", [{"rounds": 0}, {"threads": 0}])
def test_counts_are_checked(adb, file, binary, counts):
    adb()
    with pytest.raises(ValueError, match=r"must be >= 1 and <= 1024"):
        benchmark_on_phone([file], binary, **counts)
