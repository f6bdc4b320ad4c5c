"""The exported file: what it contains and what it computes.

Of GN-S 0.25, and of GN-S 1.0 with `make test-all`: random weights, and
BatchNorm statistics of real images, so that activations are ordinary.
"""

import json

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from gnsmall_keras.devices.checks import (
    Contents,
    find_faults,
    read_contents,
)
from gnsmall_keras.devices.runtime import TFLiteModel
from gnsmall_keras.devices.targets import TARGETS
from gnsmall_keras.export import tflite
from gnsmall_keras.export.arguments import checked_labels, checked_network
from gnsmall_keras.export.convert import Conversion
from gnsmall_keras.export.graph import Graph
from gnsmall_keras.export.operators import split
from gnsmall_keras.export.tflite import export_tflite
from gnsmall_keras.training import evaluation

pytestmark = pytest.mark.export
COMPARED = 100


@pytest.fixture
def model(conversion):
    return conversion.model


# Bytes of arena; the first has fewer units in its head.
ARENAS = {0.25: 65_000, 1.0: 155_000}


def test_file_fits_a_microcontroller(exported, width):
    path, report = exported
    assert report.faults == []
    contents = read_contents(path.read_bytes())
    assert set(contents.dtypes) == {"INT8", "INT32"}
    assert contents.dynamic_tensors == ()
    assert not set(contents.ops) & set(TARGETS["micro"].forbidden_ops)
    assert report.arena_bytes <= ARENAS[width]
    assert report.size_bytes == path.stat().st_size


def test_a_file_is_called_by_the_names_of_its_signature(exported):
    path, _ = exported
    found = Interpreter(model_path=str(path)).get_signature_list()
    assert found == {
        "serving_default": {"inputs": ["pixels"], "outputs": ["output_0"]}
    }


def test_runtimes_agree(exported):
    _, report = exported
    assert report.compared_images == COMPARED
    assert report.micro_difference_lsb == 0


def test_quantised_and_float_logits_agree(exported, model, real_data):
    path, _ = exported
    images = real_data.test_images[:COMPARED]
    expected = evaluation.predict_logits(model, images)
    found = TFLiteModel(path).predict(images)
    # Trained networks agree better; docs/log.md has their accuracies.
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] >= 0.9


def test_input_is_pixel_minus_128(exported):
    path, _ = exported
    interpreter = Interpreter(str(path))
    (details,) = interpreter.get_input_details()
    assert details["dtype"] == np.int8
    assert details["quantization"] == (1.0, -128)
    assert tuple(details["shape"]) == (1, 32, 32, 3)


def test_report_is_beside_the_file(exported):
    path, report = exported
    assert json.loads(path.with_suffix(".json").read_text()) == json.loads(
        report.to_json()
    )
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "model.json",
        "model.tflite",
    ]


def test_every_operator_of_xnnpack_is_within_one_step(exported, real_data):
    """Each operator alone, from the reference kernels' own inputs.

    Over the whole network the steps add up: a rounding in the first layer
    reaches the logits (ADR 8).
    """
    path, _ = exported
    data = path.read_bytes()
    graph = Graph(data)
    values = _reference_values(data, real_data.test_images[0], len(graph))
    assert len(graph.operators) > 150
    for index, (operator, alone) in enumerate(
        zip(graph.operators, split(data), strict=True)
    ):
        interpreter = Interpreter(model_content=alone.file, num_threads=1)
        interpreter.allocate_tensors()
        inputs = [
            tensor
            for tensor in dict.fromkeys(operator.sources)
            if graph.constant(tensor) is None
        ]
        for details, tensor in zip(
            interpreter.get_input_details(), inputs, strict=True
        ):
            interpreter.set_tensor(details["index"], values[tensor])
        interpreter.invoke()
        (details,) = interpreter.get_output_details()
        found = interpreter.get_tensor(details["index"]).astype(int)
        assert np.abs(found - values[operator.outputs[0]]).max() <= 1, index


