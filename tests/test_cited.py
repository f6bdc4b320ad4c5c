"""Cited records: each line has its source, and no line is made up."""

import json

import pytest
from support import ROOT

from gnsmall_keras.records.cited import CITED_FILE, CitedRecord, read_cited

FILE = ROOT / "gnsmall_keras" / "records" / CITED_FILE
ONE = {"kind": "cited", "schema": 1, "name": "a", "source": "b"}


def test_the_file_is_read_as_it_is_written():
    lines = FILE.read_text("utf-8").splitlines()
    assert [json.loads(one.to_json()) for one in read_cited()] == [
        {"runs": 1, **json.loads(line)} for line in lines
    ]


def test_every_number_of_ours_is_of_a_published_file():
    published = {
        json.loads(path.read_text("utf-8"))["sha256"]
        for path in (ROOT / "tflite").glob("*.json")
    }
    cited = {one.sha256 for one in read_cited() if one.sha256}
    assert cited <= published, "measured of files that are no longer published"


@pytest.mark.parametrize(
    "change",
    [
        {"source": " "},
        {"kind": "run"},
        {"schema": 2},
        {"accuracy": 0.9},
        {"int8_percent": 101},
        {"int8_percent": True},
        {"size_bytes": 0},
        {"size_bytes": 1.5},
        {"latencies": {"x": "fast"}},
        {"latencies": 2},
    ],
)
def test_what_cannot_be_is_refused(change):
    CitedRecord.from_json(json.dumps(ONE))
    with pytest.raises(ValueError, match="Received|Not what"):
        CitedRecord.from_json(json.dumps({**ONE, **change}))


def test_a_broken_line_is_named(tmp_path):
    path = tmp_path / "cited.jsonl"
    path.write_text(json.dumps(ONE) + "\n{\n")
    with pytest.raises(ValueError, match="line 2"):
        read_cited(path)
