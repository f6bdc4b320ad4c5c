"""The run to deploy: by bytes, with its confusions and worst mistakes."""

import dataclasses
import hashlib
import math
import re

import numpy as np
import pytest
from scipy.special import softmax

from gnsmall_keras import cli
from gnsmall_keras.data.cifar import CLASSES_10
from gnsmall_keras.data.dataset import Dataset
from gnsmall_keras.data.sources import load_data
from gnsmall_keras.devices.targets import find_budget
from gnsmall_keras.report import tables
from gnsmall_keras.report.costs import find_cost
from gnsmall_keras.report.figures import mistakes
from gnsmall_keras.report.figures.overview import draw_all
from gnsmall_keras.report.groups import group_runs
from gnsmall_keras.report.pages.build import write_report
from gnsmall_keras.report.reading import read_runs
from gnsmall_keras.report.winner import find_winner


@pytest.fixture
def three(make_record):
    """Two seeds of a small network and a better, larger one."""
    small = make_record(0.60, 0.60)
    again = make_record(0.61, 0.61, seed=1)
    large = make_record(
        *(0.70, 0.70), width=1.0, record={"deployed_parameters": 374_174}
    )
    return small, again, large


def test_a_runs_own_file_counts_before_its_networks(three, make_export):
    small, again, large = three
    exports = [
        make_export(small, 300_000, latency=0.8),
        make_export(small, 290_000, faults=["a float tensor"]),
        make_export(small, 200_000, quantization="float16"),
        make_export(again, 310_000),
    ]
    own = find_cost(again, exports, "bytes")
    assert own is not None
    assert (own.value, own.own) == (310_000, True)
    other = find_cost(again, exports, "latency")
    assert other is not None
    assert (other.value, other.own) == (0.8, False)
    assert find_cost(large, exports, "bytes") is None


@pytest.mark.parametrize(
    "changed",
    [{"head_units": 640}, {"folded_gates": ["a gate"]}, {"macs": 4 * 10**6}],
)
def test_a_file_of_another_size_tells_nothing_of_other_runs(
    three, make_export, runs_of, changed
):
    small, again, _ = three
    file = make_export(small, 300_000, **changed)
    own = find_cost(small, [file], "bytes")
    assert own is not None
    assert own.own
    assert find_cost(again, [file], "bytes") is None
    found = find_winner(runs_of(small, again), max_bytes=9**9, exports=[file])
    assert found.slug == small.slug


def test_the_winner_is_chosen_without_the_test_split(make_record, runs_of):
    better = make_record(0.5, 0.7)  # test, validation
    luckier = make_record(0.9, 0.6, seed=1)
    for order in ((better, luckier), (luckier, better)):
        assert find_winner(runs_of(*order)).slug == better.slug


def test_the_winner_fits_a_class_of_microcontrollers(
    three, make_export, runs_of
):
    small, again, large = three
    exports = [
        make_export(small, 180_000, arena_bytes=65_536),
        make_export(large, 180_000, arena_bytes=65_537),
    ]
    runs = runs_of(*three)
    for arena, best in ((65_537, large), (65_536, again)):
        found = find_winner(runs, max_arena_bytes=arena, exports=exports)
        assert found.slug == best.slug


@pytest.mark.parametrize(
    ("size_bytes", "arena_bytes", "name"),
    [
        (188_416, 65_536, "256k"),
        (188_417, 65_536, "512k"),
        (100_000, 65_537, "512k"),
        (974_848, 262_144, "1m"),
        (974_849, 262_144, None),
        (100_000, None, None),  # does not run there
    ],
)
def test_files_have_the_smallest_class_that_they_fit(
    size_bytes, arena_bytes, name
):
    found = find_budget(size_bytes, arena_bytes)
    assert (found and found.name) == name


