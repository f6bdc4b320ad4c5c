"""Kinds of files, calibration, and what a network learns of its rounding.

Files are converted within the test's process; tests/export/test_tflite.py and
the test of backends here start the process of its own that users get. Networks
are small, with BatchNorm statistics of real images.
"""

import dataclasses
import errno
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from support import ROOT, network_with_moments

from gnsmall_keras.config import ExportConfig, TrainConfig
from gnsmall_keras.data.batches import EvaluationBatches
from gnsmall_keras.data.sources import load_data
from gnsmall_keras.devices.checks import read_contents
from gnsmall_keras.devices.runtime import TFLiteModel
from gnsmall_keras.distill.distiller import Distiller
from gnsmall_keras.distill.losses import LabelCrossEntropy
from gnsmall_keras.export import convert as converting
from gnsmall_keras.export.convert import convert
from gnsmall_keras.export.flatbuffer import Network, find_layer
from gnsmall_keras.export.tflite import export_tflite
from gnsmall_keras.models.deploy import to_deploy
from gnsmall_keras.models.ghostnet import ghostnetv3_small
from gnsmall_keras.quantization import calibration
from gnsmall_keras.quantization.calibration import (
    calibration_split,
    clip_range,
    find_extremes,
    trace,
)
from gnsmall_keras.quantization.equalize import equalize
from gnsmall_keras.quantization.layer_errors import find_layer_errors
from gnsmall_keras.quantization.post_training import prepare, to_integers
from gnsmall_keras.quantization.qat import (
    KeepBest,
    QuantizationTraining,
    prepare_training,
)
from gnsmall_keras.quantization.simulation import (
    Int8Simulation,
    fake_quantize,
    fake_quantize_kernel,
)
from gnsmall_keras.records.run import read_records
from gnsmall_keras.report.figures.drawing import render
from gnsmall_keras.report.figures.noise import draw_layer_errors
from gnsmall_keras.training.splits import split

pytestmark = pytest.mark.export


@pytest.fixture(scope="module")
def dataset():
    return load_data("digits")


@pytest.fixture(scope="module")
def images(dataset):
    return calibration_split(dataset, 20)


@pytest.fixture(scope="module")
def model(dataset):
    return network_with_moments(dataset, width=0.25, head_units=32)


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    """The worker's part without a process, which costs seconds each time."""

    def run(work, *, speaks):
        try:
            converting._work(work)
        except SystemExit:
            raise ValueError((work / "refusal.txt").read_text()) from None

    monkeypatch.setattr(converting, "_run_worker", run)


@pytest.fixture(scope="module")
def converted(model, images):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            converting,
            "_run_worker",
            lambda work, speaks: converting._work(work),
        )
        return convert(to_deploy(model), calibration_images=images)


def _predict(data, images, folder, runtime="litert-reference"):
    path = folder / "model.tflite"
    path.write_bytes(data)
    return TFLiteModel(path, runtime=runtime).predict(images)


@pytest.mark.parametrize(
    ("quantization", "dtypes"),
    [
        ("float16", {"FLOAT16", "FLOAT32", "INT32"}),
        ("int16x8", {"INT8", "INT16", "INT32", "INT64"}),
    ],
)
def test_kinds_contain_what_they_say(
    model, images, dataset, tmp_path, quantization, dtypes
):
    report = export_tflite(
        model,
        tmp_path / "model.tflite",
        quantization=quantization,
        calibration_images=images,
        evaluation_images=dataset.test_images[:20],
    )
    assert set(report.dtypes) <= dtypes
    assert report.calibration is None
    if quantization == "int16x8":
        assert report.faults == []
        assert report.arena_bytes > 0  # microcontrollers' kernels run it
    else:  # which microcontrollers' kernels do not know
        assert report.agreement >= 0.8
        assert "does not run on tflite-micro" in report.faults[-1]


def test_a_file_for_phones_need_not_run_on_microcontrollers(
    model, images, tmp_path
):
    report = export_tflite(
        model,
        tmp_path / "model.tflite",
        target="android",
        quantization="float16",
        calibration_images=images,
    )
    assert (report.faults, report.arena_bytes) == ([], None)


def test_equalized_network_computes_the_same(converted, images, tmp_path):
    network = Network(converted.floats)
    data = network.to_bytes()
    lows, highs = find_extremes(data, images)
    largest = {t: np.maximum(-lows[t], highs[t]) for t in lows}
    equalize(network, largest, power=1.0)
    expected = _predict(data, images, tmp_path)
    found = _predict(network.to_bytes(), images, tmp_path)
    np.testing.assert_allclose(found, expected, atol=1e-3 * expected.std())
    before, after = (
        _spread(find_extremes(each, images)[1], network)
        for each in (data, network.to_bytes())
    )
    assert after < 0.9 * before


