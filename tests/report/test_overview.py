"""The report in a notebook."""

import pytest

from gnsmall_keras import read_report
from gnsmall_keras.report.tables import escape_markdown


def test_tables_and_figures_show_themselves(make_record, write_index):
    report = read_report(write_index(make_record(0.6)))
    assert "60.00 (n=1)" in report.groups._repr_html_()
    assert report.differences._repr_html_() == "<p>None.</p>"
    image, metadata = report.drawings[0]._repr_png_()
    assert image.startswith(b"\x89PNG")
    assert metadata == {"width": 600}
    assert report.faults == []


def test_each_data_has_its_winner(make_record, write_index):
    digits = {"data": "digits", "record": {"data_digest": "digits"}}
    records = [
        make_record(0.9, 0.6, seed=1),
        make_record(0.5, 0.7, seed=2),
        make_record(0.1, 0.3, **digits),
        make_record(0.8, protocol="paper"),  # which says nothing to choose by
    ]
    report = read_report(write_index(*records))
    names = [row[0] for row in report.winners().rows]
    assert names == [records[1].slug, records[2].slug]
    assert report.winners(max_parameters=9).rows == []


def test_no_file_is_told():
    with pytest.raises(ValueError, match="No records at 'none.jsonl'"):
        read_report("none.jsonl")


def test_cells_of_markdown_are_shown_as_they_are():
    text = escape_markdown("[x](y) ~~b~~ __c__ head_units=3\nnext | cell")
    assert text == (r"\[x\](y) \~\~b\~\~ \_\_c\_\_ head_units=3 next \| cell")
