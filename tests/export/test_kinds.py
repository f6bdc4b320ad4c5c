"""Kinds of files, and what is refused or left where none can be made."""

import errno
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from support import run

from gnsmall_keras.config import QUANTIZATIONS, ExportConfig
from gnsmall_keras.data.augment import normalize
from gnsmall_keras.devices.runtime import TFLiteModel
from gnsmall_keras.export import smaller, tflite
from gnsmall_keras.export.convert import convert
from gnsmall_keras.export.measure import measure
from gnsmall_keras.export.tflite import export_tflite
from gnsmall_keras.models.counting import count_parameters
from gnsmall_keras.models.deploy import to_deploy
from gnsmall_keras.quantization.head import narrow_head
from gnsmall_keras.training import evaluation

pytestmark = [pytest.mark.export, pytest.mark.usefixtures("in_process")]


@pytest.fixture
def images(calibration_images):
    return calibration_images


@pytest.fixture
def model(small_network):
    return small_network


@pytest.mark.slow
def test_a_float16_file_is_for_phones_and_not_for_microcontrollers(
    model, images, real_data, tmp_path, monkeypatch
):
    path, made = tmp_path / "model.tflite", []

    def recorded(*arguments):
        made.append(narrow_head(*arguments))
        return made[-1]

    monkeypatch.setattr(smaller, "narrow_head", recorded)
    report = export_tflite(
        model,
        path,
        target="android",
        quantization="float16",
        head_units=48,
        calibration_images=images,
        evaluation_images=images[:20],
    )
    assert set(report.dtypes) <= {"FLOAT16", "FLOAT32", "INT32"}
    assert report.calibration is None
    assert report.accuracy is None  # images, but no labels
    assert (report.faults, report.arena_bytes) == ([], None)
    assert report.head_units == 48
    assert report.parameters < count_parameters(to_deploy(model))
    assert report.agreement >= 0.5  # with the network of all units
    (narrow,), some = made, real_data.test_images[:20]
    floats = run(narrow, normalize(some), training=False)
    found = TFLiteModel(path).predict_raw(some)
    assert evaluation.agreement(found, floats) >= 0.8
    # Their kernels do not know it.
    faults = measure(path, narrow, some[:0], None, "micro")["faults"]
    assert "does not run on tflite-micro" in faults[-1]


@pytest.mark.slow
def test_an_int16x8_file_runs_on_microcontrollers(
    model, images, real_data, tmp_path
):
    report = export_tflite(
        model,
        tmp_path / "model.tflite",
        quantization="int16x8",
        calibration_images=images,
        evaluation_images=real_data.test_images[:20],
    )
    assert set(report.dtypes) <= {"INT8", "INT16", "INT32", "INT64"}
    assert report.calibration is None
    assert report.faults == []
    assert report.arena_bytes > 0


def test_operators_without_counterpart_are_named_with_their_layers(images):
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Resizing(8, 8, interpolation="bicubic", name="odd")(inputs)
    x = keras.layers.Flatten()(x)
    model = keras.Model(inputs, x)
    with pytest.raises(ValueError, match="ResizeBicubic in layer 'odd'"):
        convert(model, calibration_images=images)


def _network_with(activation):
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 5, strides=4, activation=activation)(inputs)
    return keras.Model(
        inputs, keras.layers.Dense(10)(keras.layers.Flatten()(x))
    )


def test_files_run_whose_operators_the_reference_kernels_lack(images, tmp_path):
    model, path = _network_with("elu"), tmp_path / "model.tflite"
    given = {"calibration_images": images, "evaluation_images": images[:20]}
    report = export_tflite(
        model, path, target="android", quantization="float32", **given
    )
    assert report.agreement == 1.0
    with pytest.warns(UserWarning, match="reference kernels have no ELU"):
        report = export_tflite(model, path, **given)
    assert report.agreement > 0.8
    differences = report.xnnpack_difference_lsb, report.micro_difference_lsb
    assert differences == (None, None)


@pytest.mark.parametrize("activation", ["elu", "hard_swish"])
def test_operators_that_int16_files_lack_are_named(images, activation):
    config = ExportConfig(quantization="int16x8")
    message = f"int16x8 files cannot have the operator {activation.upper()}, "
    with pytest.raises(ValueError, match=f"{message}which.*Replace"):
        convert(
            _network_with(activation), config, calibration_images=images[:2]
        )


def test_refusals_name_the_file_that_was_asked_for(images, tmp_path):
    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(10, 3)(inputs))
    with pytest.raises(ValueError, match=r"[\\/]odd\.tflite does not run on"):
        export_tflite(model, tmp_path / "odd.tflite", calibration_images=images)
    assert list(tmp_path.iterdir()) == []


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


@pytest.mark.parametrize(
    ("target", "refused"),
    [
        ("android", {"int16x8", "int8-tfmot"}),
        ("edgetpu", {"float32", "float16", "dynamic", "int16x8"}),
        ("ethos-u", {"float32", "float16", "dynamic"}),
        ("micro", set()),
        ("web", {"float32", "float16", "dynamic", "int16x8", "int8-tfmot"}),
    ],
)
def test_what_a_target_does_not_take_is_refused(target, refused):
    for quantization in QUANTIZATIONS:
        if quantization in refused:
            with pytest.raises(ValueError, match=target):
                ExportConfig(target=target, quantization=quantization)
        else:
            ExportConfig(target=target, quantization=quantization)


def test_what_an_edge_tpu_leaves_to_the_cpu_is_a_violation(images, tmp_path):
    layers = keras.layers
    inputs = keras.Input((32, 32, 3))
    x = layers.Resizing(48, 48, interpolation="nearest")(inputs)
    x = layers.Conv2D(4, 3)(x)
    x = layers.Dense(10)(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, x)
    for target, expected in (("micro", []), ("edgetpu", ["RESIZE_NEAREST"])):
        report = export_tflite(
            model,
            tmp_path / f"{target}.tflite",
            target=target,
            calibration_images=images,
        )
        assert [each[:14] for each in report.faults] == expected
    assert "operator 2 of 5 on: half-pixel" in report.faults[0]


def test_a_full_disk_leaves_nothing(
    exported_small, images, tmp_path, monkeypatch
):
    write, made = Path.write_bytes, exported_small.conversion

    def fill(path, data):
        write(path, data[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tflite, "convert", lambda *a, **k: made)
    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(OSError, match="No space"):
        export_tflite(
            exported_small.model,
            tmp_path / "model.tflite",
            calibration_images=images,
        )
    assert list(tmp_path.iterdir()) == []


_EXPORT = """
import sys, numpy as np
from gnsmall_keras import load_model, to_deploy
from gnsmall_keras.export.convert import convert
from gnsmall_keras.export.measure import measure
model, images, out = sys.argv[1:]
data = convert(
    to_deploy(load_model(model)), calibration_images=np.load(images)
).data
open(out, "wb").write(data)
"""


@pytest.mark.slow  # a quarter of a minute and more each
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_every_backend_gives_the_same_file(
    exported_small, images, tmp_path, backend
):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    exported_small.model.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", images)
    names = ("model.keras", "images.npy", "model.tflite")
    subprocess.run(
        [sys.executable, "-c", _EXPORT, *(tmp_path / name for name in names)],
        env={**os.environ, "KERAS_BACKEND": backend},
        check=True,
    )
    assert (
        tmp_path / "model.tflite"
    ).read_bytes() == exported_small.conversion.data
