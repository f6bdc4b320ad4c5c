"""One bad line costs nothing but itself."""

import json

import pytest

from gnsmall_keras.records import jsonl


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[" * 10**5 + "]" * 10**5, "nested too deeply"),
        ('{"a": ' * 10**5, "nested too deeply"),
        ('{"loss": NaN}', "NaN is no number of standard JSON"),
        ('{"loss": -Infinity}', "standard JSON"),
        ('{"loss": 1e999}', "standard JSON"),
        ('{"slug": "\\udcff"}', "text is not Unicode"),
        ("9" * 5000, "Not a JSON record"),
        ("3", "A record is a JSON object"),
    ],
)
def test_line_is_refused_by_its_number(tmp_path, text, told):
    path = tmp_path / "index.jsonl"
    path.write_text(f'{{"a": 1}}\n{text}\n{{"a": 2}}\n')
    first, bad, last = jsonl.scan_lines(path, jsonl.parse_object)
    assert (first, last) == ((1, {"a": 1}), (3, {"a": 2}))
    assert bad[0] == 2
    assert f"{path}, line 2: " in str(bad[1])
    assert told in str(bad[1])


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "index.jsonl"
    path.write_bytes(b'{"a": "\xff"}\n{"a": 2}')
    bad, last = jsonl.scan_lines(path, jsonl.parse_object)
    assert isinstance(bad[1], ValueError)
    assert last == (2, {"a": 2})


def test_endless_line_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "_MAX_LINE_BYTES", 100)
    path = tmp_path / "index.jsonl"
    lines = [json.dumps({"a": "x" * size}) for size in (10, 1000, 10)]
    path.write_text("\n".join(lines))
    numbers = [type(found) for _, found in jsonl.scan_lines(path, json.loads)]
    assert numbers == [dict, ValueError, dict]
