"""Every line of a file of records is read or told of."""

import copy
import dataclasses
import json

import pytest
from support import ROOT

from gnsmall_keras.records.run import read_records
from gnsmall_keras.report.pages.build import write_report
from gnsmall_keras.report.pages.markdown import RESULTS
from gnsmall_keras.report.reading import read_runs


def test_all_real_records_are_read():
    index = ROOT / "papermill_runs/index.jsonl"
    reading = read_runs(index)
    assert reading.faults == []
    assert [run.record for run in reading.runs] == [*read_records(index)]


def test_broken_lines_are_told_of_with_their_numbers(make_record, tmp_path):
    good = make_record(0.6).to_json().encode()
    index = tmp_path / "index.jsonl"
    lines = [good, b"", good[:90], b"\xff\xfe", b"[1]", b"{}", good]
    index.write_bytes(b"\n".join(lines) + b"\n")
    runs, faults, *_ = read_runs(index)
    assert [run.line for run in runs] == [1, 7]
    assert [fault.split(":")[0] for fault in faults] == [
        f"index.jsonl, line {number}" for number in (2, 3, 4, 5, 6)
    ]
    assert "empty" in faults[0]
    assert all("\n" not in fault for fault in faults)


def test_a_fault_is_short(tmp_path):
    index = tmp_path / "index.jsonl"
    index.write_text(json.dumps(["x" * 10_000]))
    assert len(read_runs(index).faults[0]) < 300


def test_an_empty_file_has_no_runs(tmp_path):
    index = tmp_path / "index.jsonl"
    index.write_text("")
    assert read_runs(index) == ([], [], [], [], [], ())


@pytest.mark.usefixtures("no_figures")
def test_runs_that_a_sweep_lost_are_named(make_record, write_index, tmp_path):
    done, lost = make_record(0.6), make_record(0.6, seed=1)
    index = write_index(done)
    errors = {done.slug: "no memory", lost.slug: "ValueError: NaN or inf\nat"}
    failures = [
        json.dumps({"slug": slug, "error": error})
        for slug, error in errors.items()
    ]
    text = "\n".join([*failures, failures[-1], "{}", ""])
    index.with_name("failed.jsonl").write_text(text)
    reading = read_runs(index)
    (line,) = reading.failed
    assert line.startswith(f"{lost.slug} has failed: ValueError: NaN or inf")
    assert "\n" not in line
    (fault,) = reading.faults
    assert fault.startswith("failed.jsonl, line 4:")
    page = tmp_path / "report.html"
    write_report(reading, name="index.jsonl", out=page)
    assert line in page.read_text()


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="No records at .*none.jsonl"):
        read_runs(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("config", 3),
        ("recipe", []),
        ("data_digest", None),
        ("test_accuracy", "0.6"),
        ("test_accuracy", float("nan")),
        ("validation_accuracy", 63.9),
        ("deployed_macs", -1),
        ("history", {"val_accuracy": ["a"]}),
        ("distillation", {"teachers": [{"name": "t"}]}),
        ("config.seed", "0"),
        ("config.width", float("inf")),
        ("config.width", 10**400),
        ("config.protocol", "mine"),
        ("config.teachers", "t"),
        ("config.strategy", None),
        ("recipe.epochs", 0),
    ],
)
def test_values_that_no_run_writes_are_told_of(
    make_record, write_index, name, value
):
    record = make_record(0.6, strategy="kd", teachers=("t.keras",))
    outer, _, inner = name.partition(".")
    if inner:
        value = {**getattr(record, outer), inner: value}
    broken = dataclasses.replace(record, **{outer: value})
    runs, faults, *_ = read_runs(write_index(record, broken))
    assert len(runs) == 1
    assert len(faults) == 1
    assert name in faults[0] or "no number of standard JSON" in faults[0]


@pytest.mark.parametrize("bits", [None, "zz", "", "ff" * 45])
def test_bits_that_are_not_of_the_confusion_are_told_of(
    make_record, write_index, predict, bits
):
    record, _, _ = predict(make_record(0.6))
    kept = {**record.test_predictions, "correct": bits}
    if bits is None:
        del kept["correct"]
    broken = dataclasses.replace(record, test_predictions=kept)
    (fault,) = read_runs(write_index(record, broken)).faults
    assert "test_predictions.correct" in fault


def test_whatever_a_record_holds_the_results_are_made(
    make_record, write_index, tmp_path
):
    record = make_record(0.6, strategy="kd", teachers=("t.keras",))
    values = json.loads(record.to_json())
    index = tmp_path / "index.jsonl"
    lines = []
    for outer, inner in values.items():
        names = [None, *(inner if isinstance(inner, dict) else ())]
        for name in names:
            for odd in (None, -1, 1e400, "<&|`$\n", ["a", 1], {"a": {}}, True):
                changed = copy.deepcopy(values)
                if name is None:
                    changed[outer] = odd
                else:
                    changed[outer][name] = odd
                lines.append(json.dumps(changed))
    index.write_text("\n".join(lines))
    reading = read_runs(index)
    assert len(reading.runs) + len(reading.faults) == len(lines)
    readme = tmp_path / "README.md"
    readme.write_text("\n".join([*RESULTS, ""]))
    write_report(reading, name="index.jsonl", readme=readme)