def _spread(highs, network):
    """How unlike the ranges of channels after ReLU are."""
    spreads = []
    for operator in network.operators:
        channels = highs[operator.outputs[0]]
        if operator.activation == "RELU" and channels.min() > 0:
            spreads.append(np.log(channels).std())
    return np.mean(spreads)


def test_rare_values_are_clipped_and_common_ones_are_not():
    common = np.full(2048, 100.0)
    assert clip_range(common, 0.0, 8.0) == pytest.approx((0.0, 8.0), rel=0.02)
    rare = np.where(np.arange(2048) < 256, 1e5, 0.0)
    rare[-1] = 1
    low, high = clip_range(rare, 0.0, 8.0)
    assert low == 0.0
    assert 0.9 <= high < 2.0


def test_one_odd_image_does_not_set_the_ranges(monkeypatch, images):
    """One of 41 whose values are a hundred times as large as the others'."""
    sizes = np.repeat([0.01, 1.0], [40, 1]).astype(np.float32)
    traced = [[size * np.linspace(-1, 1, 64)] for size in sizes]
    monkeypatch.setattr(calibration, "trace", lambda *given: iter(traced))
    ranges = calibration._least_error(b"", images, {0: (-1.0, 1.0)})
    assert max(map(abs, ranges[0])) < 0.3


def test_units_that_never_wake_leave_a_file_that_loads(
    model, converted, images, tmp_path
):
    network = Network(converted.floats, _names(model))
    for number, operator in enumerate(network.operators):
        if operator.layer == "head_conv":
            bias = network.own_input(number, 2)
            network.set_constant(bias, network.constant(bias) - 1e3)
    prepare(network, images, "minmax")
    data = to_integers(network, input_dtype="int8")
    assert np.isfinite(_predict(data, images[:2], tmp_path, "litert")).all()


def _names(model):
    return [layer.name for layer in model.layers]


def test_rounding_of_values_and_kernels():
    values = np.array([-9.0, -0.26, 0.24, 0.26, 9.0], np.float32)
    found = keras.ops.convert_to_numpy(fake_quantize(values, 0.5, -126))
    np.testing.assert_allclose(found, [-1.0, -0.5, 0.0, 0.5, 9.0])
    kernel = np.array([[1.27, 0.014], [-2.54, 0.03]], np.float32)
    found = keras.ops.convert_to_numpy(
        fake_quantize_kernel(keras.ops.convert_to_tensor(kernel), 0)
    )
    np.testing.assert_allclose(found, [[1.27, 0.01], [-2.54, 0.04]], rtol=1e-5)


def test_simulation_computes_what_the_file_does(converted, images):
    """Each operator alone, from the file's own values."""
    network, quantized = Network(converted.floats), Network(converted.data)
    layer = Int8Simulation(network, quantized)
    (traced,) = trace(converted.data, images[:1], reference=True)
    values = {network.inputs[0]: images[:1].astype(np.float32)}
    for ours, theirs in zip(
        network.operators, quantized.operators, strict=True
    ):
        scale, zero_point = quantized.quantization(theirs.outputs[0])
        found = layer.compute(ours, values)
        integers = traced[theirs.outputs[0]].astype(np.float32)
        values[ours.outputs[0]] = (integers - zero_point) * scale
        errors = np.abs(found - values[ours.outputs[0]]) / scale
        assert errors.max() <= 1.01, ours
        # The kernel of MEAN scales by a number of few digits. Of 32 values
        # one may lie on the border between two steps.
        few = max(0.03, 1.01 / errors.size)
        assert errors.mean() <= (0.3 if ours.kind == "MEAN" else few), ours


def test_network_learns_its_rounding(model, images, dataset, tmp_path):
    training = QuantizationTraining(
        images=dataset.train_images[:64],
        labels=dataset.train_labels[:64],
        validation_images=dataset.train_images[64:96],
        validation_labels=dataset.train_labels[64:96],
        teacher=model,
        batch_size=32,
        flip=False,
    )
    report = export_tflite(
        model,
        tmp_path / "model.tflite",
        quantization="int8-qat",
        calibration_images=images,
        training=training,
        layer_errors=True,
    )
    assert report.faults == []
    assert set(report.dtypes) == {"INT8", "INT32"}
    assert report.qat["teacher"] == model.name
    assert len(report.qat["validation_losses"]) == 2
    assert {"stem", "classifier"} <= {entry.layer for entry in report.layers}


