"""PyTorch weights into our models, and back.

Each Keras weight (or one branch of it) has one entry in the original's state
dict. `entries` lists the pairs; loading checks all of them before it assigns
the first, so that a state dict which does not fit changes nothing.
"""

import gc
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from gnsmall_keras.models.layers import BranchedConv2D, BranchedDepthwiseConv2D
from gnsmall_keras.models.teachers import efficientnet
from gnsmall_keras.models.torch.files import read_state_dict


class Layout(NamedTuple):
    """How the axes of one kind of weight are ordered on either side."""

    to_keras: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


# The last axes are (in, out) in Keras, the first are (out, in) in PyTorch.
CONV = Layout(
    lambda a: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1)
)
# Ours is (height, width, channels), keras.layers' has a last axis of 1.
DEPTHWISE = Layout(
    lambda a: a[:, 0].transpose(1, 2, 0),
    lambda a: a.transpose(2, 0, 1)[:, None],
)
KERAS_DEPTHWISE = Layout(
    lambda a: a.transpose(2, 3, 0, 1), lambda a: a.transpose(2, 3, 0, 1)
)
SCALE = Layout(lambda a: a[:, 0, 0, 0], lambda a: a[:, None, None, None])
# GN-S's classifier is a linear layer there, a 1x1 convolution here.
LINEAR_AS_CONV = Layout(lambda a: a.T[None, None], lambda a: a[0, 0].T)
LINEAR = Layout(np.transpose, np.transpose)
VECTOR = Layout(np.asarray, np.asarray)

_NORM = (
    ("gamma", "weight"),
    ("beta", "bias"),
    ("moving_mean", "running_mean"),
    ("moving_variance", "running_var"),
)
_COUNTER = "num_batches_tracked"  # of PyTorch's BatchNorm; decides nothing
# Branched layers of one branch -> the original's convolution and BatchNorm.
_SINGLE = {
    "stem": ("conv_stem", "bn1"),
    "gate_conv": ("short_conv.0", "short_conv.1"),
    "gate_row": ("short_conv.2", "short_conv.3"),
    "gate_column": ("short_conv.4", "short_conv.5"),
    "shortcut_dw": ("shortcut.0", "shortcut.1"),
    "shortcut_conv": ("shortcut.2", "shortcut.3"),
    "conv": ("conv", "bn1"),
}
# Layers with bias and without BatchNorm -> the original's name and layout.
_PLAIN = {
    "se_reduce": ("se.conv_reduce", CONV),
    "se_expand": ("se.conv_expand", CONV),
    "head_conv": ("conv_head", CONV),
    "classifier": ("classifier", LINEAR_AS_CONV),
}
# Other code's names of the same entries.
_ALIASES = (
    (re.compile(r"\.shortcut\."), ".downsample."),  # kuangliu's ResNets
    (re.compile(r"^linear\."), "fc."),
    # torchvision's older DenseNets
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d)\."), r"\1\2."),
)
_IGNORED = re.compile(rf".*{_COUNTER}|AuxLogits\..*")
# An entry's name and the network that has it; the first that is there counts.
_MARKS = (
    ("block1.layer.0.conv1.weight", "a wide residual network (wrn_*)"),
    ("layer1.0.conv3.weight", "resnet50 or deeper"),
    ("layer1.2.conv1.weight", "resnet34"),
    ("layer1.0.conv1.weight", "resnet18 or resnet18_nopool"),
    ("features.denseblock1.denselayer1.conv1.weight", "a DenseNet"),
    ("Mixed_5b.branch1x1.conv.weight", "inception_v3"),
    ("features.1.0.block.0.0.weight", "an EfficientNetV2"),
    ("features.34.weight", "vgg16_bn or deeper"),
    ("features.31.weight", "vgg13_bn"),
    ("blocks.8.0.conv.weight", "gnd"),
    ("conv_stem.weight", "gns"),
)
_NAMES_SHOWN = 4  # of a mismatch


class Entry(NamedTuple):
    """One array: its name in the state dict and its place in the model."""

    torch_name: str
    variable: keras.Variable
    branch: int | None  # index into the variable's first axis
    layout: Layout

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """The shape the state dict must have for this entry."""
        shape = self.variable.shape
        shape = shape if self.branch is None else shape[1:]
        return self.layout.to_torch(np.empty(shape)).shape


class TorchImport(NamedTuple):
    """What became of a state dict's entries."""

    mapped: tuple[str, ...]
    ignored: tuple[str, ...]  # BatchNorm's counters, auxiliary heads


