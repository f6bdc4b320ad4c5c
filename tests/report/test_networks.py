"""README's table and figure are of records alone."""

import functools
import json
import re
from xml.etree import ElementTree

import pytest
from support import ROOT

from gnsmall_keras import cli
from gnsmall_keras.recipes import DEMONSTRATION_EPOCHS
from gnsmall_keras.records.cited import CitedRecord, read_cited
from gnsmall_keras.report.figures.drawing import render
from gnsmall_keras.report.figures.networks import draw_networks
from gnsmall_keras.report.networks import (
    CITED,
    _latencies,
    describe_networks,
    find_networks,
    tabulate_networks,
)
from gnsmall_keras.report.pages.markdown import BOARD, NETWORKS, insert_results
from gnsmall_keras.report.pages.networks import make_board, make_networks
from gnsmall_keras.report.reading import Reading, Run, read_runs

README = ROOT / "README.md"
TFLITE = ROOT / "tflite"


@pytest.fixture(scope="module")
def networks():
    reading = read_runs(ROOT / "papermill_runs/index.jsonl")
    return find_networks(TFLITE, reading, read_cited())


def test_the_readme_has_what_the_records_say(networks):
    drawing = draw_networks(networks)
    text = make_networks(networks, drawing.alt, drawing.caption)
    readme = README.read_text("utf-8")
    expected = insert_results(readme, text, where=README, marks=NETWORKS)
    assert readme == expected, "call: make results"


def test_every_published_file_is_shown_or_told_of(networks):
    files = {path.stem for path in TFLITE.glob("*.tflite")}
    found = [*networks.ours, *networks.demonstrations]
    assert {one.file.removesuffix(".tflite") for one in found} == files
    assert all(one.epochs >= DEMONSTRATION_EPOCHS for one in networks.ours)
    told = " ".join(describe_networks(networks))
    assert all(one.name in told for one in networks.demonstrations)


def test_the_table_has_the_reports_numbers(networks):
    table = tabulate_networks(networks)
    rows = {row[0]: row for row in table.rows}
    assert {"MLPerf Tiny IC1", "MLPerf Tiny IC2"} <= rows.keys()
    for one in networks.ours:
        report = json.loads(
            (TFLITE / one.file).with_suffix(".json").read_text()
        )
        row = rows[f"{one.name} (this package)"]
        assert row[1] == f"{100 * report['accuracy']:.2f}"
        assert row[2] == f"{report['size_bytes']:,}"


def test_where_it_loses_is_told(networks):
    """A time that is longer is beside what is less."""
    slower = {"Some processor": 1.95}
    ours = [one._replace(latencies=slower) for one in networks.ours]
    told = describe_networks(networks._replace(ours=ours))[0]
    assert "1.95x the latency" in told
    shares = [float(x) for x in re.findall(r"(\d\.\d\d)x the", told)]
    assert any(share > 1 for share in shares)
    assert any(share < 1 for share in shares)


@pytest.mark.parametrize(
    ("operators", "head", "ratio", "older"),
    [
        (165, None, 0.5, "a head of 1,280, now 640"),
        (165, 640, 0.5, "of the same operators"),
        (165, 320, None, ""),
        (177, 640, 0.5, "177 operators, now 165"),
        (131, None, None, ""),
    ],
)
def test_latencies_are_of_no_faster_file(
    make_record, make_export, operators, head, ratio, older
):
    record = make_record(0.6)
    made = functools.partial(make_export, record)
    ops = {"CONV_2D": operators}
    before = made(300_000, latency=0.5, ops=ops, head_units=head)
    export = made(310_000, ops={"CONV_2D": 165}, head_units=640)
    found, noted = _latencies(export, [before, export], [])
    assert found.get("a processor") == ratio
    assert noted == ({"a processor": older} if older else {})


@pytest.mark.parametrize(
    "theme", ["light", pytest.param("dark", marks=pytest.mark.slow)]
)
def test_the_figure_names_all_of_ours_and_is_the_same_again(networks, theme):
    drawing = draw_networks(networks, theme)
    svg = render(drawing, "svg")
    ElementTree.fromstring(svg)
    assert svg == render(draw_networks(networks, theme), "svg")
    for axes in drawing.figure.axes:
        names = {text.get_text() for text in axes.texts}
        assert {one.name for one in networks.ours if one.target == "micro"} <= (
            names
        )


