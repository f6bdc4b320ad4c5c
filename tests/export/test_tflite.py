"""The exported file: what it contains and what it computes.

One GN-S 1.0 is converted for the whole file, with random weights and with
BatchNorm statistics of real images, so that its activations are ordinary.
Images are CIFAR-10's where they are at hand, else digits.
"""

import json

import flatbuffers
import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from support import cifar10_folder

from gnsmall_keras import evaluation
from gnsmall_keras.data.augment import normalize
from gnsmall_keras.data.sources import load_data
from gnsmall_keras.export import tflite
from gnsmall_keras.export.checks import (
    Contents,
    find_faults,
    read_contents,
)
from gnsmall_keras.export.convert import Conversion
from gnsmall_keras.export.runtime import TFLiteModel
from gnsmall_keras.export.targets import TARGETS
from gnsmall_keras.export.tflite import (
    calibration_indices,
    calibration_split,
    export_tflite,
)
from gnsmall_keras.models import layers
from gnsmall_keras.models.ghostnet import ghostnetv3_small

pytestmark = pytest.mark.export
COMPARED = 100


@pytest.fixture(scope="module")
def dataset():
    return load_data("cifar10" if cifar10_folder() else "digits")


@pytest.fixture(scope="module")
def model(dataset):
    return _network(dataset, width=1.0)


def _network(dataset, **options):
    """Random weights, and BatchNorm with the moments of real images."""
    keras.utils.set_random_seed(0)
    model = ghostnetv3_small(**options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "MOMENTUM", 0.0)
        model(normalize(dataset.train_images[:64]), training=True)
    return model


@pytest.fixture(scope="module")
def exported(model, dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "model.tflite"
    report = export_tflite(
        model,
        path,
        calibration_images=calibration_split(dataset, 50),
        evaluation_images=dataset.test_images[:COMPARED],
        evaluation_labels=dataset.test_labels[:COMPARED],
    )
    return path, report


def test_file_fits_a_microcontroller(exported):
    path, report = exported
    assert report.faults == []
    contents = read_contents(path.read_bytes())
    assert set(contents.dtypes) == {"INT8", "INT32"}
    assert contents.dynamic_tensors == ()
    assert not set(contents.ops) & set(TARGETS["micro"].forbidden_ops)
    assert report.arena_bytes <= 175_000
    assert report.size_bytes == path.stat().st_size


def test_runtimes_agree(exported):
    _, report = exported
    assert report.compared_images == COMPARED
    assert report.micro_difference_lsb == 0


def test_quantised_and_float_logits_agree(exported, model, dataset):
    path, _ = exported
    images = dataset.test_images[:COMPARED]
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


def test_every_operator_of_xnnpack_is_within_one_step(exported, dataset):
    """Each operator alone, from the reference kernels' own inputs.

    Over the whole network the steps add up: a rounding in the first layer
    reaches the logits (ADR 8).
    """
    path, _ = exported
    data = path.read_bytes()
    values = _reference_values(data, dataset.test_images[0])
    count = len(_graph(data).operators)
    assert count > 150
    for index in range(count):
        inputs, outputs, cut = _one_operator(data, index)
        interpreter = Interpreter(model_content=cut, num_threads=1)
        interpreter.allocate_tensors()
        for details, tensor in zip(
            interpreter.get_input_details(), inputs, strict=True
        ):
            interpreter.set_tensor(details["index"], values[tensor])
        interpreter.invoke()
        (details,) = interpreter.get_output_details()
        found = interpreter.get_tensor(details["index"]).astype(int)
        assert np.abs(found - values[outputs[0]]).max() <= 1, index


def _graph(data):
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    return model.subgraphs[0]


def _reference_values(data, image):
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
        for tensor in interpreter.get_tensor_details()[
            : len(_graph(data).tensors)
        ]
    ]


def _one_operator(data, index):
    """A file with one operator, whose variable inputs are the file's."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    graph = model.subgraphs[0]
    operator = graph.operators[index]
    made = {tensor for op in graph.operators for tensor in op.outputs}
    made |= set(graph.inputs)
    inputs = [
        tensor for tensor in dict.fromkeys(operator.inputs) if tensor in made
    ]
    graph.inputs, graph.outputs = inputs, list(operator.outputs)
    graph.operators = [operator]
    model.signatureDefs = []
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), b"TFL3")
    return inputs, list(operator.outputs), bytes(builder.Output())


def test_a_batch_of_any_size_is_predicted_image_by_image(exported, dataset):
    path, _ = exported
    runner = TFLiteModel(path)
    images = dataset.test_images[:3]
    together = runner.predict(images)
    assert together.shape == (3, 10)
    np.testing.assert_array_equal(together[1:2], runner.predict(images[1:2]))
    assert runner.predict(images[:0]).shape == (0, 10)


def test_calibration_images_are_pinned_and_of_every_class(dataset):
    labels = dataset.train_labels
    indices = calibration_indices(labels, 50)
    np.testing.assert_array_equal(indices, calibration_indices(labels, 50))
    assert np.all(np.bincount(labels[indices]) == 5)
    with pytest.raises(ValueError, match="must not exceed"):
        calibration_indices(labels, len(labels) + 1)


def test_odd_width_exports(dataset, tmp_path):
    report = export_tflite(
        _network(dataset, width=0.35, head_units=64),
        tmp_path / "odd.tflite",
        calibration_images=calibration_split(dataset, 20),
    )
    assert report.faults == []
    assert report.accuracy is None


@pytest.mark.parametrize(
    ("name", "message"),
    [("none/model.tflite", "does not exist"), ("model.bin", r"\.tflite")],
)
def test_path_rules_are_checked(tmp_path, name, message):
    images = np.zeros((1, 32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match=message):
        export_tflite(
            ghostnetv3_small(0.25), tmp_path / name, calibration_images=images
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((0, 32, 32, 3), np.uint8),
        np.zeros((5, 32, 32, 3), np.float32),
        np.zeros((5, 28, 28, 1), np.uint8),
    ],
)
def test_calibration_images_must_be_pixels(tmp_path, images):
    with pytest.raises(ValueError, match="calibration_images"):
        export_tflite(
            ghostnetv3_small(0.25),
            tmp_path / "model.tflite",
            calibration_images=images,
        )
    assert list(tmp_path.iterdir()) == []


def test_unknown_target_is_refused(tmp_path):
    images = np.zeros((1, 32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match="target.*toaster"):
        export_tflite(
            ghostnetv3_small(0.25),
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