def test_the_winner_fits_into_bytes(three, make_export, runs_of):
    small, again, large = three
    exports = [make_export(small, 300_000), make_export(large, 600_000)]
    runs = runs_of(*three)
    assert find_winner(runs, exports=exports).slug == large.slug
    for most, best in ((600_000, large), (599_999, again), (300_000, again)):
        found = find_winner(runs, max_bytes=most, exports=exports)
        assert found.slug == best.slug
    with pytest.raises(ValueError, match="no record does"):
        find_winner(runs, max_bytes=299_999, exports=exports)


def test_bytes_without_a_record_of_any_are_refused(three, runs_of):
    with pytest.raises(ValueError, match="gnsmall export"):
        find_winner(runs_of(*three), max_bytes=524_288)


@pytest.mark.parametrize(
    "limit", [["--max-bytes", "524288"], ["--budget", "1m"]]
)
def test_the_command_names_the_winner_by_its_file(
    three, make_export, write_index, capsys, limit
):
    small, again, _ = three
    index = write_index(*three, exports=[make_export(small, 300_000)])
    arguments = ["report", "--index", str(index), "--winner"]
    assert cli.main([*arguments, *limit]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(again.slug)
    assert f"int8 file: 300,000 bytes, of {small.slug}'s" in captured.out
    assert "runs left out, as no file" in captured.err
    assert captured.err.strip().endswith("record: 1")


@pytest.mark.parametrize(
    ("options", "left_out"),
    [
        (["--max-bytes", "500000"], 2),  # the large one, and the digits'
        (["--max-bytes", "500000", "--data", "cifar10"], 1),
        (["--max-bytes", "500000", "--max-parameters", "200000"], 1),
        # Of the better one, the file for phones alone is known.
        (["--budget", "1m", "--data", "cifar10"], 2),
    ],
)
def test_runs_without_a_file_are_told_of_if_they_are_asked_for(
    three, make_record, make_export, write_index, capsys, options, left_out
):
    small = three[0]
    size = {"deployed_parameters": 100_000}
    better = make_record(0.65, 0.65, width=0.4, record=size)
    others = (
        make_record(0.9, 0.9, data="digits", record={"data_digest": "digits"}),
        make_record(0.9, protocol="paper"),
    )
    others = [
        dataclasses.replace(one, deployed_parameters=150_000) for one in others
    ]
    exports = [
        make_export(small, 300_000),
        make_export(better, 200_000, target="android"),
    ]
    index = write_index(*three, better, *others, exports=exports)
    arguments = ["report", "--index", str(index), "--winner"]
    assert cli.main([*arguments, *options]) == 0
    captured = capsys.readouterr()
    best = three[1] if "--budget" in options else better
    assert captured.out.startswith(best.slug)
    assert captured.err.strip().endswith(f"record: {left_out}")
    assert ("for microcontrollers" in captured.err) == ("--budget" in options)


def test_the_file_that_is_shown_is_within_the_limits(
    three, make_export, write_index, capsys
):
    _, again, _ = three
    exports = [
        make_export(again, 80_000, arena_bytes=70_000),
        make_export(again, 90_000, arena_bytes=60_000),
    ]
    index = write_index(again, exports=exports)
    arguments = ["report", "--index", str(index), "--winner"]
    for options, size in (([], 80_000), (["--budget", "256k"], 90_000)):
        assert cli.main([*arguments, *options]) == 0
        assert f"int8 file: {size:,} bytes" in capsys.readouterr().out


def test_the_command_says_where_the_winner_s_own_file_is(
    three, make_export, write_index, capsys
):
    _, again, large = three
    digest = hashlib.sha256(b"its bytes").hexdigest()
    facts = {"accuracy": 0.6125, "evaluated_images": 360, "sha256": digest}
    exports = [
        make_export(again, 90_000, arena_bytes=60_000, **facts),
        make_export(again, 80_000, target="android", arena_bytes=60_000),
        make_export(large, 600_000, arena_bytes=200_000),
    ]
    index = write_index(*three, exports=exports)
    arguments = ["report", "--index", str(index), "--winner"]
    arguments += ["--budget", "256k"]
    file = index.parent / again.slug / exports[0].report["path"]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    for line in (
        "int8 file: 90,000 bytes",
        "int8 accuracy: 61.25 % of 360 test images",
        "arena on TFLite Micro: 60,000 bytes",
    ):
        assert f"  {line}\n" in printed
    assert "path" not in printed
    file.parent.mkdir()
    for content, known in ((b"others", False), (b"its bytes", True)):
        file.write_bytes(content)
        assert cli.main(arguments) == 0
        assert (f"  path: {file}\n" in capsys.readouterr().out) == known


def test_files_are_figures_and_a_table(three, make_export, runs_of):
    """Accuracies are the runs' own; a hollow point has another run's file."""
    small, _, large = three
    export = make_export(small, 300_000, latency=0.5)
    ((_, drawings),) = draw_all(
        group_runs(runs_of(*three)), [export, make_export(large, 600_000)]
    )
    drawn = {one.name: one.figure.axes[0] for one in drawings}
    found = {}
    for name in ("cifar10-bytes", "cifar10-latency"):
        found[name] = sorted(
            (x, y)
            for container in drawn[name].containers
            for x, y in zip(*container.lines[0].get_data(), strict=True)
        )
    assert found["cifar10-bytes"] == [(300_000, 60.5), (600_000, 70.0)]
    assert found["cifar10-latency"] == [(0.5, 60.5)]
    table = tables.tabulate_exports([export])
    row = dict(zip(table.header, table.rows[0], strict=True))
    assert row["bytes"] == "300,000"
    assert row["latency / MLPerf Tiny IC2's"] == "0.50"


def test_a_networks_point_is_hollow(three, make_record, make_export, runs_of):
    taught = make_record(0.7, strategy="kd", teachers=("t.keras",))
    groups = group_runs(runs_of(three[0], taught))
    ((_, drawings),) = draw_all(groups, [make_export(three[0], 300_000)])
    (axes,) = next(d for d in drawings if d.name == "cifar10-bytes").figure.axes
    assert {
        container.get_label(): container.lines[0].get_markerfacecolor()
        for container in axes.containers
    } == {
        "validation protocol, 3 epochs (n=1)": "#0072B2",
        "validation protocol, 3 epochs, file of another run (n=1)": "white",
    }


def test_the_last_line_of_a_file_counts_and_keeps_its_latency(
    three, make_export, write_index, tmp_path
):
    small = three[0]
    timed = make_export(small, 300_000, latency=0.5)
    other = make_export(small, 300_000, arena_bytes=1)
    index = write_index(
        *three, exports=[make_export(small, 300_000), timed, other]
    )
    (found,) = read_runs(index).exports
    assert found == dataclasses.replace(other, latency=timed.latency)


def test_a_file_keeps_its_latency_on_each_processor(
    three, make_export, write_index
):
    files = [make_export(three[0], 300_000, latency=x) for x in (0.5, 0.4, 0.9)]
    files[-1].latency["hardware"] = {"processor": "another"}
    reading = read_runs(write_index(*three, exports=files))
    assert len(reading.exports) == 1
    assert [one.latency["ratio"] for one in reading.timed] == [0.4, 0.9]


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("report", "size_bytes", -1),
        ("report", "size_bytes", "9"),
        ("report", "faults", None),
        ("report", "accuracy", 7),
        ("source", "width", float("nan")),
        ("source", "slug", None),
        ("latency", "ratio", 0),
        ("latency", "hardware", {}),
    ],
)
def test_what_no_export_writes_is_told_of(
    three, make_export, write_index, part, name, value
):
    broken = make_export(three[0], 300_000, latency=0.5)
    getattr(broken, part)[name] = value
    reading = read_runs(write_index(*three, exports=[broken]))
    assert reading.exports == []
    (fault,) = reading.faults
    if isinstance(value, float) and math.isnan(value):
        assert "NaN is no number of standard JSON" in fault
        return
    assert fault.startswith("exports.jsonl, line 1: Not what")
    assert f"{part}.{name}" in fault


