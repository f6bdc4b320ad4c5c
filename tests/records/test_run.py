"""Records that many processes write, and files of them that become one."""

import dataclasses
import json
import subprocess
import sys
import threading

import pytest
from support import ROOT

from gnsmall_keras import cli
from gnsmall_keras.records.jsonl import merge_records
from gnsmall_keras.records.run import (
    SCHEMA,
    RunRecord,
    append_record,
    read_records,
)

INDEX = ROOT / "papermill_runs" / "index.jsonl"
APPEND = """
import dataclasses, multiprocessing, sys
from gnsmall_keras.records.run import append_record, read_records

known, index = sys.argv[1:]
record = next(read_records(known))
fork = multiprocessing.get_context("fork")
together = fork.Barrier(50)

def append(number):
    together.wait()
    append_record(dataclasses.replace(record, digest=str(number)), index)

processes = [fork.Process(target=append, args=(n,)) for n in range(50)]
for process in processes:
    process.start()
for process in processes:
    process.join()
"""


@pytest.fixture
def records():
    return list(read_records(INDEX))


def _write(path, records):
    for record in records:
        append_record(record, path)
    return path


def test_fifty_processes_at_once_leave_fifty_records(tmp_path):
    index = tmp_path / "index.jsonl"
    subprocess.run([sys.executable, "-c", APPEND, INDEX, index], check=True)
    found = {record.digest for record in read_records(index)}
    assert found == {str(number) for number in range(50)}
    assert index.read_bytes().count(b"\n") == 50


def test_a_merge_has_each_run_once(tmp_path, records):
    first = _write(tmp_path / "a.jsonl", records[:3])
    second = _write(tmp_path / "b.jsonl", records[1:5])
    merged = merge_records([first, second], first, parse=RunRecord.from_json)
    assert merged == (5, 2, [], [])
    assert list(read_records(first)) == records[:5]
    assert {path.name for path in tmp_path.iterdir()} == {"a.jsonl", "b.jsonl"}


def test_a_merge_keeps_a_file_that_it_does_not_read(tmp_path, records, capsys):
    first = _write(tmp_path / "a.jsonl", records[:3])
    second = _write(tmp_path / "b.jsonl", records[1:5])
    before = first.read_bytes()
    command = ["records", "merge", str(second), "--out", str(first)]
    assert cli.main(command) == 2
    told = capsys.readouterr().err
    assert f"Received: {first}, which is there. Name it before" in told
    assert told.count("\n") == 1
    assert first.read_bytes() == before
    command[2:2] = [f"{tmp_path}/../{tmp_path.name}/a.jsonl"]
    assert cli.main(command) == 0
    assert list(read_records(first)) == records[:5]


def test_a_merge_into_a_file_keeps_its_lines_of_a_newer_schema(
    tmp_path, records, capsys
):
    first = _write(tmp_path / "a.jsonl", records[:2])
    second = _write(tmp_path / "b.jsonl", records[1:3])
    newer = json.loads(records[3].to_json()) | {"schema": SCHEMA + 1}
    with second.open("a") as file:
        file.write(json.dumps(newer) + "\n")
    before = second.read_bytes()
    both = ["records", "merge", str(first), str(second), "--out"]
    assert cli.main([*both, str(second)]) == 2
    told = capsys.readouterr().err
    assert f"would delete what is no record there. {second}, line 3" in told
    assert "pip install -U" in told
    assert second.read_bytes() == before
    assert cli.main([*both, str(first)]) == 1  # `second` stays as it is
    assert list(read_records(first)) == records[:3]


def test_what_is_appended_during_a_merge_stays(tmp_path, records):
    index = _write(tmp_path / "a.jsonl", records[:2])
    append = threading.Thread(target=append_record, args=(records[2], index))

    def parse(line):
        if not append.ident:
            append.start()
            append.join(0.5)  # it waits for the merge
        return RunRecord.from_json(line)

    merge_records([index], index, parse=parse)
    append.join()
    assert list(read_records(index)) == records[:3]


