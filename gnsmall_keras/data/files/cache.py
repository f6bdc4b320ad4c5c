"""Decoded images on disk, so that a second start need not decode them."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL

from gnsmall_keras.data.files.listing import Entry
from gnsmall_keras.lines import one_line
from gnsmall_keras.writing import cache_folder, replacing

VARIABLE = "GNSMALL_CACHE"  # environment: the folder; empty: none
LEAST_IMAGES = 1000  # fewer are decoded in a second or two
SCHEMA = 1  # grows with any change of the rules of decoding


def folder() -> Path:
    """Returns where decoded images are kept.

    It is what the environment variable GNSMALL_CACHE names, otherwise
    `gnsmall_keras` in XDG_CACHE_HOME or ~/.cache.

    Raises:
        OSError: if there is neither, nor a home folder.
    """
    given = os.environ.get(VARIABLE)
    return Path(given) if given else cache_folder()


def unused(count: int, asked: bool) -> str:
    """Returns why a cache is not used for so many images, or nothing."""
    if not asked or os.environ.get(VARIABLE) == "":
        return "the cache is switched off"
    if count < LEAST_IMAGES:
        return f"fewer than {LEAST_IMAGES:,} images are not cached"
    try:
        folder()
    except OSError as error:
        return one_line(error)
    return ""


def file_of(path: Path, pixels: dict) -> Path:
    """Returns the cache's file for a folder or archive read in one way."""
    named = json.dumps([str(path.resolve()), pixels], sort_keys=True)
    digest = hashlib.sha256(named.encode("utf-8", "surrogateescape"))
    return folder() / f"{digest.hexdigest()[:32]}.npz"


def state_of(entries: Sequence[Entry]) -> str:
    """Names files with their sizes and times, and the decoder."""
    digest = hashlib.sha256(f"{SCHEMA} {PIL.__version__}".encode())
    for entry in entries:
        line = json.dumps([entry.name, entry.stamp])
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def take(
    file: Path, state: str, shape: tuple[int, ...]
) -> tuple[np.ndarray, dict[int, str]] | None:
    """Returns what `keep` kept of files in this state, otherwise None.

    A damaged cache is none.
    """
    try:
        with (
            file.open("rb") as opened,
            np.load(opened, allow_pickle=False) as arrays,
        ):
            about = json.loads(arrays["about"].item())
            if about["state"] != state:
                return None
            images = arrays["images"]
        broken = {int(index): why for index, why in about["broken"].items()}
    except Exception:  # what damaged files raise is of all kinds
        return None
    if images.shape != shape or images.dtype != np.uint8:
        return None
    return images, broken


def keep(
    file: Path, state: str, images: np.ndarray, broken: dict[int, str]
) -> str:
    """Writes decoded images, as a whole or not at all.

    Args:
        file: of `file_of`.
        state: of `state_of`.
        images: uint8 `(n, size, size, channels)`.
        broken: why an image could not be decoded, by its index.

    Returns:
        Why they could not be kept, or nothing.
    """
    about = json.dumps({"state": state, "broken": broken})
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as unfinished, unfinished.open("wb") as out:
            np.savez(out, about=np.array(about), images=images)
    except OSError as error:
        return f"{error.strerror or error}: {file.parent}"
    return ""