@pytest.fixture
def wrong(make_record, predict):
    """A record with predictions on 360 images, and these."""
    record = make_record(0.6, record={"test_images": 360})
    return predict(record)


def test_the_confusion_drawn_is_counted_from_predictions(wrong):
    record, logits, labels = wrong
    drawing = mistakes.draw_confusion("cifar10", record)
    assert drawing is not None
    (axes,) = drawing.figure.axes
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (labels, logits.argmax(axis=-1)), 1)
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {
        (column, row): str(counts[row, column])
        for row in range(10)
        for column in range(10)
    }
    shown = [text.get_text() for text in axes.get_yticklabels()]
    assert shown == list(CLASSES_10)


def test_the_page_has_the_worst_mistakes(wrong, write_index, tmp_path):
    record, logits, labels = wrong
    out = tmp_path / "report.html"
    reading = read_runs(write_index(record))
    assert reading.faults == []
    write_report(reading, name="index.jsonl", out=out)
    text = out.read_text()
    probability = softmax(logits.astype(float), axis=-1)
    predicted = logits.argmax(axis=-1)
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(-probability[wrong].max(axis=-1))]
    rows = re.findall(r"<tr>((?:<td>.*?</td>)+)</tr>", text)
    found = [re.findall(r"<td>(.*?)</td>", row) for row in rows]
    worst = [cells for cells in found if len(cells) == 4]
    assert worst == [
        [
            str(index),
            CLASSES_10[labels[index]],
            CLASSES_10[predicted[index]],
            f"{100 * probability[index].max():.2f}",
        ]
        for index in wrong[:16]
    ]
    assert "the confusion matrix of the winner" in text


