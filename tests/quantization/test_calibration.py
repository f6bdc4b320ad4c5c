"""Ranges of calibration, equalisation, and errors of layers."""

import keras
import numpy as np
import pytest

from gnsmall_keras.devices.checks import read_contents
from gnsmall_keras.devices.runtime import TFLiteModel
from gnsmall_keras.export.convert import float_network
from gnsmall_keras.export.graph import Graph, find_layer
from gnsmall_keras.quantization import calibration
from gnsmall_keras.quantization.calibration import (
    calibration_split,
    clip_range,
    find_extremes,
)
from gnsmall_keras.quantization.equalize import equalize
from gnsmall_keras.quantization.layer_errors import find_layer_errors
from gnsmall_keras.quantization.post_training import prepare, to_integers
from gnsmall_keras.report.figures.drawing import render
from gnsmall_keras.report.figures.noise import draw_layer_errors

pytestmark = pytest.mark.export


def test_calibration_images_are_of_the_training_split(dataset):
    found = {image.tobytes() for image in calibration_split(dataset, 40)}
    assert len(found) == 40
    assert found <= {image.tobytes() for image in dataset.train_images}
    assert found.isdisjoint(image.tobytes() for image in dataset.test_images)
    few = calibration_split(dataset, 10**6)
    np.testing.assert_array_equal(few, dataset.train_images)


def _predict(data, images, folder, runtime="litert-reference"):
    path = folder / "model.tflite"
    path.write_bytes(data)
    return TFLiteModel(path, runtime=runtime).predict(images)


def test_equalized_network_computes_the_same(converted, images, tmp_path):
    network = Graph(converted.floats)
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


def test_a_mean_over_as_many_channels_as_columns_is_no_tie(images, tmp_path):
    """Its output's last side is as long as its input's, of other things."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, 4, padding="same", activation="relu")(inputs)
    x = keras.layers.Dense(12, activation="relu")(keras.ops.mean(x, axis=-1))
    x = keras.layers.Dense(10)(keras.layers.Flatten()(x))
    network = float_network(keras.Model(inputs, x))
    (mean,) = network.of_kind("MEAN")
    assert network.shape(mean.inputs[0])[-1] == 8
    assert network.shape(mean.outputs[0]) == (1, 8, 8)
    expected = _predict(network.to_bytes(), images, tmp_path)
    prepare(network, images, "mse")
    found = _predict(network.to_bytes(), images, tmp_path)
    np.testing.assert_allclose(found, expected, atol=1e-3 * expected.std())


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
    network = Graph(converted.floats, _names(model))
    for operator in network.operators:
        if operator.layer == "head_conv":
            bias = network.own_input(operator, 2)
            network.set_constant(bias, network.constant(bias) - 1e3)
    prepare(network, images, "minmax")
    data = to_integers(network, input_dtype="int8")
    assert np.isfinite(_predict(data, images[:2], tmp_path, "litert")).all()


def _names(model):
    return [layer.name for layer in model.layers]


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
    network = Graph(converted.floats, _names(model))
    data = to_integers(network, input_dtype="int8", float_layers=["stem"])
    contents = read_contents(data)
    assert contents.ops["DEQUANTIZE"] == contents.ops["QUANTIZE"] == 1
    with pytest.raises(ValueError, match="`float_layers`.*'stemm'.*stem"):
        to_integers(network, input_dtype="int8", float_layers=["stemm"])


def test_names_of_layers_are_found_in_tensors_names():
    names = {"stem", "block_1", "block"}
    assert find_layer("m_1/stem_relu_1/Relu;m_1/stem_1/conv", names) == "stem"
    assert find_layer("m_1/block_1/conv", names) == "block_1"
    assert find_layer("m_1/other/conv", names) == "m_1/other/conv"


@pytest.mark.parametrize("method", ["minmax", "mse"])
def test_operators_of_several_outputs_are_quantised(images, method, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, activation="relu")(inputs)
    x = keras.layers.Concatenate()(keras.ops.split(x, 2, axis=-1)[::-1])
    x = keras.layers.Conv2D(8, 3, use_bias=False)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    network = float_network(keras.Model(inputs, keras.layers.Dense(10)(x)))
    assert len(network.of_kind("SPLIT")[0].outputs) == 2
    expected = _predict(network.to_bytes(), images, tmp_path)
    prepare(network, images, method)
    found = _predict(to_integers(network, input_dtype="int8"), images, tmp_path)
    assert np.abs(found - expected).max() < 0.1 * np.ptp(expected)