def _reference_values(data, image, tensors):
    interpreter = Interpreter(
        model_content=data,
        experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    (details,) = interpreter.get_input_details()
    pixels = image[None].astype(int) - 128
    interpreter.set_tensor(details["index"], pixels.astype(np.int8))
    interpreter.invoke()
    return [
        interpreter.get_tensor(tensor["index"])
        for tensor in interpreter.get_tensor_details()[:tensors]
    ]


def test_a_batch_of_any_size_is_predicted_image_by_image(exported, real_data):
    path, _ = exported
    runner = TFLiteModel(path)
    images = real_data.test_images[:3]
    together = runner.predict(images)
    assert together.shape == (3, 10)
    np.testing.assert_array_equal(together[1:2], runner.predict(images[1:2]))
    assert runner.predict(images[:0]).shape == (0, 10)


@pytest.mark.slow
def test_odd_width_exports_for_phones(phone_file, real_data):
    report = phone_file.report
    assert report.faults == []
    assert report.micro_accuracy is not None
    assert report.xnnpack_partitions == 1
    (details,) = Interpreter(str(phone_file.path)).get_input_details()
    assert details["dtype"] == np.uint8
    total = (
        TFLiteModel(phone_file.path)
        .predict(real_data.test_images[:3])
        .sum(axis=1)
    )
    np.testing.assert_allclose(total, 1.0, atol=0.02)


@pytest.mark.parametrize(
    ("name", "message"),
    [("none/model.tflite", "does not exist"), ("model.bin", r"\.tflite")],
)
def test_path_rules_are_checked(small_network, tmp_path, name, message):
    images = np.zeros((1, 32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match=message):
        export_tflite(small_network, tmp_path / name, calibration_images=images)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((0, 32, 32, 3), np.uint8),
        np.zeros((5, 32, 32, 3), np.float32),
        np.zeros((5, 28, 28, 1), np.uint8),
    ],
)
def test_calibration_images_must_be_pixels(small_network, tmp_path, images):
    with pytest.raises(ValueError, match="calibration_images"):
        export_tflite(
            small_network,
            tmp_path / "model.tflite",
            calibration_images=images,
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((3, 1), np.int64), ""),
        (np.zeros(2, np.int64), r"shape \(3,\)\. Received: int64 \(2,\)"),
        (np.eye(3), r"give labels\.argmax\(-1\)"),
        (np.zeros(3), "Received: float64"),
    ],
)
def test_labels_are_an_index_for_each_image(small_network, labels, message):
    """As `keras.datasets` has them they would be compared each with all."""
    images = np.zeros((3, 32, 32, 3), np.uint8)
    if not message:
        found = checked_labels(labels, images, small_network)
        assert found.shape == (3,)
        return
    with pytest.raises(ValueError, match=message):
        checked_labels(labels, images, small_network)
    with pytest.raises(ValueError, match="without images"):
        checked_labels(labels, None, small_network)


def test_weights_that_are_not_finite_are_refused(small_network):
    for value in (np.nan, np.inf):
        network = keras.models.clone_model(small_network)
        layer = network.get_layer("classifier")
        kernel, bias = layer.get_weights()
        layer.set_weights([kernel, np.full_like(bias, value)])
        with pytest.raises(ValueError, match="inf in layer 'classifier'"):
            checked_network(network, "float32")


def test_unknown_target_is_refused(small_network, tmp_path):
    images = np.zeros((1, 32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match="target.*toaster"):
        export_tflite(
            small_network,
            tmp_path / "model.tflite",
            target="toaster",
            calibration_images=images,
        )


@pytest.mark.parametrize("kept", [8, 5000])
def test_file_that_does_not_run_is_not_left(
    exported, model, tmp_path, monkeypatch, kept
):
    data = exported[0].read_bytes()[:kept] if kept > 8 else b"\0" * kept
    monkeypatch.setattr(tflite, "convert", lambda *a, **k: Conversion(data))
    monkeypatch.setattr(tflite, "rewrite", lambda data, **k: data)
    monkeypatch.setattr(
        tflite, "read_contents", lambda data: Contents({}, {"INT8": 1}, ())
    )
    images = np.full((20, 32, 32, 3), 255, np.uint8)
    with pytest.raises(ValueError, match=r"not a .tflite file|does not run"):
        export_tflite(model, tmp_path / "m.tflite", calibration_images=images)
    assert list(tmp_path.iterdir()) == []


def test_files_that_do_not_run_are_explained(exported, tmp_path):
    with pytest.raises(ValueError, match="No file"):
        TFLiteModel(tmp_path / "none.tflite")
    (tmp_path / "text.tflite").write_text("hello, world")
    with pytest.raises(ValueError, match="not a .tflite file"):
        TFLiteModel(tmp_path / "text.tflite")
    path, _ = exported
    (tmp_path / "cut.tflite").write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match="does not run on litert"):
        TFLiteModel(tmp_path / "cut.tflite")
    with pytest.raises(ValueError, match="runtime.*litert"):
        TFLiteModel(path, runtime="abacus")


def test_images_that_do_not_fit_are_refused(exported):
    path, _ = exported
    with pytest.raises(ValueError, match="must be uint8 pixels"):
        TFLiteModel(path).predict(np.zeros((1, 32, 32, 3), np.float32))


def test_faults_are_named():
    contents = Contents({"TILE": 2}, {"FLOAT32": 3, "INT8": 9}, ("x",))
    faults = find_faults(contents, TARGETS["micro"])
    assert len(faults) == 3
    assert faults[0].startswith("2 TILE: not registered")


def test_quantize_is_told_apart_by_what_is_around_it():
    integers = Contents({"QUANTIZE": 36}, {"INT8": 300, "INT32": 9}, ())
    mixed = Contents({"QUANTIZE": 1}, {"INT8": 300, "FLOAT32": 1}, ())
    micro = TARGETS["micro"]
    assert find_faults(integers, micro, "int8-tfmot") == []
    assert find_faults(integers, micro, "int8") == [
        "36 QUANTIZE: changes the scale of integers"
    ]
    assert find_faults(mixed, micro, "int8")[0] == (
        "1 QUANTIZE: an island of floating point"
    )