def test_peers_that_beat_ours_are_in_the_figure(networks):
    best = max(one.int8 for one in networks.ours)
    better = {
        one.name
        for one in networks.peers
        if (one.float or 0) > best
        and (one.parameters or 0) <= 1e6
        and (one.macs or 0) <= 1.5e8
    }
    assert better
    for axes in draw_networks(networks).figure.axes:
        assert better - {text.get_text() for text in axes.texts} <= {
            "MobileNetV2 x0.75"
        }


def test_a_file_without_records_is_an_error(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"sha256": "0"}))
    with pytest.raises(ValueError, match="a.json, whose file has none"):
        find_networks(tmp_path, Reading([], [], [], [], []), [])
    with pytest.raises(ValueError, match="--published"):
        find_networks(tmp_path / "none", Reading([], [], [], [], []), [])


@pytest.mark.parametrize("other", ['{"slug": "a"}', "[]", "3", "null"])
def test_other_json_files_are_no_reports(networks, tmp_path, other):
    """Such as record.json, where the files are in the folder of a run."""
    reading = read_runs(ROOT / "papermill_runs/index.jsonl")
    name = f"{networks.ours[0].file.removesuffix('.tflite')}.json"
    (tmp_path / "record.json").write_text(other)
    with pytest.raises(ValueError, match="without a report"):
        find_networks(tmp_path, reading, [])
    (tmp_path / name).write_bytes((TFLITE / name).read_bytes())
    found = find_networks(tmp_path, reading, [])
    assert [one.name for one in found.ours] == [networks.ours[0].name]


def test_a_damaged_report_is_named(tmp_path):
    (tmp_path / "a.json").write_text('{"sha256"')
    with pytest.raises(ValueError, match=r"report is JSON.*a\.json"):
        find_networks(tmp_path, Reading([], [], [], [], []), [])


def test_a_file_that_was_not_measured_is_an_error(
    tmp_path, make_record, make_export
):
    record = make_record(0.6)
    none = {"accuracy": None, "float_accuracy": None, "evaluated_images": 0}
    export = make_export(record, 300_000, **none)
    (tmp_path / "a.json").write_text(json.dumps({"sha256": export.sha256}))
    reading = Reading([Run(1, record)], [], [export], [], [])
    with pytest.raises(ValueError, match=r"a.json, .* on no test images"):
        find_networks(tmp_path, reading, [])


def test_cited_values_are_of_the_file_with_their_digest(networks):
    """Not of a file of the same name that was made again."""
    reading = read_runs(ROOT / "papermill_runs/index.jsonl")
    other = CitedRecord(name="x", source="y", sha256="0", instructions=5)
    found = find_networks(TFLITE, reading, [other])
    assert all(one.instructions is None for one in found.ours)


def test_the_command_writes_a_page(tmp_path, capsys):
    page = tmp_path / "PAGE.md"
    page.write_text("\n".join(["# A", *NETWORKS, "Z", ""]))
    index, files = ROOT / "papermill_runs/index.jsonl", TFLITE
    arguments = ["--index", str(index), "--published", str(files)]
    assert cli.main(["report", *arguments, "--networks", str(page)]) == 0
    text = page.read_text("utf-8")
    assert text.startswith("# A\n")
    assert text.endswith("Z\n")
    for name in re.findall(r'(?:src|srcset)="([^"]+)"', text):
        assert (tmp_path / name).is_file()
    page.write_text("nothing")
    assert cli.main(["report", *arguments, "--networks", str(page)]) == 2
    assert "PAGE.md" in capsys.readouterr().err


def test_the_board_has_what_the_records_say(networks):
    drawing = draw_networks(networks)
    text = make_board(networks, drawing.alt, drawing.caption)
    page = ROOT / "docs/board.md"
    written = page.read_text("utf-8")
    expected = insert_results(written, text, where=page, marks=BOARD)
    assert written == expected, "call: make results"


def test_the_board_has_every_int8_file_and_whose_numbers_they_are(networks):
    table = tabulate_networks(networks, board=True)
    rows = {row[0]: row for row in table.rows}
    cited = {one.name for one in read_cited() if one.int8_percent}
    assert {name for name, row in rows.items() if row[-1] == CITED} == cited
    measured = {f"{one.name} (this package)" for one in networks.ours}
    assert rows.keys() - cited == measured
    assert all(one.operators for one in networks.ours)
