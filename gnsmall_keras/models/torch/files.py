"""PyTorch checkpoints as arrays, read without running anything from them."""

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

_SUFFIXES = (".pth", ".pt", ".safetensors")
# Where training scripts keep the weights beside optimiser and epoch.
_NESTS = ("state_dict", "model_state_dict", "model", "net")
# What wrappers put before every name: DataParallel, Lightning, torch.compile.
_WRAPPERS = re.compile(r"module\.|model\.|_orig_mod\.")


def read_state_dict(source) -> dict[str, np.ndarray]:
    """Reads the state dict of a checkpoint.

    Args:
        source: the path of a `.pth` or `.pt` file (needs PyTorch) or of a
            `.safetensors` file (needs safetensors); or a mapping from names to
            arrays or tensors, possibly nested as in a checkpoint.

    Returns:
        Names and arrays, in order. Prefixes of wrappers (`module.`, `model.`)
        are gone, and half-precision values are float32.

    Raises:
        ValueError: if there is no such file, it is cut off, it is no
            checkpoint, or it would run code.
    """
    name = "the mapping" if isinstance(source, Mapping) else str(source)
    state = source if isinstance(source, Mapping) else _read(Path(source))
    for _ in range(2):  # {"model": {"state_dict": ...}} exists
        nest = next(
            (key for key in _NESTS if isinstance(state.get(key), Mapping)), None
        )
        state = state[nest] if nest else state
    arrays = {str(key): _array(value) for key, value in state.items()}
    others = [
        f"{key!r} is {_kind_of(state[key])}."
        for key in state
        if arrays[str(key)] is None
    ]
    if others or not arrays:
        raise ValueError(
            f"{name} is not a state dict of arrays: "
            + (others[0] if others else "it is empty.")
            + " Save it with torch.save(model.state_dict(), path), or in a "
            f"dict under one of {_NESTS}."
        )
    while all(_WRAPPERS.match(key) for key in arrays):
        arrays = {
            _WRAPPERS.sub("", key, count=1): value
            for key, value in arrays.items()
        }
    return arrays


def _kind_of(value):
    """What a tensor or another value is, as messages name it."""
    if not hasattr(value, "detach"):
        return f"a {type(value).__name__}"
    if value.is_meta:
        return "a tensor on the meta device, without values"
    if value.is_quantized:
        return "a quantised tensor; save value.dequantize()"
    if str(value.layout) != "torch.strided":
        return "a sparse tensor; save value.to_dense()"
    return "dense"


def _array(value):
    """The value as an array of numbers, or None if it is not one."""
    if hasattr(value, "detach"):  # a tensor, whichever backend is at work
        if _kind_of(value) != "dense":
            return None
        value = value.detach().cpu()
        if value.is_floating_point() and value.element_size() < 4:
            value = value.float()
        return value.numpy()
    if not isinstance(value, (np.ndarray, np.generic)):
        return None
    value = np.asarray(value)
    return value.astype("float32") if value.dtype.itemsize < 4 else value


def _read(path):
    if not path.is_file():
        raise ValueError(f"No checkpoint file at {path}. Check the path.")
    if path.suffix not in _SUFFIXES:
        raise ValueError(
            f"A checkpoint ends in one of {_SUFFIXES}. Received: {path}."
        )
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        import torch
    except ImportError:
        raise ValueError(
            f"Reading {path} needs PyTorch: pip install torch. Or give a "
            ".safetensors file, or a mapping from names to NumPy arrays."
        ) from None
    try:
        with warnings.catch_warnings():  # of other pickles' protocols
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(_refusal(path, error)) from None
    except Exception as error:
        reason = re.split(r"\.\s|\n", str(error))[0] or type(error).__name__
        raise ValueError(
            f"{path} is not a PyTorch checkpoint, or it is cut off ({reason}). "
            "Copy or download it again."
        ) from None
    if not isinstance(state, Mapping):
        raise ValueError(
            f"{path} holds a {type(state).__name__}, not a state dict of "
            "arrays. Save it with torch.save(model.state_dict(), path)."
        )
    return state


def _refusal(path, error):
    named = re.search(r"GLOBAL (\S+)", str(error))
    if not named:
        return (
            f"{path} is not a PyTorch checkpoint, or it is cut off. Copy or "
            "download it again."
        )
    return (
        f"{path} holds Python objects beside arrays ({named[1]}): reading it "
        "would run code from the file, so it was refused. If you trust its "
        "origin, read it there and save model.state_dict() alone."
    )


def _read_safetensors(path):
    try:
        from safetensors import safe_open
    except ImportError:
        raise ValueError(
            f"Reading {path} needs safetensors: pip install safetensors."
        ) from None

    def read(name):
        # Opened for each by itself: an open file's pages stay in memory.
        with safe_open(path, framework="numpy") as file:
            return file.get_tensor(name)

    try:
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
        return {name: read(name) for name in names}
    except Exception as error:
        raise ValueError(
            f"{path} is not a safetensors file, or it is cut off ({error}). "
            "Copy or download it again."
        ) from None
