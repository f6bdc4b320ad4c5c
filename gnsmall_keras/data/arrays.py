"""Images and labels from Python's arrays, or from an .npz file of them."""

import contextlib
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from gnsmall_keras.data.dataset import Dataset, some
from gnsmall_keras.data.decoding import (
    MAX_FILE_BYTES,
    MAX_PIXELS,
    decode_opened,
    prepare_array,
)
from gnsmall_keras.data.files.archives import opened
from gnsmall_keras.data.files.layout import check_label
from gnsmall_keras.data.files.listing import check_count, shown
from gnsmall_keras.data.parts import Options, assemble, check_classes

SPLITS = {"train": "", "validation": "val_", "test": "test_"}
_PAIR = ("images", "labels")  # of each split
KEYS = (
    "An .npz has `images`, uint8 (n, h, w) or (n, h, w, 1|3|4), and `labels` "
    "(n,), if need be `class_names` (classes,), and test_images, test_labels, "
    "val_images and val_labels."
)
_NAMES = {
    "class_names",
    *(prefix + name for prefix in SPLITS.values() for name in _PAIR),
}


class Given(NamedTuple):
    """Images of a split, and their labels."""

    # Each uint8 (h, w) or (h, w, channels), or Pillow's.
    images: Iterable[np.ndarray | Image.Image]
    labels: np.ndarray


def load(
    splits: dict[str, tuple[Any, Any]],
    class_names: Sequence[str] | None,
    options: Options,
) -> Dataset:
    """Makes a dataset of arrays.

    Args:
        splits: "train", "validation" or "test" -> images and labels.
        class_names: one a class, for labels that are numbers.
        options: of `load_data`.

    Raises:
        ValueError: if an array is of another type or shape, or a label outside
            the range.
    """
    if splits["train"][1] is None:
        raise ValueError(
            "Images need `labels`. Received: None. Pass "
            "load_data(images, labels)."
        )
    given = {
        split: Given(_checked_images(images), np.asarray(labels))
        for split, (images, labels) in splits.items()
    }
    return _dataset("images", given, class_names, options, "the arrays")


def load_npz(path: Path, options: Options) -> Dataset:
    """Loads `images`, `labels` and perhaps `class_names` from an .npz file.

    Images are read a few at a time; nothing is unpickled.

    Raises:
        ValueError: if it has no such arrays, or others, or they are too large
            or objects.
    """
    where = shown(str(path))
    with contextlib.ExitStack() as stack:
        stack.enter_context(opened(path))  # refuses bombs
        archive = stack.enter_context(zipfile.ZipFile(path))
        files = archive.namelist()
        names = {name.removesuffix(".npy") for name in files}
        missing = {*_PAIR} - names
        if missing:
            raise ValueError(
                f"{where} lacks {sorted(missing)}; it has "
                f"{sorted(names)[:10]}. {KEYS}"
            )
        unknown = {name for name in names - _NAMES if f"{name}.npy" in files}
        if unknown:
            raise ValueError(
                f"{where} has arrays that are not read: "
                f"{some(sorted(unknown))}. {KEYS} Rename or remove these."
            )
        given = {}
        for split, prefix in SPLITS.items():
            if any(f"{prefix}{name}" in names for name in _PAIR):
                images = _stored_images(archive, f"{prefix}images", where)
                stack.enter_context(contextlib.closing(images))
                labels = _stored(archive, f"{prefix}labels", where)
                given[split] = Given(images, labels)
        class_names = None
        if "class_names" in names:
            stored = _stored(archive, "class_names", where)
            if stored.dtype.kind not in "Uiu" or stored.ndim != 1:
                raise ValueError(
                    "`class_names` must be texts (classes,). Received: "
                    f"{stored.dtype} {stored.shape} in {where}. Save "
                    "np.array(names, dtype=str)."
                )
            class_names = [str(name) for name in stored]
        name = path.resolve().name.split(".")[0]
        return _dataset(name, given, class_names, options, where)


def _dataset(name, given, class_names, options, where):
    names = None if class_names is None else list(class_names)
    labels = _label_names({s: g.labels for s, g in given.items()}, names, where)
    splits = [s for s, g in given.items() for _ in g.labels]
    flat = [label for part in labels.values() for label in part]
    check_count(len(flat))
    absent = sorted(set(names or ()) - set(labels["train"]))
    ordered = check_classes(
        flat, splits, [("train", n) for n in absent], options, where
    )
    shape = (options.image_size, options.image_size, options.channels)
    images = np.zeros((len(flat), *shape), np.uint8)
    at = 0
    for split, part in given.items():
        found = -1
        for found, pixels in enumerate(part.images):
            if found >= len(part.labels):
                break
            images[at + found] = _prepared(pixels, options, found, split)
        if found + 1 != len(part.labels):
            raise ValueError(
                f"Images and labels must be as many. {where} has "
                f"{len(part.labels):,} labels for {split} and another number "
                "of images."
            )
        at += len(part.labels)
    if names is None and given["train"].labels.dtype.kind in "iu":
        ordered = tuple(sorted(ordered, key=int))
    return assemble(
        name,
        images,
        flat,
        splits,
        names or ordered,
        options,
        origin="arrays",
    )