class _Lent:
    """An array that nobody changes: TensorFlow would copy it once more.

    From a NumPy array itself it takes two copies, of 64 MB each for VGG's
    largest kernel.
    """

    def __init__(self, array):
        self._array = array
        self.dtype = array.dtype
        self.shape = array.shape

    def __array__(self, dtype=None, copy=None):
        return self._array


def load_torch_weights(
    model: keras.Model,
    source: str | os.PathLike[str] | Mapping[str, Any],
) -> TorchImport:
    """Loads a PyTorch checkpoint of the same network into `model`.

    Args:
        model: a network of `create_model`, GhostNets in branched form.
        source: a `.pth`, `.pt` or `.safetensors` file, or a mapping from names
            to arrays. Weights below "state_dict", "model_state_dict", "model"
            or "net" and names that start with "module." or "model." are
            understood. Nothing in a file is executed.

    Returns:
        Which entries were mapped, and which are not needed.

    Raises:
        ValueError: if the file cannot be read, or entries are missing, left
            over or of another shape; the model is then unchanged.

    Example:
        >>> model = gns.ghostnetv3_small(width=0.25)
        >>> state = gns.to_torch_state_dict(model)
        >>> _ = gns.load_torch_weights(model, state)
    """
    pairs = list(entries(model))
    expected = {entry.torch_name: entry.torch_shape for entry in pairs}
    state, ignored = {}, []
    gc.collect()  # on JAX, building leaves large initial values in cycles
    for name, array in read_state_dict(source).items():
        if name not in expected and _IGNORED.fullmatch(name):
            ignored.append(name)
        else:
            state[_known_name(name, expected)] = array
    _check(expected, state, model)
    # The largest first: each is copied while the rest of the state dict waits.
    pairs.sort(key=lambda entry: -math.prod(entry.variable.shape))
    branches: list[np.ndarray] = []
    for entry in pairs:
        array = entry.layout.to_keras(state.pop(entry.torch_name))
        if entry.branch is not None:
            branches.append(array)
            if len(branches) < entry.variable.shape[0]:
                continue
            array, branches = np.stack(branches), []
        array = np.ascontiguousarray(array)
        entry.variable.assign(keras.ops.convert_to_tensor(_Lent(array)))
    return TorchImport(tuple(expected), tuple(ignored))


def to_torch_state_dict(model: keras.Model) -> dict[str, np.ndarray]:
    """Returns the weights of `model` as the original's PyTorch state dict.

    `module.load_state_dict` takes the result after `torch.from_numpy` on every
    value; `load_torch_weights` takes it as it is.

    Args:
        model: a network of `create_model`, GhostNets in branched form.

    Raises:
        ValueError: if a layer with weights has no counterpart there.

    Example:
        >>> state = gns.to_torch_state_dict(gns.ghostnetv3_small(width=0.25))
        >>> state["conv_stem.weight"].shape
        (4, 3, 3, 3)
    """
    state = {}
    for entry in entries(model):
        value = keras.ops.convert_to_numpy(entry.variable.value)
        value = value if entry.branch is None else value[entry.branch]
        array = np.ascontiguousarray(entry.layout.to_torch(value))
        state[entry.torch_name] = array
        norm, _, kind = entry.torch_name.rpartition(".")
        if kind == "running_var":
            state[f"{norm}.{_COUNTER}"] = np.array(0, np.int64)
    return state


def entries(model: keras.Model) -> Iterator[Entry]:
    """Yields every array of `model` with its name in the original's state dict.

    The branches of one variable come in order, one after the other.

    Raises:
        ValueError: if a layer with weights has no counterpart there.
    """
    ghost = any(layer.name.startswith("blocks_") for layer in model.layers)
    for layer in _weighted_layers(model):
        if ghost:
            yield from _ghost_entries(layer, model.name)
        else:
            yield from _plain_entries(layer, model.name)


def _weighted_layers(model):
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _weighted_layers(layer)
        elif layer.variables and not isinstance(layer, layers.Dropout):
            yield layer


def _plain_entries(layer, model_name):
    """Of a layer whose name is PyTorch's, with `-` for `.`."""
    name = efficientnet.TORCH_NAMES.get(
        layer.name, layer.name.replace("-", ".")
    )
    if isinstance(layer, layers.BatchNormalization):
        for ours, theirs in _NORM:
            yield Entry(f"{name}.{theirs}", getattr(layer, ours), None, VECTOR)
        return
    for kind, layout in (
        (layers.DepthwiseConv2D, KERAS_DEPTHWISE),
        (layers.Conv2D, CONV),
        (layers.Dense, LINEAR),
    ):
        if isinstance(layer, kind):
            yield Entry(f"{name}.weight", layer.kernel, None, layout)
            if layer.use_bias:
                yield Entry(f"{name}.bias", layer.bias, None, VECTOR)
            return
    raise ValueError(
        f"Layer {layer.name!r} of model {model_name!r} is a "
        f"{type(layer).__name__}, which has no counterpart in a PyTorch state "
        "dict. Give a model of create_model()."
    )


