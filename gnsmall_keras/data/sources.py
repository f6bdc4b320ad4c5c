"""From a name or a path to a dataset in memory."""

import os
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from gnsmall_keras.data import cifar, folder
from gnsmall_keras.data.dataset import Dataset

SOURCES = ("digits", *cifar.PUBLISHED)
DATA_VARIABLE = "GNSMALL_DATA"  # environment: where CIFAR files are
DIGITS_TEST_SIZE = 360  # of 1797


def load_data(source: str | os.PathLike) -> Dataset:
    """Loads a dataset of 32 x 32 RGB images.

    Args:
        source: "digits" (scikit-learn's, needs no file); "cifar10" or
            "cifar100" (from the folder, its parent or the tar.gz that the
            environment variable GNSMALL_DATA names, else downloaded once by
            Keras); or a path: a CIFAR folder or tar.gz, or a folder or tar with
            `train/<class>/*.png|jpg|webp` and, if there is one, `test/`.

    Returns:
        The images as uint8 `(n, 32, 32, 3)` and labels as int32 `(n,)`.

    Raises:
        ValueError: if the source is unknown, missing or damaged.
    """
    if source == "digits":
        return _digits()
    if source in cifar.PUBLISHED:
        return cifar.load(source, _find_cifar(source))
    path = Path(source)
    if not path.exists():
        raise ValueError(
            f"No data at {os.fspath(source)!r}. Give one of {SOURCES}, or the "
            "path of a folder or tar of images."
        )
    for name in cifar.PUBLISHED:
        found = cifar.find(name, path)
        if found:
            return cifar.load(name, found)
    return folder.load(path)


def _find_cifar(name):
    place = os.environ.get(DATA_VARIABLE)
    if not place:
        return cifar.download(name)
    found = cifar.find(name, Path(place))
    if not found:
        raise ValueError(
            f"{DATA_VARIABLE} is {place!r}, but {name} is not there. It must "
            f"name the folder {cifar.PUBLISHED[name].folder}, its parent, or "
            "the tar.gz; unset it to download."
        )
    return found


def _digits():
    """scikit-learn's 8 x 8 digits, as 32 x 32 RGB with a fixed test split."""
    data = load_digits()
    pixels = np.rint(data.images * (255 / 16)).astype(np.uint8)
    large = [
        np.asarray(
            Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR)
        )
        for image in pixels
    ]
    images = np.repeat(np.stack(large)[..., None], 3, axis=-1)
    labels = data.target.astype(np.int32)
    train, test = train_test_split(
        np.arange(len(labels)),
        test_size=DIGITS_TEST_SIZE,
        stratify=labels,
        random_state=0,
    )
    train, test = np.sort(train), np.sort(test)
    return Dataset(
        "digits",
        images[train],
        labels[train],
        images[test],
        labels[test],
        tuple(str(digit) for digit in range(10)),
        flippable=False,
    )