def test_images_are_shown_where_they_are_the_runs(wrong):
    record, _, labels = wrong
    images = np.zeros((360, 32, 32, 3), np.uint8)
    images[:] = np.arange(360, dtype=np.uint16)[:, None, None, None] % 256
    data = Dataset("mine", images[:0], labels[:0], images, labels, CLASSES_10)
    record = dataclasses.replace(record, data_digest=data.digest)
    drawing = mistakes.draw_mistakes("mine", record, data)
    assert drawing is not None
    shown = [axes.images[0].get_array() for axes in drawing.figure.axes]
    for image, one in zip(shown, record.test_predictions["worst"], strict=True):
        np.testing.assert_array_equal(image, images[one["index"]])
    other = dataclasses.replace(data, test_images=images + 1)
    assert mistakes.draw_mistakes("mine", record, other) is None


def test_images_are_read_as_for_the_winner_on_them(
    make_record, predict, write_index, no_figures, tmp_path
):
    reading = {"image_size": 64, "channels": 1}
    digits = make_record(
        *(0.6, 0.5),
        **reading,
        data="digits",
        record={
            "data_digest": load_data("digits", **reading).digest,
            "test_images": 360,
        },
    )
    others = make_record(0.7)  # on CIFAR-10, as usual
    index = write_index(others, predict(digits)[0])
    out = tmp_path / "report.html"
    arguments = ["report", "--index", str(index), "--images", "digits"]
    assert cli.main([*arguments, "--out", str(out)]) == 0


def test_images_of_another_run_are_refused(wrong, write_index, capsys):
    index = write_index(wrong[0])
    arguments = ["report", "--index", str(index), "--images", "digits"]
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert "must be those that a winner was tested on" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("confusion", [[1, 2], [3]]),
        ("confusion", [[0] * 10] * 10),
        ("class_names", ["a"]),
        ("worst", [{"index": 0}]),
        (
            "worst",
            [{"index": 0, "label": 10, "predicted": 0, "probability": 1}],
        ),
    ],
)
def test_predictions_that_no_run_writes_are_told_of(
    wrong, write_index, name, value
):
    wrong[0].test_predictions[name] = value
    (fault,) = read_runs(write_index(wrong[0])).faults
    assert "test_predictions" in fault