def _ghost_entries(layer, model_name):
    prefix, part = _split(layer.name)
    if isinstance(layer, (BranchedConv2D, BranchedDepthwiseConv2D)):
        yield from _branched_entries(layer, prefix, part)
    elif part in _PLAIN:
        name, layout = _PLAIN[part]
        yield Entry(f"{prefix}{name}.weight", layer.kernel, None, layout)
        yield Entry(f"{prefix}{name}.bias", layer.bias, None, VECTOR)
    else:
        raise ValueError(
            f"Layer {layer.name!r} of model {model_name!r} has no "
            "counterpart in the paper's repository. Give a branched model "
            "of ghostnetv3_small() or ghostnetv3()."
        )


def _split(layer_name):
    """`blocks_5_2_ghost1_cheap` -> (`blocks.5.2.ghost1.`, `cheap`)."""
    match = re.fullmatch(r"blocks_(\d+)_(\d+)_(ghost[12]_)?(\w+)", layer_name)
    if not match:
        return "", layer_name
    stage, block, ghost, part = match.groups()
    ghost = ghost.replace("_", ".") if ghost else ""
    return f"blocks.{stage}.{block}.{ghost}", part


def _branched_entries(layer, prefix, part):
    depthwise = isinstance(layer, BranchedDepthwiseConv2D)
    layout = DEPTHWISE if depthwise else CONV
    if layer.branches == 1:
        conv, norm = _SINGLE[part]
        yield Entry(f"{prefix}{conv}.weight", layer.kernel, 0, layout)
        yield from _norm_entries(layer, "conv", f"{prefix}{norm}", 0)
        return
    stem = f"{prefix}{part}_rpr"
    names = [f"{stem}_conv.{index}" for index in range(layer.branches)]
    for branch, name in enumerate(names):
        yield Entry(f"{name}.conv.weight", layer.kernel, branch, layout)
    for ours, theirs in _NORM:
        variable = getattr(layer, f"conv_{ours}")
        for branch, name in enumerate(names):
            yield Entry(f"{name}.bn.{theirs}", variable, branch, VECTOR)
    if "scale" in layer.groups:
        name = f"{stem}_scale.conv.weight"
        yield Entry(name, layer.scale_kernel, None, SCALE)
        yield from _norm_entries(layer, "scale", f"{stem}_scale.bn", None)
    if "identity" in layer.groups:
        yield from _norm_entries(layer, "identity", f"{stem}_skip", None)


def _norm_entries(layer, group, torch_name, branch):
    for ours, theirs in _NORM:
        variable = getattr(layer, f"{group}_{ours}")
        yield Entry(f"{torch_name}.{theirs}", variable, branch, VECTOR)


def _known_name(name, expected):
    for pattern, replacement in _ALIASES:
        other = pattern.sub(replacement, name)
        if name not in expected and other in expected:
            return other
    return name


def _check(expected, state, model):
    missing = [name for name in expected if name not in state]
    extra = [name for name in state if name not in expected]
    reshaped = [
        f"{name} {state[name].shape} for {shape}"
        for name, shape in expected.items()
        if name in state and state[name].shape != shape
    ]
    faults = [
        f"{len(names)} {kind}: {', '.join(names[:_NAMES_SHOWN])}"
        + (", ..." if len(names) > _NAMES_SHOWN else "")
        for kind, names in (
            ("missing", missing),
            ("unknown", extra),
            ("of another shape", reshaped),
        )
        if names
    ]
    if faults:
        raise ValueError(
            f"The state dict does not fit {model.name!r}. Entries "
            f"{'; '.join(faults)}. {_cure(expected, state, model)}"
        )


def _cure(expected, state, model):
    """What the state dict may be of, and what to do about it."""
    ours = model.output_shape[-1]
    last = [name for name, shape in expected.items() if shape[0] == ours][-2:]
    if set(state) == set(expected) and all(
        state[name].shape == shape or name in last
        for name, shape in expected.items()
    ):
        return (
            f"It tells {len(state[last[-1]])} classes apart, the model {ours}: "
            f"build the model with classes={len(state[last[-1]])}."
        )
    likely = next((text for mark, text in _MARKS if mark in state), None)
    if likely == "gns":
        width = state["conv_stem.weight"].shape[0] / 16
        likely = f"gns of width {width:g} or near"
    if likely:
        return f"It looks like {likely}: build that network."
    return "Check the network, its size and its number of classes."
