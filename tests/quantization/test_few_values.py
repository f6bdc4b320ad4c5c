"""Kernels of few values have integers of few values."""

import numpy as np
import pytest

from gnsmall_keras.export.graph import Graph
from gnsmall_keras.quantization.few_values import share_scales
from gnsmall_keras.quantization.post_training import to_integers

pytestmark = pytest.mark.export


def _largest(graph):
    convolutions = graph.of_kind("CONV_2D")
    return max(
        range(len(convolutions)),
        key=lambda index: graph.constant(convolutions[index].inputs[1]).size,
    )


def test_a_kernel_of_few_values_has_one_scale(converted):
    floats, index = Graph(converted.floats), _largest(Graph(converted.floats))
    given = floats.of_kind("CONV_2D")[index]
    kernel = floats.constant(given.inputs[1])
    step = np.abs(kernel).max() / 4
    few = np.rint(kernel / step) * step
    floats.set_constant(given.inputs[1], few)
    found = Graph(share_scales(floats, converted.data))
    before = Graph(converted.data)
    pairs = zip(
        before.of_kind("CONV_2D"), found.of_kind("CONV_2D"), strict=True
    )
    for number, (old, new) in enumerate(pairs):
        _, kernel, bias = new.inputs
        if number != index:  # the others stay
            for one, other in zip(old.inputs[1:], new.inputs[1:], strict=True):
                np.testing.assert_array_equal(
                    before.constant(one), found.constant(other)
                )
                np.testing.assert_array_equal(
                    before.scales(one), found.scales(other)
                )
            continue
        scales = found.scales(kernel)
        assert len(scales) == len(before.scales(old.inputs[1]))
        (scale,) = np.unique(scales)
        integers = found.constant(kernel)
        assert len(np.unique(integers)) <= 9
        np.testing.assert_allclose(integers * scale, few, atol=0.51 * scale)
        expected = np.float32(found.scale(new.inputs[0])) * scale
        np.testing.assert_allclose(found.scales(bias), expected, rtol=1e-6)
        offsets = floats.constant(given.inputs[2])
        np.testing.assert_allclose(
            found.constant(bias) * expected, offsets, atol=0.51 * expected
        )


def test_a_file_without_such_kernels_stays(converted):
    floats = Graph(converted.floats)
    found = Graph(share_scales(floats, converted.data))
    before = Graph(converted.data)
    for old, new in zip(
        before.of_kind("CONV_2D"), found.of_kind("CONV_2D"), strict=True
    ):
        np.testing.assert_array_equal(
            before.constant(old.inputs[1]), found.constant(new.inputs[1])
        )


@pytest.mark.parametrize("input_dtype", ["int8", "uint8"])
def test_layers_that_stay_float_keep_their_kernels_apart(
    model, converted, input_dtype
):
    """What converts between them is no operator of the float network."""
    names = [layer.name for layer in model.layers]
    floats = Graph(converted.floats, names)
    given = floats.of_kind("CONV_2D")
    for operator in given:
        kernel = floats.constant(operator.inputs[1])
        step = np.abs(kernel).max() / 2
        floats.set_constant(operator.inputs[1], np.rint(kernel / step) * step)
    data = to_integers(
        floats,
        input_dtype=input_dtype,
        float_layers=[given[0].layer, given[9].layer],
    )
    found = Graph(share_scales(floats, data))
    for number, (old, new) in enumerate(
        zip(given, found.of_kind("CONV_2D"), strict=True)
    ):
        expected = floats.constant(old.inputs[1])
        values = found.constant(new.inputs[1])
        is_float = found.dtype(new.inputs[1]) == "FLOAT32"
        assert is_float == (number in (0, 9))
        if not is_float:
            axes = found.scales(new.inputs[1]).reshape(-1, 1, 1, 1)
            values = values * axes
        np.testing.assert_allclose(
            values, expected, atol=1e-6 + np.abs(expected).max() / 127
        )
