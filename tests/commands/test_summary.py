"""Six lines at the end of a quickstart and of an export."""

import dataclasses
import json
import types
from pathlib import Path

import pytest
from support import ROOT

from gnsmall_keras import cli
from gnsmall_keras.commands import printing
from gnsmall_keras.commands.fit import print_fitted
from gnsmall_keras.export import tflite
from gnsmall_keras.models.catalogue import Size
from gnsmall_keras.models.saving import files
from gnsmall_keras.records.run import read_records
from gnsmall_keras.search.found import Entry, Fitted
from gnsmall_keras.training import run as training

pytestmark = pytest.mark.any_backend

NAMES = ["accuracy", "bytes", "arena", "file", "try it", "then"]


def _report(name, **changes):
    values = json.loads((ROOT / "tflite" / f"{name}.json").read_text("utf-8"))
    fields = {field.name for field in dataclasses.fields(tflite.ExportReport)}
    known = {key: values[key] for key in fields & {*values}}
    return tflite.ExportReport(**known | {"gzip_bytes": 0} | changes)


def _lines(text):
    return dict(line.split(":", 1) for line in text.strip().splitlines())


def test_a_microcontroller_s_file(capsys):
    report = _report("gns-w0.5-cifar10-micro")
    printing.print_summary(report, Path("a.tflite"), Path("runs/index.jsonl"))
    lines = _lines(capsys.readouterr().out)
    assert [*lines] == NAMES
    assert f"{100 * report.accuracy:.2f} % int8" in lines["accuracy"]
    assert "10,000" in lines["accuracy"]
    assert lines["bytes"].strip() == f"{report.size_bytes:,}"
    assert f"{report.arena_bytes:,} bytes" in lines["arena"]
    assert lines["file"].strip() == "a.tflite"
    assert "gnsmall classify a.tflite IMAGE" in lines["try it"]
    assert "gnsmall c-array a.tflite" in lines["then"]
    assert "gnsmall report --index runs/index.jsonl" in lines["then"]


def test_commands_of_paths_with_spaces_can_be_copied(capsys):
    report = _report("gns-w0.5-cifar10-micro")
    folder = Path("runs/fit-my photos")
    file = folder / "a.tflite"
    printing.print_summary(report, file, folder / "index.jsonl")
    lines = _lines(capsys.readouterr().out)
    assert lines["file"].strip() == f"{file}"
    assert f"gnsmall classify '{file}' IMAGE" in lines["try it"]
    assert f"gnsmall c-array '{file}' --out cpp" in lines["then"]
    assert "report --index 'runs/fit-my photos/index" in lines["then"]
    record = types.SimpleNamespace(
        validation_accuracy=0.9, validation_images=9, images=None
    )
    entry = Entry(
        size=Size("gns", 0.25),
        head_units=80,
        how="alone",
        record=record,
        report=report,
        path=file,
        misses="",
    )
    print_fitted(
        Fitted(
            folder=folder, entries=(entry,), missed=(), page=None, seconds=1.0
        )
    )
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"next: gnsmall c-array '{file}' --out '{folder}/cpp'"


def test_a_phone_s_file_outside_a_run(capsys):
    report = _report("gns-w1-cifar10-android", accuracy=None)
    printing.print_summary(report, Path("a.tflite"))
    lines = _lines(capsys.readouterr().out)
    assert [*lines] == NAMES
    assert "c-array" not in lines["then"]
    assert "report" not in lines["then"]


@pytest.mark.parametrize(
    "changes",
    [
        {"quantization": "float16"},
        {"quantization": "dynamic"},
        {"quantization": "int16x8"},
        {"arena_bytes": None},
    ],
)
def test_c_array_is_named_only_of_files_that_it_takes(changes, capsys):
    report = _report("gns-w0.5-cifar10-micro", **changes)
    printing.print_summary(report, Path("a.tflite"))
    lines = _lines(capsys.readouterr().out)
    assert "c-array" not in lines["then"]


@pytest.mark.parametrize("quantization", ["int16x8", "float32", "int8-qat"])
def test_classes_of_microcontrollers_are_of_files_that_c_array_takes(
    quantization, capsys
):
    report = _report("gns-w0.5-cifar10-micro", quantization=quantization)
    printing.print_summary(report, Path("a.tflite"))
    fits = "KB of flash" in _lines(capsys.readouterr().out)["arena"]
    assert fits == (quantization == "int8-qat")
    printing.print_export(report)
    words = " ".join(capsys.readouterr().out.split())
    assert ("KB of flash" in words) == fits
    assert ("none of our classes" in words) != fits


@pytest.mark.parametrize("details", [False, True])
def test_quickstart_ends_in_them(details, capsys, monkeypatch, tmp_path):
    record = next(read_records(ROOT / "papermill_runs/index.jsonl"))
    report = _report("gns-w0.5-cifar10-micro", faults=["too large"])
    monkeypatch.delenv("GNSMALL_DATA", raising=False)
    monkeypatch.setattr(training, "train", lambda *_, **__: record)
    monkeypatch.setattr(files, "load_model", lambda path: None)
    monkeypatch.setattr(tflite, "export_network", lambda *_, **__: report)
    options = ["--details"] if details else []
    assert cli.main(["quickstart", "--out", str(tmp_path), *options]) == 0
    captured = capsys.readouterr()
    assert [*_lines("\n".join(captured.out.splitlines()[-6:]))] == NAMES
    assert ("operators" in captured.out) == details
    assert captured.err == "gnsmall: warning: too large\n"


def test_a_run_s_name_is_whole_on_a_line(capsys):
    record = next(read_records(ROOT / "papermill_runs/index.jsonl"))
    name = "gns-w0.25-cifar10-long-e50-ensemble-kd-t4-l0.1-s1-abcdef"
    printing.print_record(dataclasses.replace(record, slug=name), Path("runs"))
    assert name in capsys.readouterr().out.splitlines()
