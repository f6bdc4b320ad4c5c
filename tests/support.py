"""What several test files use."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import keras
import nbformat
import numpy as np
import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
# The fixture of width 0.5 is here; the others are read where they are.
PARITY_FOLDERS = (TESTS / "parity", ROOT.parent / "shared/reference/parity")
sys.path.insert(0, str(TESTS / "parity"))

from fill import fill  # noqa: E402

from gnsmall_keras.data.augment import normalize  # noqa: E402
from gnsmall_keras.models import branched  # noqa: E402
from gnsmall_keras.models.branched import KaimingNormal  # noqa: E402
from gnsmall_keras.models.ghostnet import ghostnetv3_small  # noqa: E402
from gnsmall_keras.models.layers import (  # noqa: E402
    BranchedConv2D,
    BranchedDepthwiseConv2D,
)

# What JAX compiles for a minute is run there by `make test-all` alone.
contract_but_on_jax = (
    pytest.mark.backend
    if keras.config.backend() == "jax"
    else pytest.mark.contract
)


def slow_on_tensorflow(test: Any) -> Any:
    """Marks what PyTorch runs always, in a fraction of the time."""
    if keras.config.backend() == "tensorflow":
        return pytest.mark.slow(test)
    return test


def with_parameters(path: Path, values: dict[str, Any]) -> str:
    """The text of a notebook whose parameters have these values."""
    notebook = nbformat.read(path, as_version=4)
    for place, cell in enumerate(notebook.cells):
        if values and "parameters" in cell.metadata.get("tags", ()):
            lines = [f"{name} = {value!r}" for name, value in values.items()]
            new = nbformat.v4.new_code_cell("\n".join(lines))
            notebook.cells.insert(place + 1, new)
            break
    return nbformat.writes(notebook)


class Fixture(NamedTuple):
    """Weights, inputs and outputs of the original code."""

    state: dict[str, np.ndarray]
    arrays: dict[str, np.ndarray]
    trainable_parameters: int


def find_fixture(name: str) -> Path | None:
    """The fixture's JSON file, or None where it is not at hand."""
    for folder in PARITY_FOLDERS:
        if (folder / f"{name}.json").is_file():
            return folder / f"{name}.json"
    return None


def load_fixture(path: Path) -> Fixture:
    description = json.loads(path.read_text())
    with np.load(path.with_suffix(".npz")) as arrays:
        arrays = dict(arrays)
    state = {
        name: arrays[f"state/{name}"]
        if f"state/{name}" in arrays
        else fill(name, tuple(shape))
        for name, shape in description["state_dict"]
    }
    return Fixture(state, arrays, description["trainable_parameters"])


def run(model: keras.Model, images: np.ndarray, *, training: bool) -> Any:
    """Calls a model without changing it; compiled as a whole on JAX.

    JAX would compile each of some thousand operations by itself.
    """
    values = (
        [v.value for v in model.trainable_variables],
        [v.value for v in model.non_trainable_variables],
    )
    images = keras.ops.convert_to_tensor(images)
    if keras.config.backend() == "jax":
        import jax

        call = jax.jit(model.stateless_call, static_argnames="training")
        outputs, _ = call(*values, images, training=training)
    else:
        outputs, _ = model.stateless_call(*values, images, training=training)
    return keras.ops.convert_to_numpy(outputs)


class Step(NamedTuple):
    """What one pass in training mode gives, forward and back."""

    outputs: np.ndarray
    of_inputs: np.ndarray  # the gradient
    gradients: dict[str, np.ndarray]  # by the variables' paths
    moved: dict[str, np.ndarray]  # variables that are not trained, afterwards


def training_step(layer: Any, inputs: np.ndarray) -> Step:
    """Calls a layer in training mode, with the gradient of a random mix.

    Its variables are left as they are, except on PyTorch and TensorFlow those
    that are not trained.
    """
    trained, others = layer.trainable_variables, layer.non_trainable_variables
    shape = layer.compute_output_shape(inputs.shape)
    mix = np.random.default_rng(9).normal(size=shape).astype("float32")
    call = {"jax": _jax_step, "torch": _torch_step, "tensorflow": _tf_step}
    outputs, gradients, moved = call[keras.config.backend()](layer, inputs, mix)
    arrays = [keras.ops.convert_to_numpy(value) for value in gradients]
    return Step(
        keras.ops.convert_to_numpy(outputs),
        arrays[0],
        dict(zip((v.path for v in trained), arrays[1:], strict=True)),
        {
            variable.path: keras.ops.convert_to_numpy(value)
            for variable, value in zip(others, moved, strict=True)
        },
    )


