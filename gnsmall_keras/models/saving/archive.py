"""What a `.keras` file declares, looked at before anything is built of it."""

import json
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

_CONFIG = "config.json"
_WEIGHTS = "model.weights.h5"
# Of all files in the archive, unpacked. The largest network of the package
# has 146 MB.
MAX_BYTES = 2**31
_MAX_CONFIG_BYTES = 2**25
# A file of quantised weights has less than a byte for each.
_PARAMETERS_A_BYTE = 4
_SLACK = 2**20


def check_declared_sizes(path: Path) -> None:
    """Refuses an archive whose model would be far larger than the file.

    Args:
        path: a zip archive as `keras.Model.save` writes it. What is missing
            in it is for Keras to say.

    Raises:
        ValueError: if unpacked files, declared layers or declared arrays are
            larger than the file can hold.
    """
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        total = sum(member.file_size for member in members.values())
        if total > MAX_BYTES:
            raise ValueError(
                f"{path} unpacks to {total:,} bytes; at most {MAX_BYTES:,} "
                "are read. Save a smaller model."
            )
        weights = members.get(_WEIGHTS)
        config = members.get(_CONFIG)
        if config is None or weights is None:
            return
        if config.file_size > _MAX_CONFIG_BYTES:
            raise ValueError(
                f"{path} has a {_CONFIG} of {config.file_size:,} bytes; at "
                f"most {_MAX_CONFIG_BYTES:,} are read. It is damaged, or not "
                "written by Keras."
            )
        limit = _PARAMETERS_A_BYTE * weights.file_size + _SLACK
        declared = _declared_parameters(path, archive.read(_CONFIG))
        stored = _stored_bytes(path, archive)
    for what, number in (
        ("declares at least {:,} parameters", declared),
        ("declares arrays of {:,} bytes", stored),
    ):
        if number > limit:
            raise ValueError(
                f"{path} {what.format(number)}, but its weights are "
                f"{weights.file_size:,} bytes. It is damaged, or made to fill "
                "the memory; save the model again."
            )


def _declared_parameters(path: Path, config: bytes) -> int:
    """A lower bound of the number of parameters that layers declare."""
    try:
        declared = json.loads(config)
        return sum(map(_least_parameters, _layers(declared)))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} has a {_CONFIG} that cannot be read ({error}). Save the "
            "model again."
        ) from None


def _layers(value: Any) -> Iterator[dict[str, Any]]:
    """Every dict with a layer's config, at any depth."""
    values = list(value.values()) if isinstance(value, dict) else value
    if isinstance(value, dict) and isinstance(value.get("config"), dict):
        yield value
    if isinstance(values, list):
        for each in values:
            yield from _layers(each)


def _least_parameters(layer: dict[str, Any]) -> int:
    if not _is_known(layer):
        return 0
    config = layer["config"]
    outputs = next(
        (
            config[name]
            for name in ("units", "filters", "output_dim")
            if _is_count(config.get(name))
        ),
        0,
    )
    built = layer.get("build_config")
    shape = built.get("input_shape") if isinstance(built, dict) else None
    axis = 1 if config.get("data_format") == "channels_first" else -1
    channels = shape[axis] if isinstance(shape, list) and shape[1:] else 1
    if _is_count(config.get("input_dim")):
        channels = config["input_dim"]
    groups = config.get("groups")
    taps = config.get("kernel_size", 1)
    taps = taps if isinstance(taps, list) else [taps]
    if str(layer.get("class_name")).startswith("Separable"):
        taps = []  # these have a kernel of their own, of one filter
    counts = [outputs, channels, *taps]
    if not all(map(_is_count, counts)):
        return 0
    return math.prod(counts) // (groups if _is_count(groups) else 1)


def _is_known(layer: dict[str, Any]) -> bool:
    """Whether it is of Keras or of this package; nothing is known of others."""
    ours = str(layer.get("registered_name")).startswith("gnsmall_keras>")
    module = str(layer.get("module") or "keras").split(".")[0]
    return ours or module in ("keras", "gnsmall_keras")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value > 0


def _stored_bytes(path: Path, archive: zipfile.ZipFile) -> int:
    """Bytes of all arrays in the weights' file, as their shapes declare."""
    total = 0

    def add(_, item):
        nonlocal total
        if isinstance(item, h5py.Dataset):
            total += item.size * item.dtype.itemsize

    try:
        with archive.open(_WEIGHTS) as file, h5py.File(file, "r") as weights:
            weights.visititems(add)
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{path} has weights that cannot be read ({error}). Save the model "
            "again."
        ) from None
    return total