@pytest.mark.parametrize(("rate", "improves"), [(1e-3, True), (1e3, False)])
def test_the_weights_best_on_validation_images_are_kept(
    dataset, rate, improves
):
    flat, logits = keras.layers.Flatten(), keras.layers.Dense(10)
    student = keras.Sequential([keras.Input((32, 32, 3)), flat, logits])
    distiller = Distiller(student=student)
    distiller.compile(keras.optimizers.SGD(rate), loss=LabelCrossEntropy())
    images, labels = dataset.train_images, dataset.train_labels
    best = KeepBest(images[:100], labels[:100])
    distiller.fit(
        EvaluationBatches(images[:200], labels[:200], batch_size=100),
        epochs=2,
        callbacks=[best],
        verbose=0,
    )
    assert len(best.losses) == 3  # before, and after each epoch
    assert (min(best.losses) < best.losses[0]) == improves
    batches = EvaluationBatches(images[:100], labels[:100])
    found = distiller.evaluate(batches, verbose=0)
    assert found == pytest.approx(min(best.losses), rel=1e-5)


def _export_config(**options):
    return ExportConfig(quantization="int8-qat", **options)


def _run_on(dataset, **config):
    (record, *_) = read_records(ROOT / "papermill_runs/index.jsonl")
    return dataclasses.replace(
        record,
        data_digest=dataset.digest,
        config={**record.config, "data": "digits", **config},
    )


def test_a_network_learns_on_the_images_of_its_run(model, dataset):
    run = _run_on(dataset, seed=3, validation_fraction=0.2)
    config = TrainConfig(seed=3, validation_fraction=0.2)
    expected = split(dataset, config)
    found = prepare_training(model, dataset, _export_config(qat_epochs=2), run)
    np.testing.assert_array_equal(found.images, expected.fitting.images)
    np.testing.assert_array_equal(
        found.validation_images, expected.validation.images
    )
    assert found.epochs == 2
    # Its own fused form teaches, alone.
    assert found.label_weight == 0.0
    assert found.temperature == 1.0
    assert found.teacher.count_params() < model.count_params()


def test_no_image_is_held_out_of_the_paper_s_protocol(model, dataset):
    run = _run_on(dataset, protocol="paper")
    found = prepare_training(model, dataset, _export_config(), run)
    assert len(found.images) == len(dataset.train_images)
    assert not found.validates


def test_few_images_are_of_all_classes(model, dataset):
    order = np.argsort(dataset.train_labels, kind="stable")  # as folders have
    by_class = dataclasses.replace(
        dataset,
        train_images=dataset.train_images[order],
        train_labels=dataset.train_labels[order],
    )
    found = prepare_training(model, by_class, _export_config(qat_images=100))
    assert np.bincount(found.labels).tolist() == [10] * 10


def test_learning_changes_weights_but_not_the_normalisation(
    converted, images, dataset
):
    network = Network(converted.floats)
    layer = Int8Simulation(network, Network(converted.data))
    (first, *_, last) = [op for op in network.operators if op.is_linear]
    kept = network.constant(first.inputs[1])
    before = network.constant(last.inputs[1])
    for weight in layer.trainable_weights:
        weight.assign(2.0 * weight)
    layer.write_back()
    np.testing.assert_array_equal(network.constant(first.inputs[1]), kept)
    np.testing.assert_allclose(
        network.constant(last.inputs[1]), 2.0 * before, rtol=1e-6
    )


def test_operators_are_compared_one_by_one(converted, images):
    errors = find_layer_errors(
        converted.floats, converted.data, converted.layers, images[:3]
    )
    assert [error.layer for error in errors] == list(converted.layers)
    assert {"stem", "classifier"} <= {error.layer for error in errors}
    linear = [error for error in errors if error.op == "CONV_2D"]
    assert all(0 < error.error_steps < 127 for error in linear)
    # The first operators have no errors before them but the rounding's own.
    assert errors[0].error_steps < 0.5
    assert errors[0].sqnr_db > errors[-1].sqnr_db
    assert render(draw_layer_errors(errors), "png").startswith(b"\x89PNG")


def test_chosen_layers_stay_float(model, converted):
    network = Network(converted.floats, _names(model))
    data = to_integers(network, input_dtype="int8", float_layers=["stem"])
    contents = read_contents(data)
    assert contents.ops["DEQUANTIZE"] == contents.ops["QUANTIZE"] == 1
    with pytest.raises(ValueError, match="`float_layers`.*'stemm'.*stem"):
        to_integers(network, input_dtype="int8", float_layers=["stemm"])


