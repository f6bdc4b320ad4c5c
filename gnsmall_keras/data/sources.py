"""From a name, a path or arrays to a dataset in memory."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gnsmall_keras.data import arrays, cifar, folder
from gnsmall_keras.data.dataset import Dataset
from gnsmall_keras.data.decoding import prepare_array
from gnsmall_keras.data.files import archives
from gnsmall_keras.data.parts import TEST_FRACTION, Options

SOURCES = ("digits", *cifar.PUBLISHED)
DATA_VARIABLE = "GNSMALL_DATA"  # environment: where CIFAR files are
DIGITS_TEST_SIZE = 360  # of 1797


def load_data(
    source: Any,
    labels: Any = None,
    *,
    class_names: Sequence[str] | None = None,
    test: tuple[Any, Any] | None = None,
    validation: tuple[Any, Any] | None = None,
    image_size: int = 32,
    channels: int = 3,
    flip: bool | None = None,
    aspect: str = "crop",
    skip_broken: bool = False,
    test_fraction: float = TEST_FRACTION,
    seed: int = 0,
    cache: bool = True,
) -> Dataset:
    """Loads a dataset of square images into memory.

    Args:
        source: "digits" (scikit-learn's, needs no file); "cifar10" or
            "cifar100" (from the folder, its parent or the tar.gz that the
            environment variable GNSMALL_DATA names, else downloaded once by
            Keras); a path: a CIFAR folder or tar.gz, or a folder, tar or zip
            with `<class>/<image>`, or with `train/<class>/<image>` and, if
            there are any, `test/` and `val/` like it; an .npz with `images`,
            `labels` and perhaps `class_names`; or images themselves: uint8
            `(n, h, w)` or `(n, h, w, 1|3|4)`, or a list of such images or of
            Pillow's, of any sizes; these are read as from a file, whatever
            their mode, upright by their EXIF orientation.
        labels: of images: class indices or names `(n,)`.
        class_names: of images with class indices; "0", "1" ... without.
        test, validation: of images: `(images, labels)` likewise.
        image_size: pixels of a side, a multiple of 8 from 32 to 128.
        channels: 3 for RGB, 1 for grey.
        flip: whether a mirrored image keeps its class; None: not for digits.
        aspect: for images that are not square: "crop" (the middle), "pad"
            (black borders) or "squash".
        skip_broken: whether to go on without images that cannot be read;
            `notes` of the result names them.
        test_fraction: part of each class that becomes the test split of
            images that have none; 0 to have none.
        seed: names that split.
        cache: whether 1,000 and more decoded images of a path are kept on disk
            for the next time (where: `gnsmall_keras.data.files.cache.folder`).

    Returns:
        Images as uint8 `(n, image_size, image_size, channels)`, labels as
        int32 `(n,)`; `notes` says what was left out, split off or is mirrored.

    Raises:
        ValueError: if the source is unknown, missing or damaged, images are in
            no known layout, a class has too few, or an option is outside its
            range.

    Example:
        >>> data = gns.load_data("digits")
        >>> data.train_images.shape, data.classes
        ((1437, 32, 32, 3), 10)
    """
    options = Options(
        image_size=image_size,
        channels=channels,
        flip=flip,
        aspect=aspect,
        skip_broken=skip_broken,
        test_fraction=test_fraction,
        seed=seed,
        cache=cache,
    )
    if isinstance(source, str | os.PathLike):
        _check_alone(source, labels, class_names, test, validation)
        return _load_source(source, options)
    splits = {"train": (source, labels), "validation": validation, "test": test}
    given = {name: split for name, split in splits.items() if split is not None}
    return arrays.load(given, class_names, options)


def _check_alone(source, *others):
    if any(value is not None for value in others):
        raise ValueError(
            "`labels`, `class_names`, `test` and `validation` are for arrays. "
            f"Received with them: {os.fspath(source)!r}. Leave them out; "
            "folders name classes."
        )


def check_source(source: str | os.PathLike[str]) -> None:
    """Looks whether there are data, before seconds go into a framework.

    Raises:
        ValueError: if the source is no known name, and no folder or file.
    """
    if source in SOURCES:
        return
    path, given = Path(source), os.fspath(source)
    try:
        if path.is_dir() or path.is_file():
            return
        exists = path.exists()
    except (OSError, ValueError) as error:  # too long, or a null character
        raise ValueError(
            f"No data at {given[:200]!r} ({error}). Give a shorter path."
        ) from None
    if exists:
        raise ValueError(
            f"{given!r} is neither a folder nor a file. {archives.READABLE}"
        )
    raise ValueError(
        f"No data at {given!r}. Give one of {SOURCES}, or the path of a folder "
        "or tar of images, or a zip or .npz."
    )


def _load_source(source, options):
    if source == "digits":
        digits = _digits()
        arrays_of = {
            field.name: value.copy()
            for field in dataclasses.fields(digits)
            if isinstance(value := getattr(digits, field.name), np.ndarray)
        }  # a caller's own, to change
        return _as_asked(dataclasses.replace(digits, **arrays_of), options)
    if source in cifar.PUBLISHED:
        return _as_asked(cifar.load(source, _find_cifar(source)), options)
    check_source(source)
    path = Path(source)
    if path.is_file() and archives.is_zip(path):
        if path.suffix.lower() == ".npz":
            return arrays.load_npz(path, options)
        return folder.load(path, options)
    for name in cifar.PUBLISHED:
        found = cifar.find(name, path)
        if found:
            return _as_asked(cifar.load(name, found), options)
    return folder.load(path, options)


def _as_asked(dataset, options):
    """A known dataset in another size, in grey, or with other flips."""
    if options.flip is not None:
        dataset = dataclasses.replace(dataset, flippable=options.flip)
    if (dataset.image_size, dataset.channels) == (
        options.image_size,
        options.channels,
    ):
        return dataset
    train, test = (
        np.stack([prepare_array(image, **options.pixels) for image in images])
        for images in (dataset.train_images, dataset.test_images)
    )
    return dataclasses.replace(dataset, train_images=train, test_images=test)


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


@functools.cache
def _digits():
    """scikit-learn's 8 x 8 digits, as 32 x 32 RGB with a fixed test split."""
    # A path is checked before this takes its second.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

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
