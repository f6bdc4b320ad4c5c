"""What rewriting leaves of a file: the same integers from fewer operators."""

import keras
import numpy as np
import pytest
import tflite_micro
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from gnsmall_keras.devices.checks import (
    count_partitions,
    find_faults,
    read_contents,
)
from gnsmall_keras.devices.edgetpu import predict_mapping
from gnsmall_keras.devices.targets import TARGETS
from gnsmall_keras.export import rewrite as rules
from gnsmall_keras.export.convert import convert
from gnsmall_keras.export.graph import Graph
from gnsmall_keras.export.rewrite import rewrite
from gnsmall_keras.export.rounding import settled_scale, settled_sigmoid

pytestmark = pytest.mark.export


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
def images(real_data):
    return real_data.test_images[:30]


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
        before = len(graph.operators)
        rule(graph)
        assert before - len(graph.operators) == saved, rule
        if rule is rules.drop_scalings:
            # New scales are rounded to float32, and so rarely a sum is.
            found = _run(graph.to_bytes(), images)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1)
            assert np.mean(found != expected) <= 0.02
            expected = found
        if rule is rules.drop_unused:
            np.testing.assert_array_equal(
                _run(graph.to_bytes(), images), expected
            )


@pytest.mark.usefixtures("in_process")
def test_a_kernel_that_is_called_twice_takes_each_factor_alone(images):
    layers = keras.layers
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3))
    shared, act = layers.Conv2D(4, 3), keras.activations.hard_sigmoid
    gates = [
        layers.Activation(act)(shared(x))
        for x in (inputs, layers.MaxPooling2D(2)(inputs))
    ]
    pooled = [layers.GlobalAveragePooling2D()(gate) for gate in gates]
    x = layers.Dense(10)(layers.Concatenate()(pooled))
    model = keras.Model(inputs, x)
    data = convert(model, calibration_images=images).data
    before, graph = Graph(data), Graph(data)
    kernels = {op.inputs[1] for op in before.of_kind("CONV_2D")}
    assert len(kernels) == 1
    rules.drop_scalings(graph)
    assert len(before.of_kind("MUL")) - len(graph.of_kind("MUL")) == 2
    expected = _run(data, images)
    assert len(np.unique(expected)) > 20
    found = _run(graph.to_bytes(), images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1)


# Bytes of the file, and bytes of weights on the Edge TPU from and to: at least
# the parameters.
SIZES = {
    0.25: (67_000, 17_320, 26_000),
    1.0: (520_000, 374_174, 450_000),
}


def test_rewritten_file_is_small(converted, width):
    data = rewrite(converted)
    contents = read_contents(data)
    assert sum(contents.ops.values()) <= 165
    assert len(data) <= SIZES[width][0]
    for target in ("micro", "edgetpu"):
        assert find_faults(contents, TARGETS[target]) == []
        assert not contents.ops.keys() - TARGETS[target].operators
    assert rewrite(data) == data


def test_equal_options_and_scales_are_stored_once(converted):
    from ai_edge_litert import schema_py_generated as schema

    graph = Graph(rewrite(converted))
    data = graph.to_bytes()
    main = schema.Model.GetRootAs(data, 0).Subgraphs(0)
    options = [
        main.Operators(index).BuiltinOptions()
        for index in range(main.OperatorsLength())
    ]
    places = {table.Pos for table in options if table}
    assert len(places) < 0.2 * len(options)
    again = Graph(data)  # and every operator still has its own
    for old, new in zip(graph.operators, again.operators, strict=True):
        assert type(old.options) is type(new.options)
        if old.options is not None:
            assert vars(old.options) == vars(new.options)
    for old, new in zip(graph.tensors, again.tensors, strict=True):
        for name in ("scale", "zeroPoint"):
            values = (getattr(each.quantization, name) for each in (old, new))
            np.testing.assert_array_equal(*values)


def test_xnnpack_takes_the_file_in_one_piece(converted, images):
    data = rewrite(converted, for_xnnpack=True)
    assert count_partitions(data) == 1
    assert count_partitions(converted) > 10
    expected = _run(converted, images)
    # Pools round halves otherwise; random weights make most of it.
    found = _run(data, images)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] >= 0.9


def test_edge_tpu_takes_every_operator(converted, width):
    report = predict_mapping(rewrite(converted))
    assert [each for each in report.operators if each.reason] == []
    assert report.cut_point is None
    assert report.parameters_fit
    _, least, most = SIZES[width]
    assert least <= report.parameter_bytes <= most


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
        predict_mapping(graph.to_bytes())
        .operators[-1]
        .reason.startswith("a type")
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
        graph.inputs, graph.outputs = tensors[:2], tensors[2:]
        graph.operators = [product]
        graph.model.signatureDefs = []
        assert _same_on_both(graph.to_bytes()) == same


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
    graph.consumers(pads[0].outputs[0])[0].options.strideH = 1
    rules.drop_pads(graph)
    assert graph.of_kind("PAD") == pads[:1]


def test_sigmoids_have_no_value_between_two_integers():
    # Of a file whose value for 2 is 29.5000003: LiteRT gave 30, TensorFlow
    # Lite Micro 29.
    scale, point = 0.05867111310362816, -6
    settled = settled_sigmoid(scale, point)
    assert scale < settled < scale * 1.00001
    outputs = 256 / (1 + np.exp(-(np.arange(-128, 128) - point) * settled))
    assert np.abs(outputs % 1 - 0.5).min() > 1e-5
    assert settled_sigmoid(settled, point) == settled