def _prepared(pixels, options, number, split):
    if not isinstance(pixels, Image.Image):
        return prepare_array(pixels, **options.pixels)
    try:
        return decode_opened(pixels, **options.pixels)
    except ValueError as reason:
        raise ValueError(
            "Pillow's images must be readable as files are. Received: image "
            f"{number} of {split}, of mode {pixels.mode!r}; {reason}."
        ) from None


def _label_names(labels, names, where):
    """Of each split its labels as names; numbers are indices into them."""
    if names is not None:
        if len(set(names)) != len(names):
            raise ValueError(
                f"`class_names` must differ. Received: {names[:10]}."
            )
        for name in names:
            if not isinstance(name, str):
                raise ValueError(
                    f"`class_names` must be texts. Received: {name!r}."
                )
            check_label(name)
    result = {}
    for split, values in labels.items():
        if values.ndim != 1 or not len(values):
            raise ValueError(
                f"Labels must be (n,), at least one. {where} has the shape "
                f"{values.shape} for {split}."
            )
        if values.dtype.kind == "U":
            result[split] = [str(value) for value in values]
            for name in set(result[split]):
                check_label(name)
            _check_known(result[split], names, split, where)
        elif values.dtype.kind in "iu":
            _check_range(values, len(names) if names else None, split, where)
            result[split] = [
                names[v] if names else str(v) for v in values.tolist()
            ]
        else:
            raise ValueError(
                "Labels must be whole numbers or texts. Received: "
                f"{values.dtype} for {split} in {where}."
            )
    return result


def _check_known(labels, names, split, where):
    unknown = sorted(set(labels) - set(names or labels))
    if unknown:
        raise ValueError(
            f"Labels must be of `class_names`, {some(names)}. {where} has "
            f"{some(unknown)} for {split}. Correct the labels or the names."
        )


def _check_range(values, classes, split, where):
    low, high = int(values.min()), int(values.max())
    if low < 0 or (classes is not None and high >= classes):
        bound = "0 and more" if classes is None else f"0 to {classes - 1}"
        raise ValueError(
            f"Labels must be from {bound}, indices of classes. {where} has "
            f"{low} to {high} for {split}. Count classes from 0."
        )


def _checked_images(images):
    if isinstance(images, np.ndarray):
        _check_array(images.dtype, images.shape[1:], "images")
    else:
        images = [
            image if isinstance(image, Image.Image) else np.asarray(image)
            for image in images
        ]
        for image in images:
            if not isinstance(image, Image.Image):
                _check_array(image.dtype, image.shape, "an image")
    return images


def _check_array(dtype, shape, where):
    colours = len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4))
    if dtype != np.uint8 or not colours or 0 in shape:
        raise ValueError(
            "Images must be uint8, of the shape (height, width) or (height, "
            f"width, 1|3|4). Received: {dtype} {tuple(shape)} in {where}. "
            "Multiply by 255 what is in [0, 1], and round."
        )
    if shape[0] * shape[1] > MAX_PIXELS:
        raise ValueError(
            f"An image has at most {MAX_PIXELS:,} pixels. Received: {shape}."
        )


@contextlib.contextmanager
def _array(archive, name, where) -> Iterator[tuple]:
    """An array's header and the file after it; objects are refused unread."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(archive.open(f"{name}.npy"))
            version = np.lib.format.read_magic(file)
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, fortran, dtype = read(file)
        except Exception as error:  # damaged files raise all kinds
            raise ValueError(
                f"`{name}` of {where} cannot be read "
                f"({' '.join(str(error).split())}). {KEYS}"
            ) from None
        if dtype.hasobject:
            raise ValueError(
                f"`{name}` of {where} has pickled objects, which are not read. "
                "Save it as numbers or texts, not with dtype=object."
            )
        if fortran and len(shape) > 1:
            raise ValueError(
                f"`{name}` of {where} is in Fortran's order. Save "
                "np.ascontiguousarray of it."
            )
        yield file, shape, dtype


def _stored(archive, name, where):
    """A small array as a whole."""
    with _array(archive, name, where) as (file, shape, dtype):
        size = int(np.prod(shape, dtype=float)) * dtype.itemsize
        if size > MAX_FILE_BYTES:
            raise ValueError(
                f"`{name}` of {where} has {size:,} bytes, more than "
                f"{MAX_FILE_BYTES:,}. Check that it is what its name says."
            )
        return _frombuffer(file, size, dtype, name, where).reshape(shape)


def _stored_images(archive, name, where):
    """Yields images one by one; memory holds a few."""
    with _array(archive, name, where) as (file, shape, dtype):
        _check_array(dtype, shape[1:], f"`{name}` of {where}")
        check_count(shape[0])
        size = int(np.prod(shape[1:]))
        for _ in range(shape[0]):
            yield _frombuffer(file, size, dtype, name, where).reshape(shape[1:])


def _frombuffer(file, size, dtype, name, where):
    try:
        data = file.read(size)
    except Exception as error:  # a checksum, or the compression
        data, why = b"", f" ({error})"
    else:
        why = ""
    if len(data) != size:
        raise ValueError(
            f"`{name}` of {where} is cut short{why}. Save the file again."
        )
    return np.frombuffer(data, dtype)
