"""Networks of users' own, before TensorFlow is asked."""

import importlib.util

import keras
import numpy as np
import pytest

from gnsmall_keras import cli
from gnsmall_keras.export import tflite
from gnsmall_keras.export.arguments import checked_network

pytestmark = pytest.mark.export


def _layers(*between, side=16):
    inputs = keras.Input((side, side, 3), name="one")
    x = keras.layers.Conv2D(4, 3, padding="same", name="first")(inputs)
    for layer in between:
        x = layer(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return inputs, keras.layers.Dense(3)(x)


@pytest.mark.parametrize("form", [list, lambda one: {"one": one[0]}])
def test_lists_of_one_tensor_are_that_tensor(form):
    inputs, outputs = _layers()
    model = keras.Model(form([inputs]), form([outputs]), name="mine")
    found = checked_network(model, "int8")
    assert found.input_shape == (None, 16, 16, 3)
    assert found.output_shape == (None, 3)
    assert found.name == "mine"
    assert isinstance(found.output, keras.KerasTensor)
    images = np.ones((2, 16, 16, 3), "float32")
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(found(images)),
        model.predict(form([images]), verbose=0)["one"]
        if isinstance(model.output, dict)
        else model.predict(images, verbose=0),
    )


def test_a_network_of_one_tensor_is_left_as_it_is():
    model = keras.Model(*_layers())
    assert checked_network(model, "int8") is model


def _mixed():
    with_policy = keras.layers.Conv2D(4, 1, dtype="mixed_float16", name="half")
    return keras.Model(*_layers(with_policy))


def _two():
    inputs, outputs = _layers()
    return keras.Model(inputs, [outputs, outputs])


def _nearest():
    return keras.Model(*_layers(keras.layers.UpSampling2D(2, name="grown")))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_two, "one input and one output. Received: 1 and 2"),
        (lambda: keras.Model(*_layers(side=None)), r"keras.Input\(\(32, 32, 3"),
        (_mixed, "layer 'half' of precision 'mixed_float16'"),
        (_nearest, "layer 'grown'. Take interpolation=\"bilinear\""),
    ],
    ids=["two outputs", "unknown sides", "half precision", "nearest"],
)
def test_what_no_file_can_hold_is_refused_at_once(
    make, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(tflite, "convert", None)
    with pytest.raises(ValueError, match=message):
        tflite.export_tflite(
            make(),
            tmp_path / "model.tflite",
            calibration_images=np.full((20, 16, 16, 3), 9, np.uint8),
            target="android",
        )


@pytest.mark.parametrize("kind", ["int8", "float32"])
def test_other_ways_to_grow_are_taken(kind):
    layers = keras.layers
    for layer in (
        layers.UpSampling2D(2, interpolation="bilinear"),
        layers.Resizing(32, 32, interpolation="nearest"),
    ):
        checked_network(keras.Model(*_layers(layer)), kind)
    checked_network(_nearest(), "float32")


def test_tensorflow_is_looked_for_at_once(tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *a: None if name == "tensorflow" else find(name, *a),
    )
    command = ["export", str(tmp_path / "none.keras"), "--data", "digits"]
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert "pip install 'gnsmall-keras[export]'" in error
    assert error.count("\n") == 1
