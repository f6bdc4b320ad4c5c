"""PyTorch checkpoints, and files that are not."""

import pickle
import warnings

import keras
import numpy as np
import pytest
from safetensors.numpy import save_file
from support import find_fixture, load_fixture, randomize

from gnsmall_keras.models.deploy import to_deploy
from gnsmall_keras.models.ghostnet import ghostnetv3_small
from gnsmall_keras.models.registry import create_model
from gnsmall_keras.models.torch.files import read_state_dict
from gnsmall_keras.models.torch.weights import (
    entries,
    load_torch_weights,
    to_torch_state_dict,
)

pytestmark = pytest.mark.any_backend


@pytest.fixture(scope="module")
def model():
    return ghostnetv3_small(0.5)


@pytest.fixture
def state():
    return load_fixture(find_fixture("ghostnetv3_small_w0.5")).state


def test_every_weight_has_one_entry(model):
    names = [entry.torch_name for entry in entries(model)]
    assert len(names) == len(set(names))
    size = sum(int(np.prod(entry.torch_shape)) for entry in entries(model))
    assert size == sum(weight.size for weight in model.get_weights())


def test_every_entry_reads_back(model, state):
    load_torch_weights(model, state)
    for entry in entries(model):
        value = keras.ops.convert_to_numpy(entry.variable.value)
        value = value if entry.branch is None else value[entry.branch]
        np.testing.assert_array_equal(
            entry.layout.to_torch(value), state[entry.torch_name]
        )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("classifier.bias", None, r"1 missing: classifier\.bias"),
        ("extra.weight", np.zeros(3), r"1 unknown: extra\.weight"),
        (
            "classifier.bias",
            np.zeros(11),
            r"classifier\.bias \(11,\) for \(10,\)",
        ),
    ],
)
def test_entry_that_does_not_fit_is_named(model, state, name, value, message):
    state.pop(name, None)
    if value is not None:
        state[name] = value
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        load_torch_weights(model, state)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.fixture(scope="module")
def resnet():
    return create_model("resnet18")


@pytest.fixture(scope="module")
def resnet_state():
    model = create_model("resnet18")
    randomize(model, seed=4)
    return to_torch_state_dict(model)


def _assert_loads(model, source, state):
    model.get_layer("fc").set_weights([np.ones((512, 10)), np.ones(10)])
    found = load_torch_weights(model, source)
    bias = model.get_layer("fc").get_weights()[1]
    np.testing.assert_array_equal(bias, state["fc.bias"])
    assert len(found.mapped) == 102
    return found


@pytest.mark.parametrize("nest", ["state_dict", "model_state_dict", "net"])
@pytest.mark.parametrize("prefix", ["module.", "model.module."])
def test_wrapped_state_dict_is_understood(resnet, resnet_state, nest, prefix):
    wrapped = {prefix + name: array for name, array in resnet_state.items()}
    found = _assert_loads(resnet, {nest: wrapped, "epoch": 3}, resnet_state)
    assert "bn1.num_batches_tracked" in found.ignored


def test_other_codes_names_are_understood(resnet, resnet_state):
    names = {"downsample": "shortcut", "fc.": "linear."}
    renamed = {}
    for name, array in resnet_state.items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        renamed[name] = array
    _assert_loads(resnet, renamed, resnet_state)


def test_likely_network_is_named(model, resnet_state):
    with pytest.raises(ValueError, match="looks like resnet18"):
        load_torch_weights(model, resnet_state)


def test_likely_width_is_named(state):
    with pytest.raises(ValueError, match=r"gns of width 0\.5"):
        load_torch_weights(ghostnetv3_small(0.25), state)


def test_number_of_classes_is_named(resnet_state):
    hundred = create_model("resnet18", classes=100)
    with pytest.raises(ValueError, match=r"with classes=10\."):
        load_torch_weights(hundred, resnet_state)


def test_model_of_other_layers_is_refused(state):
    inputs = keras.Input((8, 3))
    other = keras.Model(inputs, keras.layers.LSTM(2)(inputs))
    with pytest.raises(ValueError, match="LSTM, which has no counterpart"):
        load_torch_weights(other, state)


@pytest.mark.parametrize("source", [{}, {"fc.bias": "text"}])
def test_mapping_without_arrays_is_refused(model, source):
    with pytest.raises(ValueError, match="not a state dict of arrays"):
        load_torch_weights(model, source)


def test_safetensors_file_is_read(resnet, resnet_state, tmp_path):
    path = tmp_path / "resnet18.safetensors"
    save_file(resnet_state, path)
    _assert_loads(resnet, path, resnet_state)