def _jax_step(layer, inputs, mix):
    import jax

    others = [v.value for v in layer.non_trainable_variables]

    def mixed(images, trained):
        outputs, moved = layer.stateless_call(
            trained, others, images, training=True
        )
        return (outputs * mix).sum(), (outputs, moved)

    step = jax.jit(jax.grad(mixed, argnums=(0, 1), has_aux=True))
    (of_inputs, gradients), (outputs, moved) = step(
        inputs, [v.value for v in layer.trainable_variables]
    )
    return outputs, [of_inputs, *gradients], moved


def _torch_step(layer, inputs, mix):
    import torch

    images = torch.tensor(inputs, requires_grad=True)
    outputs = layer(images, training=True)
    values = [images, *(v.value for v in layer.trainable_variables)]
    gradients = torch.autograd.grad((outputs * torch.tensor(mix)).sum(), values)
    moved = [v.value for v in layer.non_trainable_variables]
    return outputs.detach(), gradients, moved


def _tf_step(layer, inputs, mix):
    import tensorflow as tf

    images = tf.constant(inputs)
    with tf.GradientTape() as tape:
        tape.watch(images)
        outputs = layer(images, training=True)
        mixed = tf.reduce_sum(outputs * mix)
    values = [images, *(v.value for v in layer.trainable_variables)]
    gradients = tape.gradient(mixed, values)
    return outputs, gradients, [v.value for v in layer.non_trainable_variables]


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference in units of the expected values' deviation."""
    return float(np.abs(found - expected).max() / expected.std())


def randomize(model: keras.Model, seed: int) -> None:
    """Gives every weight, BatchNorm's included, a random value."""
    generator = np.random.default_rng(seed)
    for variable in model.variables:
        shape = variable.shape
        if variable.name.endswith("moving_variance"):
            value = generator.uniform(0.3, 3.0, shape)
        elif variable.name.endswith("gamma"):
            # Five branches at most are added: the sum has about unit gain.
            value = generator.uniform(0.3, 1.7, shape) / 5**0.5
        elif variable.name.endswith(("beta", "bias", "moving_mean")):
            value = generator.normal(0.0, 0.5, shape)
        else:  # kernels (branches, taps..., in, out): about unit gain
            taps = np.prod(shape[1:-1]) if len(shape) > 2 else 1
            value = generator.normal(0.0, (2.0 / taps) ** 0.5, shape)
        variable.assign(value.astype("float32"))


class Unseen(keras.utils.PyDataset):
    """One batch, as data that nobody has seen as a whole."""

    def __init__(self, *batch):
        super().__init__()
        self._batch = batch

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self._batch


def wait_for(happened, seconds=120):
    """Waits for what a process is to do, which a function tells."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, happened
        time.sleep(0.1)


def cifar10_folder() -> str | None:
    """Where real CIFAR-10 is, from the environment, or None."""
    return os.environ.get("GNSMALL_DATA")


def tiny_network(name, *, classes, width=1.0, head_units=None):
    """A network that trains in seconds, with dropout to have a random state."""
    inputs = keras.Input((32, 32, 3))
    layers = keras.layers
    x = layers.AveragePooling2D(4)(inputs)
    filters = int(16 * width)
    x = layers.Conv2D(
        filters, 3, kernel_initializer=KaimingNormal(9 * filters)
    )(x)
    x = layers.BatchNormalization(momentum=0.9)(x)
    x = layers.Flatten()(layers.ReLU()(x))
    x = layers.Dropout(0.2, seed=1)(x)
    x = layers.Dense(classes, kernel_initializer=KaimingNormal(600))(x)
    return keras.Model(inputs, x)


def tiny_branched_network(name, *, classes, width=1.0, head_units=None):
    """A network of both branched layers, with every way they train."""
    layers = keras.layers
    inputs = keras.Input((32, 32, 3))
    x = layers.AveragePooling2D(2)(inputs)
    x = BranchedConv2D(8, kernel_size=3, branches=1)(x)
    x = BranchedConv2D(8, identity=True)(layers.ReLU()(x))
    x = BranchedDepthwiseConv2D((3, 3), scale=True, identity=True)(x)
    x = layers.ZeroPadding2D(1)(layers.ReLU()(x))
    x = BranchedDepthwiseConv2D((3, 3), strides=2, padding="valid", scale=True)(
        x
    )
    x = layers.Flatten()(layers.ReLU()(x))
    x = layers.Dense(classes, kernel_initializer=KaimingNormal(600))(x)
    return keras.Model(inputs, x)


def network_with_moments(dataset, **options):
    """GN-S of random weights, and BatchNorm with the moments of real images."""
    keras.utils.set_random_seed(0)
    model = ghostnetv3_small(**options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(branched, "MOMENTUM", 0.0)
        model(normalize(dataset.train_images[:64]), training=True)
    return model
