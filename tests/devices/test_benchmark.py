"""The benchmark: what it counts, and what it refuses."""

import hashlib
import json

import flatbuffers
import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from support import ROOT

from gnsmall_keras import cli
from gnsmall_keras.devices import benchmark as timing
from gnsmall_keras.devices.benchmark import benchmark
from gnsmall_keras.devices.checks import read_contents
from gnsmall_keras.devices.resnet8 import RESNET8, resnet8
from gnsmall_keras.devices.runtime import TFLiteModel
from gnsmall_keras.export.operators import count_macs, macs_of, split
from gnsmall_keras.records.export import append_export

pytestmark = pytest.mark.export


@pytest.fixture(scope="module")
def small():
    return resnet8(RESNET8["resnet8-16-32-64"])


@pytest.fixture
def small_file(small, tmp_path):
    path = tmp_path / "small.tflite"
    path.write_bytes(small)
    return path


# Parameters and multiply-accumulates as published for the two files.
@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("resnet8-16-32-64", 77_706, 12_501_632),
        ("resnet8-40-80-160", 480_330, 76_473_920),
    ],
)
def test_references_are_the_published_networks(name, parameters, macs):
    data = resnet8(RESNET8[name])
    assert read_contents(data).ops == {
        "CONV_2D": 9,
        "ADD": 3,
        "AVERAGE_POOL_2D": 1,
        "RESHAPE": 1,
        "FULLY_CONNECTED": 1,
        "SOFTMAX": 1,
    }
    assert count_macs(data) == macs
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    weights = sum(
        np.prod(tensor.shape)
        for tensor in model.subgraphs[0].tensors
        if tensor.buffer and tensor.quantization is not None
    )
    assert weights == parameters


def test_reference_values_spread(small_file, device_images):
    """Its integers are neither all zero nor all clipped."""
    runner = TFLiteModel(small_file, runtime="litert-reference")
    rows = runner.predict_raw(device_images[:10]).astype(int)
    assert len(np.unique(rows)) > 10
    micro = TFLiteModel(small_file, runtime="tflite-micro")
    np.testing.assert_array_equal(micro.predict_raw(device_images[:10]), rows)


def test_every_operator_runs_alone():
    data = (ROOT / "tflite/gns-w0.25-h320-cifar10-micro.tflite").read_bytes()
    operators, contents = split(data), read_contents(data)
    assert len(operators) == sum(contents.ops.values())
    for operator in operators:
        alone = Interpreter(model_content=operator.file)
        alone.allocate_tensors()
        alone.invoke()


def test_report_has_ratios_to_both_references(small_file, tmp_path, capsys):
    out, records = tmp_path / "report.json", tmp_path / "exports.jsonl"
    sha256 = hashlib.sha256(small_file.read_bytes()).hexdigest()
    source = {"slug": "a", "started_at": "now"}
    append_export({"sha256": sha256, "source": source}, records)
    options = ["--runtimes", "litert", "litert-reference", "--threads", "1"]
    options += ["2", "--rounds", "2", "--profile", "--out", str(out)]
    options += ["--exports", str(records)]
    assert cli.main(["benchmark", str(small_file), *options]) == 0
    printed = capsys.readouterr().out
    assert "resnet8-40-80-160" in printed
    assert "file's MACs" in printed  # not the network's
    assert "which those of reports and records leave out" in printed
    report = json.loads(out.read_text())
    (file,) = report["files"]
    assert file["macs"] == 12_501_632
    assert file["arena_bytes"] > 50_000
    keys = [(each["runtime"], each["threads"]) for each in file["latencies"]]
    assert keys == [("litert", 1), ("litert", 2), ("litert-reference", 1)]
    for latency in file["latencies"]:
        assert 0 < latency["median_ms"] <= latency["p90_ms"]
        assert set(latency["ratios"]) == set(RESNET8)
    assert sum(cost["count"] for cost in file["profile"]) == file["ops"] == 16
    assert [each["name"] for each in report["references"]] == list(RESNET8)
    (reference, _) = report["references"]
    assert reference["latencies"][0]["ratios"]["resnet8-16-32-64"] == 1.0
    recorded = json.loads(records.read_text().splitlines()[1])["latency"]
    measured = file["latencies"][0]
    assert recorded["ratio"] == measured["ratios"]["resnet8-40-80-160"]
    assert recorded["median_ms"] == measured["median_ms"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "has no record of the file"),
        (["--runtimes", "litert-reference"], "on the runtime 'litert' with"),
        (["--threads", "2"], "on the runtime 'litert' with one thread"),
    ],
)
def test_what_records_cannot_take_is_said_before_measuring(
    small_file, tmp_path, monkeypatch, capsys, options, message
):
    def measure(*_, **__):
        raise AssertionError("measured")

    monkeypatch.setattr(timing, "benchmark", measure)
    records = tmp_path / "exports.jsonl"
    sha256 = hashlib.sha256(small_file.read_bytes()).hexdigest()
    source = {"slug": "a", "started_at": "now"}
    append_export({"sha256": sha256, "source": source}, records)
    known = records.read_bytes()
    other = ROOT / "tflite/gns-w0.25-h320-cifar10-micro.tflite"
    arguments = ["benchmark", str(small_file), str(other), *options]
    assert cli.main([*arguments, "--exports", str(records)]) == 2
    assert message in capsys.readouterr().err
    assert records.read_bytes() == known


