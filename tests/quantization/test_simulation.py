"""What a network computes and learns of its rounding."""

import keras
import numpy as np
import pytest

from gnsmall_keras.data.batches import EvaluationBatches
from gnsmall_keras.distill.distiller import Distiller
from gnsmall_keras.distill.losses import LabelCrossEntropy
from gnsmall_keras.export.convert import float_network
from gnsmall_keras.export.graph import Graph
from gnsmall_keras.export.tflite import export_tflite
from gnsmall_keras.models.layers import BranchedConv2D, BranchedDepthwiseConv2D
from gnsmall_keras.quantization.calibration import (
    trace,
)
from gnsmall_keras.quantization.few_values import share_scales
from gnsmall_keras.quantization.post_training import prepare, to_integers
from gnsmall_keras.quantization.qat import (
    KeepBest,
    QuantizationTraining,
    learn_quantization,
)
from gnsmall_keras.quantization.simulation import (
    Int8Simulation,
    fake_quantize,
    fake_quantize_kernel,
)

pytestmark = pytest.mark.export


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
    _assert_equal(converted.floats, converted.data, images)


def _assert_equal(floats, data, images):
    """Each operator alone, from the file's own values."""
    network, quantized = Graph(floats), Graph(data)
    layer = Int8Simulation(network, quantized)
    (traced,) = trace(data, images[:1], reference=True)
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


@pytest.mark.parametrize("options", [{}, {"dilation_rate": 2}], ids=str)
def test_depthwise_and_dense_layers_are_simulated(images, options):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.DepthwiseConv2D(3, padding="same", **options)(inputs)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    dense = keras.layers.Dense(10, name="classifier")
    network = float_network(keras.Model(inputs, dense(x)))
    dense_kernel = network.of_kind("FULLY_CONNECTED")[0].inputs[1]
    sizes = np.geomspace(1.0, 0.01, 10)[:, None]  # of units
    network.set_constant(dense_kernel, network.constant(dense_kernel) * sizes)
    prepare(network, images, "minmax")
    data = to_integers(network, input_dtype="int8")
    _assert_equal(network.to_bytes(), data, images)
    quantized = Graph(data)
    layer = Int8Simulation(network, quantized)
    for ours, theirs in zip(
        network.operators, quantized.operators, strict=True
    ):
        if ours.is_linear:
            kernel = theirs.inputs[1]
            axis = -1 if ours.kind == "DEPTHWISE_CONV_2D" else 0
            units = np.moveaxis(quantized.constant(kernel), axis, -1)
            expected = units * quantized.scales(kernel)
            found = np.moveaxis(np.asarray(layer._constant(ours, 1)), axis, -1)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


@pytest.fixture(params=["tiny", pytest.param("gns", marks=pytest.mark.slow)])
def learner(request):
    """A network of a few layers of either kind, or GN-S 0.25."""
    if request.param == "gns":
        return request.getfixturevalue("model")
    inputs = keras.Input((32, 32, 3))
    x = BranchedConv2D(8, kernel_size=3, branches=1, name="stem")(inputs)
    x = BranchedDepthwiseConv2D((3, 3), scale=True, identity=True)(
        keras.layers.ReLU()(x)
    )
    x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = keras.layers.Conv2D(10, 1, name="classifier")(x)
    return keras.Model(inputs, keras.layers.Reshape((10,), name="logits")(x))


@pytest.mark.usefixtures("in_process")
def test_network_learns_its_rounding(learner, images, real_data, tmp_path):
    training = QuantizationTraining(
        images=real_data.train_images[:64],
        labels=real_data.train_labels[:64],
        validation_images=real_data.train_images[64:96],
        validation_labels=real_data.train_labels[64:96],
        teacher=learner,
        batch_size=32,
        flip=False,
    )
    report = export_tflite(
        learner,
        tmp_path / "model.tflite",
        quantization="int8-qat",
        calibration_images=images,
        training=training,
        layer_errors=True,
    )
    assert report.faults == []
    assert set(report.dtypes) == {"INT8", "INT32"}
    assert report.qat["teacher"] == learner.name
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


def test_learning_changes_weights_but_not_the_normalisation(
    converted, images, dataset
):
    network = Graph(converted.floats)
    layer = Int8Simulation(network, Graph(converted.data))
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


@pytest.fixture
def compressed(converted):
    """A float network of one kernel of few values, and one with zeros."""
    network = Graph(converted.floats)
    kernels = [operator.inputs[1] for operator in network.of_kind("CONV_2D")]
    kernels.sort(key=lambda tensor: network.constant(tensor).size)
    few, zeros = kernels[-2:]
    values = network.constant(few)
    step = np.abs(values).max() / 4
    network.set_constant(few, np.rint(values / step) * step)
    values = network.constant(zeros)
    small = np.abs(values) < np.median(np.abs(values))
    network.set_constant(zeros, np.where(small, 0.0, values))
    return network, few, zeros


@pytest.mark.parametrize(
    "how", ["moved", pytest.param("trained", marks=pytest.mark.slow)]
)
def test_few_values_stay_few_and_zeros_stay_zero(
    compressed, converted, dataset, how
):
    network, few, zeros = compressed
    before = {each: network.constant(each) for each in (few, zeros)}
    quantized = Graph(converted.data)
    if how == "trained":
        training = QuantizationTraining(
            images=dataset.train_images[:64],
            labels=dataset.train_labels[:64],
            batch_size=32,
        )
        learn_quantization(network, quantized, training, compressed=True)
    else:
        layer = Int8Simulation(network, quantized, compressed=True)
        for weight in layer.trainable_weights:
            weight.assign(keras.random.normal(weight.shape, seed=0))
        layer.write_back()
    after = {each: network.constant(each) for each in (few, zeros)}
    for each, values in after.items():
        assert not np.array_equal(values, before[each])
    assert len(np.unique(after[few])) <= len(np.unique(before[few])) <= 9
    for value in np.unique(before[few]):  # the same weights are one value
        assert len(np.unique(after[few][before[few] == value])) == 1
    np.testing.assert_array_equal(after[zeros] == 0, before[zeros] == 0)


def test_a_kernel_of_few_values_is_rounded_as_its_file_is(
    compressed, converted
):
    network, few, _ = compressed
    quantized = Graph(share_scales(network, converted.data))
    layer = Int8Simulation(network, quantized, compressed=True)
    number, ours = next(
        (number, operator)
        for number, operator in enumerate(network.operators)
        if few in operator.inputs
    )
    kernel = quantized.operators[number].inputs[1]
    expected = quantized.constant(kernel) * quantized.scales(kernel)[0]
    np.testing.assert_allclose(
        layer._constant(ours, 1), expected, rtol=1e-5, atol=1e-7
    )