def test_truncated_safetensors_file_is_refused(resnet, resnet_state, tmp_path):
    path = tmp_path / "resnet18.safetensors"
    save_file(resnet_state, path)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(ValueError, match="cut off"):
        load_torch_weights(resnet, path)


def test_fused_model_is_refused(model, state):
    with pytest.raises(ValueError, match="Give a branched model"):
        load_torch_weights(to_deploy(model), state)


def test_missing_file_is_named(model, tmp_path):
    with pytest.raises(ValueError, match="No checkpoint file"):
        load_torch_weights(model, tmp_path / "none.pth")


def test_file_of_another_kind_is_refused(model, tmp_path):
    (tmp_path / "weights.h5").write_bytes(b"")
    with pytest.raises(ValueError, match=r"ends in one of"):
        load_torch_weights(model, tmp_path / "weights.h5")


@pytest.mark.backend
class TestFiles:
    """These need PyTorch to be installed, whatever the backend."""

    @pytest.fixture(autouse=True)
    def torch(self):
        return pytest.importorskip("torch")

    def test_file_is_read(self, torch, model, state, tmp_path):
        path = tmp_path / "weights.pth"
        torch.save({k: torch.tensor(v) for k, v in state.items()}, path)
        model.get_layer("classifier").bias.assign(np.ones(10))
        load_torch_weights(model, path)
        np.testing.assert_array_equal(
            model.get_layer("classifier").get_weights()[1],
            state["classifier.bias"],
        )

    def test_file_with_code_is_refused(self, torch, model, tmp_path):
        path = tmp_path / "weights.pth"
        marker = tmp_path / "executed"

        class Payload:
            def __reduce__(self):
                return marker.touch, ()

        torch.save({"classifier.bias": Payload()}, path)
        with pytest.raises(ValueError, match="would run code from the file"):
            load_torch_weights(model, path)
        assert not marker.exists()

    def test_old_file_with_code_is_refused(self, model, tmp_path):
        """A plain pickle, as torch.save wrote before version 1.6."""
        path = tmp_path / "weights.pth"
        marker = tmp_path / "executed"

        class Payload:
            def __reduce__(self):
                return marker.touch, ()

        path.write_bytes(pickle.dumps({"fc.bias": Payload()}, 2))
        with pytest.raises(ValueError, match="would run code"):
            load_torch_weights(model, path)
        assert not marker.exists()

    def test_half_precision_is_widened(self, torch, resnet, tmp_path):
        state = {
            name: torch.from_numpy(array).to(torch.bfloat16)
            for name, array in to_torch_state_dict(resnet).items()
        }
        torch.save(state, tmp_path / "half.pth")
        expected = state["fc.bias"].float().numpy()
        _assert_loads(resnet, tmp_path / "half.pth", {"fc.bias": expected})

    @pytest.mark.parametrize("part", [1000, -1000])
    def test_truncated_file_is_refused(
        self, torch, model, state, tmp_path, part
    ):
        path = tmp_path / "weights.pth"
        torch.save({k: torch.tensor(v) for k, v in state.items()}, path)
        path.write_bytes(path.read_bytes()[:part])
        with pytest.raises(ValueError, match="cut off"):
            load_torch_weights(model, path)

    def test_file_of_something_else_is_refused(self, model, tmp_path):
        path = tmp_path / "weights.pth"
        path.write_text("# Read me")
        with pytest.raises(ValueError, match="not a PyTorch checkpoint"):
            load_torch_weights(model, path)

    def test_file_without_tensors_is_refused(self, torch, model, tmp_path):
        path = tmp_path / "weights.pt"
        torch.save([1, 2], path)
        with pytest.raises(ValueError, match="not a state dict"):
            load_torch_weights(model, path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda tensor: tensor.to_sparse(), "sparse"),
        (lambda tensor: tensor.to_sparse_csr(), "sparse"),
        (lambda tensor: tensor.to("meta"), "meta device"),
        (
            lambda tensor: __import__("torch").quantize_per_tensor(
                tensor, 0.1, 0, __import__("torch").qint8
            ),
            "quantised",
        ),
    ],
)
def test_tensors_without_plain_values_are_refused_by_name(
    tmp_path, change, named
):
    torch = pytest.importorskip("torch")
    path = tmp_path / "odd.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sparse CSR is in beta, PyTorch says
        torch.save({"stem.weight": change(torch.ones(4, 4))}, path)
    with pytest.raises(ValueError, match=rf"'stem\.weight' is a.*{named}"):
        read_state_dict(path)
