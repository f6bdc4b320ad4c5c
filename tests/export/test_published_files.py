"""The files in tflite/ are what their reports, cards and records say."""

import hashlib
import json
import subprocess

import numpy as np
import pytest
from support import ROOT, cifar10_folder

from gnsmall_keras.data.sources import load_data
from gnsmall_keras.devices.runtime import TFLiteModel
from gnsmall_keras.devices.targets import BUDGETS
from gnsmall_keras.export.card import make_card
from gnsmall_keras.export.tflite import ExportReport
from gnsmall_keras.models.saving.files import load_model
from gnsmall_keras.records.commands import teachers_of
from gnsmall_keras.records.export import ExportRecord
from gnsmall_keras.records.jsonl import scan_lines
from gnsmall_keras.records.run import read_records
from gnsmall_keras.report.reading import read_runs
from gnsmall_keras.report.winner import find_winner
from gnsmall_keras.training import evaluation

pytestmark = pytest.mark.export
FILES = sorted((ROOT / "tflite").glob("*.tflite"))
SMALLEST = min(FILES, key=lambda path: path.stat().st_size)
EXPORTS = ROOT / "papermill_runs/exports.jsonl"
INDEX = ROOT / "papermill_runs/index.jsonl"
RUN = """
import sys
import numpy as np
from gnsmall_keras.devices.runtime import TFLiteModel
images, out, *models = sys.argv[1:]
np.savez(
    out,
    *(
        TFLiteModel(model, runtime="tflite-runtime-reference").predict_raw(
            np.load(images)
        )
        for model in models
    ),
)
"""


@pytest.fixture(scope="module")
def cifar10():
    if not cifar10_folder():
        pytest.skip("GNSMALL_DATA does not name CIFAR-10")
    return load_data("cifar10")


def _report(path):
    return json.loads(path.with_suffix(".json").read_text())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_reports_cards_and_records_are_of_the_file(path):
    report, data = _report(path), path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    assert (report["sha256"], report["size_bytes"]) == (digest, len(data))
    assert report["faults"] == []
    assert digest in path.with_suffix(".md").read_text("utf-8")
    sources = {
        record.run_key
        for _, record in scan_lines(EXPORTS, ExportRecord.from_json)
        if isinstance(record, ExportRecord) and record.sha256 == digest
    }
    runs = {run.key: run for run in read_records(INDEX)}
    (source,) = sources
    by_slug = {run.slug: run for run in runs.values()}
    teachers = teachers_of(runs[source], by_slug.get)
    card = make_card(
        ExportReport(**report), runs[source], teachers, licence="Apache-2.0"
    )
    assert path.with_suffix(".md").read_text("utf-8") == card
    table = (ROOT / "tflite/README.md").read_text("utf-8")
    assert path.name in table
    assert f"{len(data):,}" in table


def test_compiled_model_gives_the_interpreters_integers():
    path = ROOT / "tflite/gns-w0.25-h320-cifar10-micro.tflite"
    images = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), "uint8")
    compiled = TFLiteModel(path, runtime="litert-compiled")
    interpreted = TFLiteModel(path, runtime="litert")
    assert compiled.dtypes == interpreted.dtypes
    np.testing.assert_array_equal(
        compiled.predict_raw(images), interpreted.predict_raw(images)
    )


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS.keys())
def test_the_best_network_of_each_class_of_microcontrollers_is_there(budget):
    """Best by validation accuracy, as `gnsmall report --winner` finds it."""
    reading = read_runs(INDEX)
    best = find_winner(
        reading.runs,
        exports=reading.exports,
        max_bytes=budget.file_bytes,
        max_arena_bytes=budget.arena_bytes,
    )
    network = {
        name: best.config[name] for name in ("model", "width", "head_units")
    }
    assert [
        path
        for path in FILES
        if (report := _report(path))["target"] == "micro"
        and report["size_bytes"] <= budget.file_bytes
        and report["arena_bytes"] <= budget.arena_bytes
        and network.items() <= report["source"].items()
    ]


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[] if path == SMALLEST else pytest.mark.slow)
        for path in FILES
    ],
    ids=lambda path: path.stem,
)
def test_accuracies_are_those_of_the_report(path, cifar10):
    values = TFLiteModel(path).predict_raw(cifar10.test_images)
    found = evaluation.accuracy(values, cifar10.test_labels)
    assert found == _report(path)["accuracy"]


def test_the_float_network_is_that_of_the_report(cifar10):
    weights = ROOT / "gnsmall_keras" / "weights"
    model = load_model(weights / "gns-w0.25-h320-cifar10.keras")
    logits = evaluation.predict_logits(model, cifar10.test_images)
    found = evaluation.accuracy(logits, cifar10.test_labels)
    report = _report(ROOT / "tflite/gns-w0.25-h320-cifar10-micro.tflite")
    # Logits differ in their last digits from processor to processor.
    assert found == pytest.approx(report["float_accuracy"], abs=5e-4)


@pytest.mark.parametrize(
    "count", [10, pytest.param(200, marks=pytest.mark.slow)]
)
def test_reference_kernels_are_one_function(
    cifar10, device_python, tmp_path, count
):
    """LiteRT's, TensorFlow Lite Micro's and tflite-runtime's."""
    images = cifar10.test_images[:count]
    expected = [
        TFLiteModel(path, runtime="litert-reference").predict_raw(images)
        for path in FILES
    ]
    for path, values in zip(FILES, expected, strict=True):
        micro = TFLiteModel(path, runtime="tflite-micro")
        np.testing.assert_array_equal(micro.predict_raw(images), values)
    np.save(tmp_path / "images.npy", images)
    out = tmp_path / "values.npz"
    python = device_python("tflite-runtime")
    subprocess.run(
        [python, "-c", RUN, tmp_path / "images.npy", out, *FILES],
        env={"PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
    )
    with np.load(out) as found:
        for name, values in zip(found.files, expected, strict=True):
            np.testing.assert_array_equal(found[name], values)
