"""The page, the figures and the README's results."""

import dataclasses
import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
from scipy import stats
from support import ROOT

from gnsmall_keras import cli
from gnsmall_keras.report import tables
from gnsmall_keras.report.figures.drawing import render
from gnsmall_keras.report.figures.fronts import find_front
from gnsmall_keras.report.figures.overview import draw_all
from gnsmall_keras.report.groups import group_runs
from gnsmall_keras.report.pages.build import make_results, write_report
from gnsmall_keras.report.pages.markdown import RESULTS, insert_results
from gnsmall_keras.report.published import find_peers
from gnsmall_keras.report.reading import read_runs

INDEX = ROOT / "papermill_runs/index.jsonl"
BEGIN, END = RESULTS
EVIL = "<script>alert(1)</script>$x|`"


class _Page(HTMLParser):
    """Tags with their attributes, and the tables' rows."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


@pytest.fixture(scope="module")
def some_runs():
    """The last: a page of all is drawn for a quarter of a minute."""
    reading = read_runs(INDEX)
    return reading._replace(runs=reading.runs[-12:])


@pytest.fixture(scope="module")
def real(some_runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "report.html"
    write_report(some_runs, name="index.jsonl", out=out)
    return out.read_text(encoding="utf-8")


def test_the_page_asks_for_nothing(real):
    for tag, attributes in _Page(real).tags:
        assert tag not in ("iframe", "object", "base", "form")
        for name in ("src", "href", "srcset", "data"):
            assert attributes.get(name, "data:").startswith("data:")
    assert "default-src 'none'" in real
    assert "url(" not in real
    assert "@import" not in real


def test_every_figure_has_words_for_those_who_cannot_see_it(real):
    images = [
        attributes for tag, attributes in _Page(real).tags if tag == "img"
    ]
    assert len(images) >= 5
    assert all(len(image["alt"]) > 80 for image in images)


def test_every_run_is_in_the_page_with_its_accuracies(some_runs, real):
    rows = [row for row in _Page(real).rows if row]
    for run in some_runs.runs:  # one that was repeated has several rows
        record = run.record
        accuracies = [record.test_accuracy]
        if record.config["protocol"] == "paper":
            accuracies.append(record.best_test_accuracy)
        else:
            accuracies.append(record.validation_accuracy)
        cells = {record.slug, *(f"{100 * one:.2f}" for one in accuracies)}
        assert any(cells <= {*row} for row in rows)


@pytest.mark.usefixtures("no_figures")
def test_the_pages_means_and_differences_are_the_records(
    make_record, write_index, tmp_path
):
    taught = {"strategy": "kd", "teachers": ("t.keras",)}
    tests = {
        "baseline": (0.6012, 0.6134, 0.6098),
        "kd": (0.6111, 0.6120, 0.6243),
    }
    index = write_index(
        *(
            make_record(test, seed=seed, **(taught if how == "kd" else {}))
            for how, values in tests.items()
            for seed, test in enumerate(values)
        )
    )
    out = tmp_path / "report.html"
    write_report(read_runs(index), name="index.jsonl", out=out)
    cells = [cell for row in _Page(out.read_text()).rows for cell in row]
    found = {"baseline": [], "kd": []}
    for line in index.read_text().splitlines():
        record = json.loads(line)
        how = record["config"].get("strategy", "baseline")
        found[how].append(100 * record["test_accuracy"])
    for values in found.values():
        mean, deviation = np.mean(values), np.std(values, ddof=1)
        assert f"{mean:.2f} ± {deviation:.2f} (n=3)" in cells
    pairs = np.subtract(found["kd"], found["baseline"])
    interval = stats.ttest_1samp(pairs, 0).confidence_interval(0.95)
    assert (
        f"{pairs.mean():+.2f} ± {pairs.std(ddof=1):.2f}, 95 %: "
        f"{interval.low:+.2f} to {interval.high:+.2f} (n=3)"
    ) in cells


def test_no_row_mixes_protocols(make_record, runs_of):
    groups = group_runs(
        runs_of(make_record(0.6), make_record(0.7, protocol="paper"))
    )
    table = tables.tabulate_groups(groups)
    cells = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    assert [cell["protocol"] for cell in cells] == ["validation", "paper"]
    assert cells[0]["best epoch on test, %"] == "-"
    assert cells[1]["best epoch on test, %"] == "71.00 (n=1)"
    assert cells[1]["validation, %"] == "-"


def test_numbers_are_shown_with_n_deviation_and_interval(make_record, runs_of):
    taught = {"strategy": "kd", "teachers": ("t.keras",)}
    records = [
        *(make_record(test, seed=i) for i, test in enumerate((0.60, 0.61))),
        *(
            make_record(test, seed=i, **taught)
            for i, test in enumerate((0.61, 0.63))
        ),
    ]
    text = make_results(group_runs(runs_of(*records)), 4, "index.jsonl")
    assert "| 60.50 ± 0.71 (n=2) |" in text
    # 1 and 2 points: 1.5 +- 12.706 * 0.7071 / sqrt(2)
    assert "| +1.50 ± 0.71, 95 %: -4.85 to +7.85 (n=2) |" in text
    assert "3 (demonstration)" in text
    assert "(t-test" not in text  # docs/study.md corrects, for what it asks


def test_a_readme_has_a_row_for_each_way_of_training(make_record, runs_of):
    """A strategy as its difference, or where it has none as it is."""
    taught = make_record(0.6, strategy="kd", teachers=("t.keras",))
    both = runs_of(make_record(0.5), taught)
    text = make_results(group_runs(both), 2, "index.jsonl")
    assert text.count("| cifar10 |") == 2
    assert "+10.00" in text
    assert "60.00" not in text
    alone = make_results(group_runs(both[1:]), 1, "index.jsonl")
    assert "| 60.00 (n=1) |" in alone
    assert alone.count("| cifar10 |") == 1


def test_the_results_are_what_the_records_say():
    reading = read_runs(INDEX)
    results = make_results(
        group_runs(reading.runs),
        len(reading.runs),
        "papermill_runs/index.jsonl",
    )
    where = ROOT / "docs/results.md"
    page = where.read_text(encoding="utf-8")
    assert insert_results(page, results, where=where) == page, (
        "call: make results"
    )


@pytest.mark.parametrize("text", ["", BEGIN, END + BEGIN, 2 * (BEGIN + END)])
def test_a_readme_without_its_comments_stays(tmp_path, text):
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(ValueError, match="README.md"):
        write_report(read_runs(INDEX), name="index.jsonl", readme=readme)
    assert readme.read_text() == text
    assert [*tmp_path.iterdir()] == [readme]


def test_the_rest_of_a_readme_stays(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_bytes(f"# A\r\n{BEGIN}old{END}\r\nZ".encode())
    write_report(read_runs(INDEX), name="index.jsonl", readme=readme)
    content = readme.read_bytes()
    assert content.startswith(f"# A\r\n{BEGIN}\n\nFrom".encode())
    assert content.endswith(f"{END}\r\nZ".encode())
    assert b"old" not in content


def test_texts_of_records_stay_texts(make_record, runs_of, tmp_path):
    record = make_record(
        0.6, strategy="kd", teachers=(f"{EVIL}.keras",), record={"commit": EVIL}
    )
    record.config["data"] = f"/../{EVIL}"
    index = tmp_path / "index.jsonl"
    index.write_text(f"{record.to_json()}\n{EVIL}\n")
    out = tmp_path / "report.html"
    reading = read_runs(index)
    write_report(reading, name=EVIL, out=out, figures=tmp_path / "figures")
    text = out.read_text()
    assert "<script>alert" not in text
    assert text.count("<script>") == 1
    assert "&lt;script&gt;alert" in text
    files = [*(tmp_path / "figures").iterdir()]
    assert {file.suffix for file in files} == {".png", ".svg"}
    assert "<script>" not in make_results(group_runs(reading.runs), 1, "x")


def test_figures_are_the_same_for_the_same_records(make_record, runs_of):
    groups = group_runs(runs_of(make_record(0.6)))
    (_, drawings), (_, again) = draw_all(groups) + draw_all(groups)
    assert render(drawings[0], "svg") == render(again[0], "svg")
    ElementTree.fromstring(render(drawings[0], "svg"))
    assert render(drawings[0], "png").startswith(b"\x89PNG")


def test_no_line_joins_protocols_or_epochs(make_record, runs_of):
    records = [
        make_record(0.60, width=0.5),
        make_record(0.61, width=1.0),
        make_record(0.70, width=0.5, epochs=4),
        make_record(0.80, width=1.0, protocol="paper"),
    ]
    groups = group_runs(runs_of(*records))
    drawings = {one.name: one for _, some in draw_all(groups) for one in some}
    axes = drawings["cifar10-width"].figure.axes[0]
    lines = {
        tuple(container.lines[0].get_ydata()): container.get_label()
        for container in axes.containers
    }
    assert lines == {
        (60.0, 61.0): "gns, quick, 3 epochs, validation protocol, baseline "
        "(n=1)",
        (70.0,): "gns, quick, 4 epochs, validation protocol, baseline (n=1)",
        (80.0,): "gns, quick, 3 epochs, paper protocol, baseline (n=1)",
        (81.0,): "gns, quick, 3 epochs, paper protocol, baseline, best epoch "
        "on test (n=1)",
    }
    curves = [name for name in drawings if "curves" in name]
    assert sorted(curves) == [
        "cifar10-curves-paper-e3",
        "cifar10-curves-validation-e3",
        "cifar10-curves-validation-e4",
    ]


@pytest.mark.parametrize("name", ["cifar10-parameters", "cifar10-macs"])
def test_every_peer_has_its_name_in_the_figures(make_record, runs_of, name):
    ((_, drawings),) = draw_all(group_runs(runs_of(make_record(0.6))))
    (axes,) = next(one for one in drawings if one.name == name).figure.axes
    named = {key for key, one in find_peers().items() if one.float_percent}
    named -= {key for key in named if find_peers()[key].macs is None}
    assert named <= {text.get_text() for text in axes.texts}


def test_peers_are_beside_runs_on_their_images_only(make_record, runs_of):
    record = make_record(0.6, data="digits", record={"data_digest": "digits"})
    ((name, drawings),) = draw_all(group_runs(runs_of(record)))
    assert name == "digits"
    for drawing in drawings:
        texts = {text.get_text() for text in drawing.figure.axes[0].texts}
        assert not find_peers().keys() & texts


def test_nothing_beats_what_is_on_the_front():
    points = [(3, 90.0), (1, 80.0), (2, 79.0), (2, 85.0), (4, 90.0)]
    assert find_front(points) == [1, 3, 0]


def test_a_file_without_records_is_a_page(tmp_path):
    index, out = tmp_path / "index.jsonl", tmp_path / "new/report.html"
    index.write_text("")
    write_report(read_runs(index), name="index.jsonl", out=out)
    assert "Runs: 0" in out.read_text()


def test_the_command_warns_of_a_file_without_records(tmp_path, capsys):
    index = tmp_path / "index.jsonl"
    index.touch()
    out = tmp_path / "report.html"
    arguments = ["report", "--index", str(index), "--out", str(out)]
    assert cli.main(arguments) == 0
    error = capsys.readouterr().err
    assert f"warning: {index} has no records" in error
    assert error.count("\n") == 1
    assert out.is_file()


@pytest.mark.usefixtures("no_figures")
def test_the_command_tells_of_broken_lines_and_goes_on(
    make_record, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "i.jsonl").write_text(f"{make_record(0.6).to_json()}\n\n{{\n")
    assert cli.main(["report", "--index", "i.jsonl"]) == 0
    captured = capsys.readouterr()
    told = re.findall(r"gnsmall: warning: i.jsonl, line (\d)", captured.err)
    assert told == ["2", "3"]
    assert "Wrote report.html" in captured.out
    page = (tmp_path / "report.html").read_text()
    assert "i.jsonl, line 2" in page
    assert "i.jsonl, line 3" in page
    assert [*tmp_path.glob("unfinished-*")] == []


def test_the_command_names_the_winner_and_writes_nothing(
    make_record, write_index, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    worse, better = make_record(0.9, 0.6392), make_record(0.1, 0.7, seed=1)
    index = write_index(worse, better)
    assert cli.main(["report", "--index", str(index), "--winner"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(better.slug + "\n")
    assert "validation accuracy: 70.00 %" in printed
    assert [*tmp_path.iterdir()] == [index]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--index", "none.jsonl"], "No records at"),
        (["--max-parameters", "9"], "Add --winner"),
        (["--winner", "--out", "a.html"], "`winner` writes nothing"),
        (["--max-bytes", "9"], "Add --winner"),
        (["--winner", "--max-parameters", "9"], "no record does"),
        (["--winner", "--images", "digits"], "Add --out"),
        (["--readme", "none.md"], "none.md"),
    ],
)
def test_bad_input_is_one_line(
    capsys, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    given = [] if "--index" in arguments else ["--index", str(INDEX)]
    assert cli.main(["report", *given, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [*tmp_path.iterdir()] == []


def test_without_matplotlib_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"gnsmall-keras\[report\]"):
        write_report(
            read_runs(INDEX), name="index.jsonl", out=tmp_path / "report.html"
        )
    assert [*tmp_path.iterdir()] == []


@pytest.mark.usefixtures("no_figures")
def test_the_page_begins_with_the_run_to_deploy(make_record, runs_of, tmp_path):
    worse, better = make_record(0.9, 0.6), make_record(0.6543, 0.7, seed=1)
    index, out = tmp_path / "index.jsonl", tmp_path / "report.html"
    index.write_text(f"{worse.to_json()}\n{better.to_json()}\n")
    write_report(read_runs(index), name="index.jsonl", out=out)
    head = out.read_text().partition("<h2>")[0]
    assert better.slug in head
    assert "65.43 %" in head
    assert "70.00 %" in head
    assert worse.slug not in head


@pytest.mark.usefixtures("no_figures")
def test_short_runs_can_be_left_out(make_record, write_index, capsys, tmp_path):
    short, long = make_record(0.5, epochs=2), make_record(0.6, epochs=20)
    index, out = write_index(short, long), tmp_path / "report.html"
    command = ["report", "--index", str(index), "--out", str(out)]
    assert cli.main([*command, "--min-epochs", "20"]) == 0
    text = out.read_text()
    assert long.slug in text
    assert short.slug not in text
    assert cli.main([*command, "--min-epochs", "21"]) == 2
    assert "the longest has 20 epochs" in capsys.readouterr().err


def test_a_figure_s_name_of_an_arm_is_short(make_record, runs_of):
    teacher = "runs/gns-w1.6-cifar10-best-e5-baseline-s0-abc123/model.keras"
    record = make_record(0.6, strategy="kd", teachers=(teacher,))
    (group,) = group_runs(runs_of(record))
    assert group.short.startswith("gns w0.5 quick: kd kd, T=4, label 0.5")
    assert group.short.endswith("from gns-w1.6")
    assert len(group.short) < len(group.name)


@pytest.mark.usefixtures("no_figures")
def test_pairs_on_two_machines_are_named(make_record, write_index, tmp_path):
    student = {"strategy": "kd", "teachers": ("t.keras",)}
    records = [
        make_record(0.6, seed=seed, record={"hardware": {"processor": name}})
        for seed, name in enumerate(("Xeon", "EPYC"))
    ] + [
        make_record(
            *(0.7, 0.7),
            seed=seed,
            record={"hardware": {"processor": "EPYC"}},
            **student,
        )
        for seed in range(2)
    ]
    page, readme = tmp_path / "report.html", tmp_path / "README.md"
    readme.write_text("\n".join([*RESULTS, ""]))
    reading = read_runs(write_index(*records))
    write_report(reading, name="index.jsonl", out=page, readme=readme)
    for text in (page.read_text(), readme.read_text()):
        assert "differ by these too: gns w0.5" in text
        assert "(seed 0)." in text


def test_a_teacher_of_several_weights_is_told(
    make_record, write_index, tmp_path
):
    teacher = make_record(0.8, width=1.0)
    records = [teacher]
    for seed, digest in enumerate("ab"):
        student = {"strategy": "kd", "teachers": (teacher.slug,)}
        described = {"name": teacher.slug, "weights_digest": digest}
        record = make_record(0.6, seed=seed, **student)
        values = {"teachers": [described], "stages": []}
        records.append(dataclasses.replace(record, distillation=values))
    page, readme = tmp_path / "report.html", tmp_path / "README.md"
    readme.write_text("\n".join([*RESULTS, ""]))
    reading = read_runs(write_index(*records))
    write_report(reading, name="index.jsonl", out=page, readme=readme)
    for text in (page.read_text(), readme.read_text()):
        assert f"(teacher {teacher.slug})." in text
