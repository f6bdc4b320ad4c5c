"""The exported file: what it contains and what it computes.

One GN-S 1.0 is converted for the whole file, with random weights and with
BatchNorm statistics of real images, so that its activations are ordinary.
Images are CIFAR-10's where they are at hand, else digits.
"""

import json

import flatbuffers
import numpy as np
import pytest
import tflite_micro
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from support import cifar10_folder, network_with_moments

from gnsmall_keras.data.sources import load_data
from gnsmall_keras.devices.checks import (
    Contents,
    count_partitions,
    find_faults,
    read_contents,
)
from gnsmall_keras.devices.edgetpu import predict_mapping
from gnsmall_keras.devices.runtime import TFLiteModel
from gnsmall_keras.devices.targets import TARGETS
from gnsmall_keras.export import rewrite as rules
from gnsmall_keras.export import tflite
from gnsmall_keras.export.convert import Conversion
from gnsmall_keras.export.graph import Graph
from gnsmall_keras.export.rewrite import rewrite, settled_scale
from gnsmall_keras.export.tflite import export_tflite
from gnsmall_keras.models.ghostnet import ghostnetv3_small
from gnsmall_keras.quantization.calibration import (
    calibration_indices,
    calibration_split,
)
from gnsmall_keras.training import evaluation

pytestmark = pytest.mark.export
COMPARED = 100


@pytest.fixture(scope="module")
def dataset():
    return load_data("cifar10" if cifar10_folder() else "digits")


@pytest.fixture(scope="module")
def model(dataset):
    return network_with_moments(dataset, width=1.0)


@pytest.fixture(scope="module")
def conversion(model, dataset, tmp_path_factory):
    """The file, its report, and what the converter made before rewriting."""
    path = tmp_path_factory.mktemp("export") / "model.tflite"
    given = []

    def recorded(data, **options):
        given.append(data)
        return rewrite(data, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tflite, "rewrite", recorded)
        report = export_tflite(
            model,
            path,
            calibration_images=calibration_split(dataset, 50),
            evaluation_images=dataset.test_images[:COMPARED],
            evaluation_labels=dataset.test_labels[:COMPARED],
        )
    return path, report, given[0]


@pytest.fixture(scope="module")
def exported(conversion):
    return conversion[:2]


@pytest.fixture(scope="module")
def converted(conversion):
    return conversion[2]


def test_file_fits_a_microcontroller(exported):
    path, report = exported
    assert report.faults == []
    contents = read_contents(path.read_bytes())
    assert set(contents.dtypes) == {"INT8", "INT32"}
    assert contents.dynamic_tensors == ()
    assert not set(contents.ops) & set(TARGETS["micro"].forbidden_ops)
    assert report.arena_bytes <= 155_000
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


def test_odd_width_exports_for_phones(dataset, tmp_path):
    path = tmp_path / "odd.tflite"
    report = export_tflite(
        network_with_moments(dataset, width=0.35, head_units=64),
        path,
        target="android",
        calibration_images=calibration_split(dataset, 20),
    )
    assert report.faults == []
    assert report.accuracy is None
    assert report.xnnpack_partitions == 1
    (details,) = Interpreter(str(path)).get_input_details()
    assert details["dtype"] == np.uint8
    total = TFLiteModel(path).predict(dataset.test_images[:3]).sum(axis=1)
    np.testing.assert_allclose(total, 1.0, atol=0.02)


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


def _run(data, images, resolver=OpResolverType.BUILTIN_REF):
    """The last integers of LiteRT, `(images, classes)`."""
    interpreter = Interpreter(
        model_content=data, experimental_op_resolver_type=resolver
    )
    interpreter.allocate_tensors()
    (given,) = interpreter.get_input_details()
    (made,) = interpreter.get_output_details()
    rows = []
    for image in images:
        pixels = (image[None].astype(int) - 128).astype(np.int8)
        interpreter.set_tensor(given["index"], pixels)
        interpreter.invoke()
        rows.append(interpreter.get_tensor(made["index"]).ravel())
    return np.stack(rows).astype(int)


@pytest.fixture(scope="module")
def images(dataset):
    return dataset.test_images[:30]