def test_operators_without_counterpart_are_named_with_their_layers(images):
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Resizing(8, 8, interpolation="bicubic", name="odd")(inputs)
    x = keras.layers.Flatten()(x)
    model = keras.Model(inputs, x)
    with pytest.raises(ValueError, match="ResizeBicubic in layer 'odd'"):
        convert(model, calibration_images=images)


def test_names_of_layers_are_found_in_tensors_names():
    names = {"stem", "block_1", "block"}
    assert find_layer("m_1/stem_relu_1/Relu;m_1/stem_1/conv", names) == "stem"
    assert find_layer("m_1/block_1/conv", names) == "block_1"
    assert find_layer("m_1/other/conv", names) == "m_1/other/conv"


def test_few_or_scaled_calibration_images_are_told(model, images, tmp_path):
    path = tmp_path / "model.tflite"
    with pytest.raises(ValueError, match="0 to 255. Received: 0 to 1"):
        export_tflite(model, path, calibration_images=images // 200)
    with (
        pytest.warns(UserWarning, match="19 calibration images"),
        pytest.raises(ValueError, match="needs `training`"),
    ):
        export_tflite(
            model,
            path,
            calibration_images=images[:19],
            quantization="int8-qat",
        )
    assert list(tmp_path.iterdir()) == []


def test_training_data_must_fit(model, dataset):
    good = QuantizationTraining(
        images=dataset.train_images[:64], labels=dataset.train_labels[:64]
    )
    good.check(model)
    for changes, message in (
        ({"images": good.images / 255.0}, "uint8 pixels"),
        ({"labels": good.labels + 1}, r"in \[0, 10\)"),
        ({"teacher": ghostnetv3_small(0.25, classes=7)}, "7"),
        (
            {
                "validation_images": good.images,
                "validation_labels": good.labels + 1,
            },
            r"`validation_images` must be in \[0, 10\)",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(good, **changes).check(model)
    for changes, message in (
        ({"labels": good.labels[1:]}, "one length"),
        ({"validation_images": good.images}, "or neither"),
        (
            {
                "validation_images": good.images,
                "validation_labels": good.labels[1:],
            },
            "`validation_images` and `validation_labels`",
        ),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 65}, "batch_size"),
        ({"peak_learning_rate": np.nan}, "peak_learning_rate"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(good, **changes)


def test_options_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="`teacher` belongs to"):
        ExportConfig(teacher="teacher.keras")
    with pytest.raises(ValueError, match="`qat_images` belongs to"):
        ExportConfig(qat_images=100)
    with pytest.raises(ValueError, match="`float_layers` belongs to"):
        ExportConfig(quantization="float16", float_layers=("stem",))
    with pytest.raises(ValueError, match="`qat_epochs` belongs to"):
        ExportConfig(quantization="int8", qat_epochs=2)
    with pytest.raises(ValueError, match="`calibration` belongs to"):
        ExportConfig(quantization="float16", calibration="minmax")
    with pytest.raises(ValueError, match="int4"):
        ExportConfig(quantization="int4")  # pyright: ignore


def test_a_full_disk_leaves_nothing(
    model, converted, images, tmp_path, monkeypatch
):
    from gnsmall_keras.export import tflite

    write = Path.write_bytes

    def fill(path, data):
        write(path, data[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tflite, "convert", lambda *a, **k: converted)
    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(OSError, match="No space"):
        export_tflite(
            model, tmp_path / "model.tflite", calibration_images=images
        )
    assert list(tmp_path.iterdir()) == []


_EXPORT = """
import sys, numpy as np
from gnsmall_keras import load_model, to_deploy
from gnsmall_keras.export.convert import convert
model, images, out = sys.argv[1:]
data = convert(
    to_deploy(load_model(model)), calibration_images=np.load(images)
).data
open(out, "wb").write(data)
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_every_backend_gives_the_same_file(
    model, converted, images, tmp_path, backend
):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    both = os.environ.get("GNSMALL_TEST_ALL")
    if backend == "jax" and importlib.util.find_spec("torch") and not both:
        pytest.skip("one other backend tells; GNSMALL_TEST_ALL=1 has both")
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", images)
    names = ("model.keras", "images.npy", "model.tflite")
    subprocess.run(
        [sys.executable, "-c", _EXPORT, *(tmp_path / name for name in names)],
        env={**os.environ, "KERAS_BACKEND": backend},
        check=True,
    )
    assert (tmp_path / "model.tflite").read_bytes() == converted.data
