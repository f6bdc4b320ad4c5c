"""State dicts of the paper's repository, and ones that are not."""

import keras
import numpy as np
import pytest
from support import find_fixture, load_fixture

from gnsmall_keras.models.deploy import to_deploy
from gnsmall_keras.models.ghostnet import ghostnetv3_small
from gnsmall_keras.models.torch_weights import entries, load_torch_weights


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


def test_fused_model_is_refused(model, state):
    with pytest.raises(ValueError, match="Give a branched model"):
        load_torch_weights(to_deploy(model), state)


def test_missing_file_is_named(model, tmp_path):
    with pytest.raises(ValueError, match="No checkpoint file"):
        load_torch_weights(model, tmp_path / "none.pth")


def test_file_of_another_kind_is_refused(model, tmp_path):
    (tmp_path / "weights.h5").write_bytes(b"")
    with pytest.raises(ValueError, match=r"\.pth or \.pt"):
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
        with pytest.raises(ValueError, match="without running code"):
            load_torch_weights(model, path)
        assert not marker.exists()

    def test_file_without_tensors_is_refused(self, torch, model, tmp_path):
        path = tmp_path / "weights.pt"
        torch.save([1, 2], path)
        with pytest.raises(ValueError, match="not a state dict"):
            load_torch_weights(model, path)
