"""Records of exported files: where they come from, and what is added."""

import dataclasses
import json

import keras
import pytest
from support import ROOT

from gnsmall_keras import cli
from gnsmall_keras.data.sources import load_data
from gnsmall_keras.export import tflite
from gnsmall_keras.models.saving.files import save_model
from gnsmall_keras.records import export as exports
from gnsmall_keras.records.export import ExportRecord, LatencyRecord, find_run
from gnsmall_keras.records.jsonl import merge_records, scan_lines
from gnsmall_keras.records.run import RunRecord, read_records

RUN: RunRecord = next(read_records(ROOT / "papermill_runs" / "index.jsonl"))
LATENCY = LatencyRecord(
    runtime="litert",
    threads=1,
    median_ms=0.2,
    p90_ms=0.3,
    ratio=0.8,
    hardware={"processor": "a processor"},
    measured_at="2026-11-24T00:00:00+00:00",
)


def _append(path, sha256):
    source = exports.describe_source(RUN)
    exports.append_export({"sha256": sha256, "source": source}, path)


def _read(path):
    return [found for _, found in scan_lines(path, ExportRecord.from_json)]


@pytest.fixture
def run_folder(tmp_path):
    """The folder of a run, as training leaves it."""
    folder = tmp_path / "runs" / RUN.slug
    folder.mkdir(parents=True)
    record = dataclasses.replace(RUN, data_digest=load_data("digits").digest)
    (folder / "record.json").write_text(record.to_json())
    images = keras.Input((32, 32, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(images)
    network = keras.Model(images, keras.layers.Dense(10)(pooled))
    save_model(network, folder / "model.keras")
    return folder


def _report(path, source):
    """What an export of nothing would report."""
    values = dict.fromkeys(
        (field.name for field in dataclasses.fields(tflite.ExportReport)), 0
    )
    values |= {"path": path.name, "source": source, "sha256": "ab"}
    values |= {"ops": {}, "dtypes": {}, "faults": [], "versions": {}}
    return tflite.ExportReport(**values)


def test_the_command_records_a_file_of_a_run(
    run_folder, tmp_path, monkeypatch, capsys
):
    def pretend(model, path, *, source, **options):
        return _report(path, source)

    monkeypatch.setattr(tflite, "export_tflite", pretend)
    monkeypatch.chdir(run_folder)  # a relative path has its folder as well
    assert cli.main(["export", "model.keras", "--data", "digits"]) == 0
    (record,) = _read(tmp_path / "runs/exports.jsonl")
    assert record.run_key == RUN.key
    assert record.source["seed"] == RUN.config["seed"]
    assert record.source["deployed_parameters"] == RUN.deployed_parameters
    assert record.latency is None

    other = tmp_path / "model.keras"  # outside a run's folder
    other.write_bytes((run_folder / "model.keras").read_bytes())
    assert cli.main(["export", str(other), "--data", "digits"]) == 0
    assert not (tmp_path.parent / "exports.jsonl").exists()
    printed = capsys.readouterr().out.splitlines()
    assert printed[-3] == f"file:     {tmp_path / 'model.tflite'}"


def test_a_file_of_another_kind_that_is_replaced_is_named(
    run_folder, monkeypatch, capsys
):
    def pretend(model, path, *, source, **options):
        return _report(path, source)

    monkeypatch.setattr(tflite, "export_tflite", pretend)
    published = ROOT / "tflite/gns-w0.25-h320-cifar10-micro.tflite"
    for suffix in (".tflite", ".json"):
        data = published.with_suffix(suffix).read_bytes()
        (run_folder / f"model{suffix}").write_bytes(data)
    command = ["export", str(run_folder / "model.keras"), "--data", "digits"]
    said = "was int8 for micro before; --out keeps both files"
    assert cli.main([*command, "--target", "micro"]) == 0
    assert said not in capsys.readouterr().err
    assert cli.main([*command, "--target", "android"]) == 0
    assert said in capsys.readouterr().err


def test_images_of_another_run_are_refused(run_folder, capsys):
    (run_folder / "record.json").write_text(RUN.to_json())
    model = str(run_folder / "model.keras")
    assert cli.main(["export", model, "--data", "digits"]) == 2
    assert "Give --data cifar10, or copy" in capsys.readouterr().err


def test_layers_are_compared_of_int8_files_alone(tmp_path, capsys):
    model = str(tmp_path / "model.keras")
    arguments = ["export", model, "--data", "digits", "--layer-errors"]
    assert cli.main([*arguments, "--quantization", "float16"]) == 2
    assert "compare an int8 file" in capsys.readouterr().err


def test_records_of_files_of_no_run_are_refused(tmp_path, capsys):
    model, lines = str(tmp_path / "m.keras"), str(tmp_path / "e.jsonl")
    arguments = ["export", model, "--data", "digits", "--exports", lines]
    assert cli.main(arguments) == 2
    assert "without record.json beside it" in capsys.readouterr().err


def test_a_damaged_record_beside_a_model_is_named(tmp_path):
    (tmp_path / "record.json").write_text("{")
    with pytest.raises(ValueError, match=r"record\.json is not the record"):
        find_run(tmp_path / "model.keras")


def test_a_latency_is_appended_to_what_is_known(tmp_path):
    path = tmp_path / "exports.jsonl"
    _append(path, "ab")
    _append(path, "cd")
    exports.append_latency(path, "ab", LATENCY)
    first, _, timed = _read(path)
    assert timed == dataclasses.replace(
        first, latency=dataclasses.asdict(LATENCY)
    )
    with pytest.raises(ValueError, match="no record of the file"):
        exports.append_latency(path, "ef", LATENCY)


def test_files_of_exports_are_merged(tmp_path, capsys):
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    _append(first, "ab")
    second.write_text(first.read_text() + "{}\n")
    _append(second, "cd")
    out = tmp_path / "out.jsonl"
    arguments = [str(first), str(second), "--out", str(out)]
    assert cli.main(["records", "merge-exports", *arguments]) == 1
    captured = capsys.readouterr()
    assert "2 records, 1 repeated and 1 damaged" in captured.out
    assert "b.jsonl, line 2" in captured.err
    assert [record.sha256 for record in _read(out)] == ["ab", "cd"]
    # Which are not of runs.
    other = tmp_path / "other.jsonl"
    assert merge_records([first], other, parse=RunRecord.from_json).faults


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schema": 2}, "schema must be 1"),
        ({"when": 1}, r"unknown: \['when'\]"),
        ({"report": {"sha256": "ab"}}, "Missing: 'source'"),
        ({"report": {"sha256": "ab", "source": None}}, "names its run"),
        ({"report": 3}, "names its run"),
    ],
)
def test_lines_that_are_no_records_of_files_are_refused(
    tmp_path, values, message
):
    _append(tmp_path / "e.jsonl", "ab")
    line = json.loads((tmp_path / "e.jsonl").read_text()) | values
    with pytest.raises(ValueError, match=message):
        ExportRecord.from_json(json.dumps(line))


def test_an_export_that_repeats_the_last_one_leaves_one_record(tmp_path):
    path = tmp_path / "exports.jsonl"
    _append(path, "ab")
    _append(path, "ab")
    assert len(_read(path)) == 1
    exports.append_latency(path, "ab", LATENCY)
    _append(path, "ab")
    assert [one.latency is None for one in _read(path)] == [True, False]
    _append(path, "cd")
    assert len(_read(path)) == 3