def test_a_merge_names_damaged_lines_and_keeps_the_rest(tmp_path, records):
    damaged = tmp_path / "damaged.jsonl"
    old = json.loads(records[1].to_json()) | {"schema": 1}
    lines = [
        records[0].to_json().encode(),
        b'{"slug": "gns',
        b"\xff\xfe",
        json.dumps(old).encode(),
        records[2].to_json().encode(),
    ]
    damaged.write_bytes(b"\n".join(lines))
    merged = merge_records(
        [damaged], tmp_path / "new" / "index.jsonl", parse=RunRecord.from_json
    )
    assert merged.records == 2
    places = [fault.split(": ")[0] for fault in merged.faults]
    assert places == [f"{damaged}, line {number}" for number in (2, 3, 4)]
    assert "schema must be 2 to 4" in merged.faults[2]


def test_the_command_counts_and_ends_with_1_where_lines_are_damaged(
    tmp_path, records, capsys
):
    good = _write(tmp_path / "good.jsonl", records)
    out = tmp_path / "out.jsonl"
    arguments = ["records", "merge", str(good), str(good), "--out", str(out)]
    assert cli.main(arguments) == 0
    assert f"{len(records)} records, {len(records)} repeated" in (
        capsys.readouterr().out
    )
    good.write_text("no record\n")
    out.unlink()
    assert cli.main(arguments) == 1
    captured = capsys.readouterr()
    assert f"{good}, line 1: Not a JSON record" in captured.err


def test_the_command_names_repeated_lines_that_differ(
    tmp_path, records, capsys
):
    other = dataclasses.replace(records[1], test_accuracy=0.123)
    first = _write(tmp_path / "a.jsonl", records[:2])
    second = _write(tmp_path / "b.jsonl", [records[0], other, records[2]])
    out = tmp_path / "out.jsonl"
    command = ["records", "merge", str(first), str(second), "--out", str(out)]
    assert cli.main(command) == 0
    captured = capsys.readouterr()
    assert "3 records, 2 repeated" in captured.out
    (warning,) = captured.err.splitlines()
    assert f"{second}, line 2: {other.key} is left out" in warning
    assert list(read_records(out)) == records[:3]


def test_a_merge_of_a_missing_file_writes_nothing(tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    arguments = ["records", "merge", str(tmp_path / "none"), "--out", str(out)]
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize("schema", [1, SCHEMA + 1, "3", None, [3]])
def test_another_schema_is_refused(records, schema):
    values = json.loads(records[0].to_json()) | {"schema": schema}
    cure = "newer version" if schema == SCHEMA + 1 else r"\.$"
    with pytest.raises(ValueError, match=f"schema must be 2 to 4.*{cure}"):
        RunRecord.from_json(json.dumps(values))


def test_a_record_of_an_older_schema_stays_as_it_was_written(records):
    """The committed lines, of which the first are of schema 2."""
    assert records[0].schema == 2
    assert records[0].test_predictions is None
    lines = INDEX.read_text().splitlines()
    assert [record.to_json() for record in records] == lines


def test_a_line_has_exactly_the_fields_of_its_schema(records):
    values = json.loads(records[0].to_json())
    for schema, found in ((2, {"test_predictions": None}), (3, {})):
        line = json.dumps({**values, **found, "schema": schema})
        with pytest.raises(ValueError, match=f"of schema {schema}.*_predict"):
            RunRecord.from_json(line)
    for schema, young in (
        (3, {"test_predictions": {"worst": []}}),
        (4, {"test_predictions": None, "images": {"notes": []}}),
    ):
        new = {**values, "schema": schema, **young}
        read = RunRecord.from_json(json.dumps(new))
        assert json.loads(read.to_json()) == new


def test_runs_that_were_done_again_are_apart():
    repeats = [*read_records(INDEX.with_name("repeats.jsonl"))]
    assert repeats
    kept = {record.key for record in read_records(INDEX)}
    assert kept.isdisjoint(record.key for record in repeats)


def test_a_record_names_the_commits_of_all_sessions(records):
    (one, *_) = records
    assert one.commits == [one.commit]
    sessions = [{"commit": "a", "started_at": "then"}, {"processor": "old"}]
    stages = [{"name": "older"}, {"sessions": sessions}]
    found = dataclasses.replace(
        one,
        hardware={"before": [{"commit": "b"}, {"commit": "a"}]},
        distillation={"teachers": [], "stages": stages},
    )
    assert found.commits == ["a", "b", one.commit]
