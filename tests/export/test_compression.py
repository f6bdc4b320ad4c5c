"""Weights of few values or many zeros, by tensorflow-model-optimization."""

import importlib.util

import keras
import numpy as np
import pytest
from support import ROOT

from gnsmall_keras.config import ExportConfig
from gnsmall_keras.data.sources import load_data
from gnsmall_keras.export import equalized, smaller, tflite
from gnsmall_keras.export.equalized import with_equalized_channels
from gnsmall_keras.export.graph import Graph
from gnsmall_keras.models.deploy import to_deploy
from gnsmall_keras.models.saving.files import load_model
from gnsmall_keras.quantization import compression
from gnsmall_keras.quantization.compression import (
    Compression,
    compress,
    quantize_by_tfmot,
)
from gnsmall_keras.quantization.qat import QuantizationTraining

pytestmark = pytest.mark.export
NETWORK = ROOT / "gnsmall_keras/weights/gns-w0.25-h320-cifar10.keras"
IMAGES = 64


def _skip_without_tfmot():
    for name in ("tensorflow_model_optimization", "tf_keras"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"no {name}; pip install 'gnsmall-keras[tfmot]'")


def _training(teacher):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (IMAGES, 32, 32, 3), np.uint8)
    return QuantizationTraining(
        images=images,
        labels=generator.integers(0, 10, IMAGES),
        teacher=teacher,
        batch_size=32,
    )


@pytest.fixture(scope="module")
def network():
    return to_deploy(load_model(NETWORK))


@pytest.mark.slow
def test_channels_are_made_alike_and_the_outputs_stay(network):
    images = _training(network).images[:20]
    found = with_equalized_channels(network, images)
    probes = np.random.default_rng(1).normal(size=(4, 32, 32, 3))
    probes = probes.astype(np.float32)
    expected = network.predict(probes, verbose=0)
    np.testing.assert_allclose(
        found.predict(probes, verbose=0),
        expected,
        atol=1e-4 * expected.std(),
    )
    before, after = (
        np.asarray(each.get_layer("head_conv").get_weights()[0])
        for each in (network, found)
    )
    ratios = after / before
    assert np.ptp(ratios) > 0.1  # of inputs and outputs alike


def _with_a_constant_gate():
    layers = keras.layers
    inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(8, 3, name="first")(inputs)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(
        8,
        1,
        kernel_initializer="zeros",
        bias_initializer="random_uniform",
    )(gate)
    gate = layers.Activation("sigmoid")(gate)
    x = layers.Multiply(name="product")([x, gate])
    x = layers.Conv2D(16, 3, name="behind")(x)
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    return keras.Model(inputs, layers.Dense(10)(x))


@pytest.mark.usefixtures("in_process")
def test_kernels_of_few_values_take_no_factors_of_gates(tmp_path, monkeypatch):
    equalized = []

    def equalize(model, images):
        equalized.append({layer.name for layer in model.layers})
        return model

    def cluster(model, *_):
        layer = model.get_layer("behind")
        kernel, bias = layer.get_weights()
        layer.set_weights([np.rint(4 * kernel / kernel.max()), bias])
        return model

    monkeypatch.setattr(smaller, "prepare_training", lambda *_: None)
    monkeypatch.setattr(smaller, "with_equalized_channels", equalize)
    monkeypatch.setattr(smaller, "compress", cluster)
    path = tmp_path / "model.tflite"
    report = tflite.export_network(
        _with_a_constant_gate(),
        path,
        load_data("digits"),
        ExportConfig(compress="cluster:9"),
        exports=tmp_path / "exports.jsonl",
    )
    assert report.folded_gates == ["product"]
    assert [names & {"first", "product"} for names in equalized] == [{"first"}]
    graph = Graph(path.read_bytes())
    kernels = [
        np.asarray(graph.constant(operator.inputs[1]))
        for operator in graph.of_kind("CONV_2D")
    ]
    (few,) = (each for each in kernels if len(each) == 16)
    assert len(np.unique(few)) <= 9


