"""Weights of the paper's PyTorch repository into our models.

Each Keras weight (or one branch of it) has one entry in the original's state
dict. `entries` lists the pairs; loading checks all of them before it assigns
the first, so that a state dict which does not fit changes nothing.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from gnsmall_keras.models.layers import (
    BranchedConv2D,
    BranchedDepthwiseConv2D,
)


class Layout(NamedTuple):
    """How the axes of one kind of weight are ordered on either side."""

    to_keras: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


# The last axes are (in, out) in Keras, the first are (out, in) in PyTorch.
CONV = Layout(
    lambda a: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1)
)
DEPTHWISE = Layout(
    lambda a: a[:, 0].transpose(1, 2, 0),
    lambda a: a.transpose(2, 0, 1)[:, None],
)
SCALE = Layout(lambda a: a[:, 0, 0, 0], lambda a: a[:, None, None, None])
# classifier is a linear layer there, a 1x1 convolution here.
LINEAR = Layout(lambda a: a.T[None, None], lambda a: a[0, 0].T)
VECTOR = Layout(np.asarray, np.asarray)

_NORM = (
    ("gamma", "weight"),
    ("beta", "bias"),
    ("moving_mean", "running_mean"),
    ("moving_variance", "running_var"),
)
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
    "classifier": ("classifier", LINEAR),
}
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


def load_torch_weights(model: keras.Model, source) -> None:
    """Loads a PyTorch state dict of the paper's repository into `model`.

    Args:
        model: a branched model of `ghostnetv3_small` or `ghostnetv3`.
        source: a mapping from names to arrays, or the path of a `.pth` or
            `.pt` file, which is read with `weights_only=True` (needs PyTorch).

    Raises:
        ValueError: if the file cannot be read, or entries are missing, left
            over or of another shape; the model is then unchanged.
    """
    state = source if isinstance(source, Mapping) else _read(Path(source))
    state = {
        name: np.asarray(array)
        for name, array in state.items()
        if not name.endswith("num_batches_tracked")
    }
    pairs = list(entries(model))
    _check(pairs, state, model.name)
    branches: dict[str, list[np.ndarray]] = {}
    for entry in pairs:
        array = entry.layout.to_keras(state[entry.torch_name])
        if entry.branch is None:
            entry.variable.assign(array)
            continue
        stack = branches.setdefault(entry.variable.path, [])
        stack.append(array)
        if len(stack) == entry.variable.shape[0]:
            entry.variable.assign(np.stack(stack))


def entries(model: keras.Model) -> Iterator[Entry]:
    """Yields every array of `model` with its name in the original's state dict.

    The branches of one variable come in order.

    Raises:
        ValueError: if a layer with weights has no counterpart there.
    """
    for layer in model.layers:
        if not layer.weights:
            continue
        prefix, part = _split(layer.name)
        if isinstance(layer, (BranchedConv2D, BranchedDepthwiseConv2D)):
            yield from _branched_entries(layer, prefix, part)
        elif part in _PLAIN:
            name, layout = _PLAIN[part]
            yield Entry(f"{prefix}{name}.weight", layer.kernel, None, layout)
            yield Entry(f"{prefix}{name}.bias", layer.bias, None, VECTOR)
        else:
            raise ValueError(
                f"Layer {layer.name!r} of model {model.name!r} has no "
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
    # A variable at a time, so that its branches come one after the other.
    for branch in range(layer.branches):
        name = f"{stem}_conv.{branch}"
        yield Entry(f"{name}.conv.weight", layer.kernel, branch, layout)
        yield from _norm_entries(layer, "conv", f"{name}.bn", branch)
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


def _check(pairs, state, model_name):
    expected = {entry.torch_name: entry.torch_shape for entry in pairs}
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
            f"The state dict does not fit {model_name!r}. Entries "
            f"{'; '.join(faults)}. Check the network, its width and its "
            "number of classes."
        )


def _read(path):
    if not path.is_file():
        raise ValueError(f"No checkpoint file at {path}. Check the path.")
    if path.suffix not in (".pth", ".pt"):
        raise ValueError(
            f"A PyTorch checkpoint ends in .pth or .pt. Received: {path}."
        )
    try:
        import torch
    except ImportError:
        raise ValueError(
            f"Reading {path} needs PyTorch: pip install torch. Or give a "
            "mapping from names to NumPy arrays."
        ) from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise ValueError(
            f"{path} is not a PyTorch state dict that can be read without "
            f"running code from it ({reason}). Save it with "
            "torch.save(model.state_dict(), path)."
        ) from None
    if not isinstance(state, Mapping) or not all(
        isinstance(value, torch.Tensor) for value in state.values()
    ):
        raise ValueError(
            f"{path} holds a {type(state).__name__}, not a state dict of "
            "tensors. Save it with torch.save(model.state_dict(), path)."
        )
    return {name: tensor.numpy() for name, tensor in state.items()}