def _edited(data, edit):
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    edit(model.subgraphs[0])
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _with_free_batch(graph):
    graph.tensors[graph.inputs[0]].shapeSignature = [-1, 32, 32, 3]


def _with_maps_out(graph):
    graph.outputs = [graph.operators[0].outputs[0]]


def _with_two_outputs(graph):
    graph.outputs = [graph.operators[0].outputs[0], *graph.outputs]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:50_000], "does not run on litert"),
        (lambda data: b"hello, world", "not a .tflite file"),
        (lambda data: _edited(data, _with_free_batch), "must be fixed"),
        (lambda data: _edited(data, _with_maps_out), "one vector"),
        (lambda data: _edited(data, _with_two_outputs), "one vector"),
    ],
)
def test_files_of_another_kind_are_refused(small, tmp_path, change, message):
    (tmp_path / "file.tflite").write_bytes(change(small))
    with pytest.raises(ValueError, match=message):
        benchmark([tmp_path / "file.tflite"], rounds=1)


def test_files_for_the_edge_tpu_are_refused(edge_tpu_file):
    with pytest.raises(ValueError, match="compiled for the Edge TPU"):
        benchmark([edge_tpu_file], rounds=1)


@pytest.fixture(scope="module")
def hybrid_file(tmp_path_factory):
    """Weights of int8, the rest floats, as "dynamic" writes them."""
    import keras
    import tensorflow as tf

    pixels = keras.Input((32, 32, 3), batch_size=1)
    logits = keras.layers.Dense(10)(keras.layers.Flatten()(pixels))
    network = keras.Model(pixels, logits)
    converter = tf.lite.TFLiteConverter.from_keras_model(network)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    path = tmp_path_factory.mktemp("hybrid") / "dynamic.tflite"
    path.write_bytes(converter.convert())
    return path


def test_what_micro_refuses_is_measured_on_the_others(
    hybrid_file, small_file, monkeypatch, capsys
):
    installed = ["litert", "tflite-micro"]
    monkeypatch.setattr(timing, "installed_runtimes", lambda: installed)
    words = ["benchmark", str(hybrid_file), "--rounds", "1"]
    assert cli.main(words) == 0
    told = capsys.readouterr()
    assert "tflite-mi" not in told.out
    assert "Micro does not run" in told.err
    assert "dynamic.tflite" in told.err
    report = benchmark([hybrid_file, small_file], rounds=1)
    with_micro = [
        "tflite-micro" in [each.runtime for each in file.latencies]
        for file in (*report.files, *report.references)
    ]
    assert with_micro == [False, True, True, True]
    with pytest.raises(ValueError, match="does not run on tflite-micro"):
        benchmark([hybrid_file], runtimes=("tflite-micro",), rounds=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": (0,)}, "`threads` must be >= 1"),
        ({"rounds": 0}, "`rounds` must be >= 1"),
        ({"runtimes": ("abacus",)}, "`runtime` must be one of"),
        ({"runtimes": ("tflite-runtime",)}, "not installed"),
    ],
)
def test_arguments_are_checked(small_file, options, message):
    with pytest.raises(ValueError, match=message):
        benchmark([small_file], **options)


def test_a_file_is_measured_once(small_file):
    with pytest.raises(ValueError, match="each once"):
        benchmark([small_file, small_file])
    with pytest.raises(ValueError, match="Received: none"):
        benchmark([])


def test_an_arena_that_is_too_small_is_told(small_file):
    with pytest.raises(ValueError, match=r"must have 5\d,\d{3} bytes"):
        TFLiteModel(small_file, runtime="tflite-micro", arena_bytes=20_000)


def test_files_of_one_name_are_told_apart(monkeypatch, capsys):
    """Each run's folder has a model.tflite."""
    latency = timing.Latency(
        runtime="litert",
        threads=1,
        median_ms=1.0,
        p90_ms=2.0,
        calls=9,
        ratios={},
    )
    files = [
        timing.FileBenchmark(
            name=name,
            sha256="",
            size_bytes=9,
            macs=9,
            ops=9,
            arena_bytes=None,
            latencies=[latency],
            profile=[],
        )
        for name in ("a/model.tflite", "b/model.tflite", "c/other.tflite")
    ]
    report = timing.BenchmarkReport(
        files=files,
        references=[],
        rounds=1,
        measured_at="",
        hardware={"processor": "", "cores": 1},
        versions={},
    )
    monkeypatch.setattr(timing, "benchmark", lambda *_, **__: report)
    assert cli.main(["benchmark", *(file.name for file in files)]) == 0
    printed = capsys.readouterr().out
    for name in ("a/model.tflite", "b/model.tflite", "other.tflite"):
        assert printed.count(name) == 2
    assert "c/other.tflite" not in printed


def test_a_model_of_other_kernels_has_the_count_of_its_file(small):
    inputs = keras.Input((8, 4))
    model = keras.Model(inputs, keras.layers.LSTM(3)(inputs))
    assert macs_of(model, small) == 12_501_632
    model = keras.Model(inputs, keras.layers.Conv1D(3, 1)(inputs))
    assert macs_of(model, small) == 8 * 4 * 3
