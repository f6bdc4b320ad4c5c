"""Files that are given are measured, in the rows of who published them."""

import json
from pathlib import Path

import numpy as np
import pytest
from support import ROOT

from gnsmall_keras import cli
from gnsmall_keras.data import sources
from gnsmall_keras.data.dataset import Dataset
from gnsmall_keras.devices.benchmark import (
    BenchmarkReport,
    FileBenchmark,
    Latency,
)
from gnsmall_keras.devices.checks import read_contents
from gnsmall_keras.devices.resnet8 import LARGE, RESNET8, resnet8
from gnsmall_keras.devices.runtime import TFLiteModel
from gnsmall_keras.export.operators import count_macs
from gnsmall_keras.report import board
from gnsmall_keras.report.board import measure_networks
from gnsmall_keras.report.networks import (
    CITED,
    GIVEN,
    Network,
    Networks,
    describe_networks,
)

pytestmark = pytest.mark.export
SMALLEST = "gns-w0.25-h320-cifar10-micro.tflite"
IMAGES = 8


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("board") / "their.tflite"
    path.write_bytes(resnet8(RESNET8["resnet8-16-32-64"]))
    return path


@pytest.fixture(scope="module")
def dataset():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (IMAGES, 32, 32, 3), np.uint8)
    labels = np.arange(IMAGES, dtype=np.int32)
    names = tuple(map(str, range(10)))
    return Dataset(
        name="cifar10",
        train_images=images,
        train_labels=labels,
        test_images=images,
        test_labels=labels,
        class_names=names,
        flippable=True,
    )


def _benchmarked(path, ratio):
    data = Path(path).read_bytes()
    latency = Latency(
        runtime="litert",
        threads=1,
        median_ms=ratio,
        p90_ms=ratio,
        calls=1,
        ratios={LARGE: ratio},
    )
    return FileBenchmark(
        name=str(path),
        sha256="",
        size_bytes=len(data),
        macs=count_macs(data),
        ops=sum(read_contents(data).ops.values()),
        arena_bytes=54_000,
        latencies=[latency],
        profile=[],
    )


@pytest.fixture(autouse=True)
def made_up_times(monkeypatch):
    """tests/devices/test_benchmark.py has those of a real run."""

    def benchmark(paths, *, runtimes, rounds):
        assert (runtimes, rounds) == (("litert",), 1)
        return BenchmarkReport(
            files=[_benchmarked(path, 0.2) for path in paths],
            references=[],
            rounds=rounds,
            measured_at="",
            hardware={"processor": "Some(R) Processor"},
            versions={},
        )

    monkeypatch.setattr(board, "benchmark", benchmark)


def _networks(size, macs=None):
    peer = Network("MLPerf", False, 86.97, None, size, macs, evidence=CITED)
    report = json.loads(
        (ROOT / "tflite" / SMALLEST).with_suffix(".json").read_text()
    )
    ours = Network(
        "GN-S",
        True,
        100 * report["accuracy"],
        None,
        1,
        1,
        file=SMALLEST,
        latencies={"Other": 0.5},
        older={"Other": "200 operators", "Some(R) Processor": "300"},
    )
    return Networks([ours], [], [peer])


@pytest.mark.parametrize("macs", [None, 12_500_000, 76_000_000])
def test_a_file_takes_the_row_of_its_size(file, dataset, macs):
    size = file.stat().st_size
    measured = measure_networks(
        _networks(size, macs),
        [file],
        dataset,
        published=ROOT / "tflite",
        rounds=1,
    )
    known = macs != 76_000_000
    rows = {one.name: one for one in measured.peers}
    assert rows.keys() == ({"MLPerf"} if known else {"MLPerf", "their.tflite"})
    row = rows["MLPerf" if known else "their.tflite"]
    logits = TFLiteModel(file).predict(dataset.test_images)
    share = np.mean(logits.argmax(-1) == dataset.test_labels)
    assert row.int8 == pytest.approx(100 * share)
    assert (row.size_bytes, row.macs, row.operators) == (size, 12_501_632, 16)
    assert row.arena_bytes == 54_000
    assert row.latencies == {"Some(R) Processor": 0.2}
    assert row.evidence == GIVEN
    (ours,) = measured.ours
    assert ours.latencies == {"Other": 0.5, "Some(R) Processor": 0.2}
    older = "Latencies of earlier files: GN-S on Other (200 operators)."
    assert older in describe_networks(measured)


def test_the_command_shows_a_file_beside_the_records(
    file, dataset, monkeypatch, capsys
):
    monkeypatch.setattr(sources, "load_data", lambda name: dataset)
    monkeypatch.chdir(ROOT)
    assert cli.main(["benchmark", "--board", str(file), "--rounds", "1"]) == 0
    told = capsys.readouterr().out
    assert "their.tflite" in told
    assert "MLPerf Tiny IC2" in told
    assert "measured" in told
    assert "…" not in told  # values are whole in 80 columns


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threads", "2"], "one thread"),
        (["--profile"], "--profile"),
        (["--adb", "binary"], "--board out"),
        (["--published", "docs"], "--published"),
        (["--index", "none.jsonl"], "none.jsonl"),
        (["none.tflite"], "No file at none.tflite"),
    ],
)
def test_what_does_not_fit_is_one_line(
    options, message, dataset, monkeypatch, capsys
):
    monkeypatch.setattr(sources, "load_data", lambda name: dataset)
    monkeypatch.chdir(ROOT)
    assert cli.main(["benchmark", "--board", *options]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1


def test_a_file_of_floats_is_refused(file, dataset, monkeypatch):
    monkeypatch.setattr(TFLiteModel, "dtypes", ("float32", "float32"))
    with pytest.raises(ValueError, match="compares int8 files"):
        measure_networks(
            _networks(1), [file], dataset, published=ROOT / "tflite"
        )