def _small(*between):
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, use_bias=False, name="first")(inputs)
    x = keras.layers.ReLU()(x)
    x = keras.layers.DepthwiseConv2D(3, use_bias=False)(x)
    for layer in between:
        x = layer(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    x = keras.layers.ReLU()(keras.layers.Dense(16, name="hidden")(x))
    logits = keras.layers.Dense(10, use_bias=False, name="classifier")(x)
    return keras.Model(inputs, logits)


def test_layers_without_biases_are_equalised():
    keras.utils.set_random_seed(0)
    model = _small()
    images = _training(model).images[:4]
    probes = np.random.default_rng(1).normal(size=(4, 32, 32, 3))
    expected = model.predict(probes, verbose=0)
    before = model.get_layer("first").get_weights()[0]
    equalized._rescale(model, images)
    assert not np.allclose(model.get_layer("first").get_weights()[0], before)
    np.testing.assert_allclose(
        model.predict(probes, verbose=0), expected, atol=1e-5
    )


def test_a_model_inside_of_a_compressed_one_is_named():
    block = keras.Sequential(
        [keras.Input((28, 28, 8)), keras.layers.Conv2D(8, 1)], name="block"
    )
    model = _small(block)
    with pytest.raises(ValueError, match="inside of 'block'"):
        equalized._rescale(model, _training(model).images[:4])


@pytest.mark.parametrize("how", ["cluster:16", "prune:0.5"])
def test_large_kernels_have_few_values_or_zeros(network, how):
    _skip_without_tfmot()
    found = compress(network, Compression.parse(how), _training(network))
    assert [one.name for one in found.layers] == [
        one.name for one in network.layers
    ]
    for name in ("head_conv", "classifier"):
        kernel = np.asarray(found.get_layer(name).kernel)
        if how.startswith("cluster"):
            assert len(np.unique(kernel)) <= 16
        else:
            assert (kernel == 0).mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.slow
def test_tfmot_s_own_training_makes_an_int8_file(network):
    _skip_without_tfmot()
    data = quantize_by_tfmot(network, _training(network), "int8")
    graph = Graph(data)
    assert graph.dtype(graph.inputs[0]) == "INT8"
    assert graph.quantization(graph.inputs[0]) == (1.0, -128)
    assert graph.shape(graph.outputs[0])[-1] == 10


@pytest.mark.parametrize("name", ["a.bin", "none/a.tflite", "b.tflite"])
def test_a_file_that_cannot_be_written_is_refused_before_the_training(
    network, tmp_path, monkeypatch, name
):
    trained = []
    monkeypatch.setattr(tflite, "make_packable", lambda *_: trained.append(1))
    (tmp_path / "a.tflite").touch()
    (tmp_path / "labels.txt").write_text("of\na\n")
    config = ExportConfig(compress="prune:0.5")
    with pytest.raises(ValueError, match=r"end in|not exist|of other files"):
        tflite.export_network(
            network,
            tmp_path / name,
            load_data("digits"),
            config,
            exports=tmp_path / "exports.jsonl",
        )
    assert not trained


def test_a_layer_that_has_no_twin_is_named():
    _skip_without_tfmot()
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.GlobalMaxPooling2D(name="odd")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(10)(x))
    with pytest.raises(ValueError, match="'odd' of GlobalMaxPooling2D"):
        compress(model, Compression("cluster", 4), _training(model))


def test_tfmot_s_files_are_of_logits():
    with pytest.raises(ValueError, match="'micro', 'edgetpu' and 'ethos-u'"):
        ExportConfig(quantization="int8-tfmot", target="android")


@pytest.mark.parametrize(
    "how",
    ["cluster:1", "cluster:2.5", "cluster:", "prune:0", "prune:1", "half"],
)
def test_other_amounts_are_refused(how):
    with pytest.raises(ValueError, match="`compress` must be"):
        ExportConfig(compress=how)


def test_what_is_missing_is_named(network, monkeypatch):
    monkeypatch.setattr(
        compression.importlib.util, "find_spec", lambda name: None
    )
    with pytest.raises(ValueError, match=r"gnsmall-keras\[tfmot\]"):
        compress(network, Compression("prune", 0.5), _training(network))