def test_every_rule_leaves_the_integers_as_they_are(converted, images):
    expected = _run(converted, images)
    graph = Graph(converted)
    for rule, saved in (
        (rules.drop_pads, 4),
        (rules.drop_scalings, 5),
        (rules.split_concatenations, -1),
        (rules.simplify_resizings, 0),
        (rules.drop_last_reshape, 1),
        (rules.order_operators, 0),
        (rules.drop_unused, 0),
    ):
        before = len(graph.main.operators)
        rule(graph)
        assert before - len(graph.main.operators) == saved, rule
        if rule is rules.drop_scalings:
            # New scales are rounded to float32, and so rarely a sum is.
            found = _run(graph.pack(), images)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1)
            assert np.mean(found != expected) <= 0.02
            expected = found
        if rule is rules.drop_unused:
            np.testing.assert_array_equal(_run(graph.pack(), images), expected)


def test_rewritten_file_is_small(converted):
    data = rewrite(converted)
    contents = read_contents(data)
    assert sum(contents.ops.values()) <= 165
    assert len(data) <= 520_000
    for target in ("micro", "edgetpu"):
        assert find_faults(contents, TARGETS[target]) == []
        assert not contents.ops.keys() - TARGETS[target].operators
    assert rewrite(data) == data


def test_xnnpack_takes_the_file_in_one_piece(converted, images):
    data = rewrite(converted, for_xnnpack=True)
    assert count_partitions(data) == 1
    assert count_partitions(converted) > 10
    expected = _run(converted, images)
    # Pools round halves otherwise; random weights make most of it.
    found = _run(data, images)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] >= 0.9


def test_edge_tpu_takes_every_operator(converted):
    report = predict_mapping(rewrite(converted))
    assert [each for each in report.operators if each.reason] == []
    assert report.cut_point is None
    assert report.parameters_fit
    assert 374_174 <= report.parameter_bytes <= 450_000


def test_edge_tpu_report_says_where_and_why_it_stops(converted):
    report = predict_mapping(converted)
    first = report.operators[report.cut_point]
    assert first.operator == "RESIZE_NEAREST_NEIGHBOR"
    assert "half-pixel" in first.reason
    whole = predict_mapping(rewrite(converted))
    assert report.parameter_bytes < whole.parameter_bytes / 10
    graph = Graph(converted)
    (reshape,) = graph.of_kind("RESHAPE")
    graph.tensors[reshape.outputs[0]].type = graph.schema.TensorType.FLOAT32
    assert (
        predict_mapping(graph.pack()).operators[-1].reason.startswith("a type")
    )


@pytest.mark.parametrize(
    ("scales", "points"),
    [
        ([0.081813268363, 0.029999999329, 0.27937367558], (-7, 79)),
        ([0.07434035837650299, 0.00390625, 0.036090776324272156], (48, -121)),
    ],
)
def test_runtimes_agree_on_settled_products(converted, scales, points):
    """Of these, LiteRT and TensorFlow Lite Micro round some otherwise."""
    scales = [float(np.float32(scale)) for scale in scales]
    settled = settled_scale(scales, points)
    assert settled == pytest.approx(scales[2], rel=1e-6)
    for scale, same in ((scales[2], False), (settled, True)):
        graph = Graph(converted)
        product = graph.of_kind("MUL")[0]
        tensors = [*product.inputs, *product.outputs]
        for tensor, *facts in zip(
            tensors, (*scales[:2], scale), (*points, 0), strict=True
        ):
            graph.quantize(tensor, *facts)
            graph.tensors[tensor].shape = np.array([1, 64, 64, 16], np.int32)
        graph.main.inputs, graph.main.outputs = tensors[:2], tensors[2:]
        graph.main.operators = [product]
        graph.model.signatureDefs = []
        assert _same_on_both(graph.pack()) == same


def _same_on_both(data):
    """Whether the product of every pair of integers is the same on both."""
    values = np.arange(-128, 128, dtype=np.int8)
    pairs = [
        each.reshape(1, 64, 64, 16)
        for each in (np.repeat(values, 256), np.tile(values, 256))
    ]
    reference = Interpreter(
        model_content=data,
        experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
    )
    reference.allocate_tensors()
    micro = tflite_micro.runtime.Interpreter.from_bytes(data, arena_size=2**20)
    for number, each in enumerate(pairs):
        reference.set_tensor(
            reference.get_input_details()[number]["index"], each
        )
        micro.set_input(each, number)
    reference.invoke()
    micro.invoke()
    (made,) = reference.get_output_details()
    return np.array_equal(
        reference.get_tensor(made["index"]), micro.get_output(0)
    )


def test_a_reader_that_is_not_a_convolution_keeps_its_pad(converted):
    graph = Graph(converted)
    pads = graph.of_kind("PAD")
    graph.consumers(pads[0].outputs[0])[0].builtinOptions.strideH = 1
    rules.drop_pads(graph)
    assert graph.of_kind("PAD") == pads[:1]
