"""CIFAR-10 and CIFAR-100 from their published files."""

import contextlib
import hashlib
import os
import pickle
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gnsmall_keras.data.dataset import Dataset
from gnsmall_keras.data.files.archives import Archive, opened, top_folder

MAX_BYTES = 2**28  # the largest file has 155,249,918

CLASSES_10 = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


class _Published(NamedTuple):
    folder: str
    archive_md5: str
    label_key: bytes
    train_files: dict[str, str]  # name -> MD5
    test_files: dict[str, str]
    meta_files: dict[str, str]


# MD5 of the "python version" files on the CIFAR home page.
PUBLISHED = {
    "cifar10": _Published(
        folder="cifar-10-batches-py",
        archive_md5="c58f30108f718f92721af3b95e74349a",
        label_key=b"labels",
        train_files={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        test_files={"test_batch": "40351d587109b95175f43aff81a1287e"},
        meta_files={},  # the ten names are fixed
    ),
    "cifar100": _Published(
        folder="cifar-100-python",
        archive_md5="eb9058c3a382ffc7106e4002c42a8d85",
        label_key=b"fine_labels",
        train_files={"train": "16019d7e3df5f24257cddd939b257f8d"},
        test_files={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        meta_files={"meta": "7973b15100ade9c7d40fb424638fde48"},
    ),
}


def find(name: str, root: Path) -> Path | None:
    """Returns where the files of `name` are at or below `root`, if anywhere.

    `root` may be the folder with the files, its parent, or the tar.gz.

    Raises:
        ValueError: if the archive is there but damaged.
    """
    published = PUBLISHED[name]
    first = next(iter(published.train_files))
    for folder in (root, root / published.folder):
        if (folder / first).is_file():
            return folder
    archive = root if root.is_file() else root / f"{_archive(name)}.tar.gz"
    # An archive of photos is not listed for this question, so one name must do.
    if not archive.is_file() or top_folder(archive) != published.folder:
        return None
    return archive


def load(name: str, path: Path) -> Dataset:
    """Loads "cifar10" or "cifar100" from a folder or tar.gz found by `find`.

    Every file's MD5 is compared with the published one before it is unpickled.

    Raises:
        ValueError: if a file is missing or its MD5 differs.
    """
    published = PUBLISHED[name]
    files = {
        **published.train_files,
        **published.test_files,
        **published.meta_files,
    }
    with contextlib.nullcontext(path) if path.is_dir() else opened(path) as at:
        # Safe to unpickle: the MD5 says that these are the published bytes.
        read = {
            file: pickle.loads(
                _checked(at, published.folder, file, md5), encoding="bytes"
            )
            for file, md5 in files.items()
        }
    train = [read[file] for file in published.train_files]
    test = [read[file] for file in published.test_files]
    class_names = CLASSES_10
    if published.meta_files:
        class_names = tuple(
            text.decode() for text in read["meta"][b"fine_label_names"]
        )
    return Dataset(
        name,
        *_arrays(train, published.label_key),
        *_arrays(test, published.label_key),
        class_names,
    )


def download(name: str) -> Path:
    """Returns the tar.gz of "cifar10" or "cifar100", downloaded once by Keras.

    Raises:
        ValueError: if the download fails.
    """
    import keras  # a path is checked before this takes its seconds

    archive = f"{_archive(name)}.tar.gz"
    try:
        path = keras.utils.get_file(
            archive,
            origin=f"https://www.cs.toronto.edu/~kriz/{archive}",
            file_hash=PUBLISHED[name].archive_md5,
        )
    except Exception as error:
        raise ValueError(
            f"{name} could not be downloaded ({error}). Set GNSMALL_DATA to "
            f"the folder {PUBLISHED[name].folder} or to {archive}, or use "
            "data='digits'."
        ) from None
    return Path(path)


def _archive(name):
    return f"{name[:5]}-{name[5:]}-python"


def _checked(at, folder, file, md5):
    data = _read(at, folder, file)
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != md5:
        raise ValueError(
            f"{file} in {_path(at)} is not the published CIFAR file: its MD5 "
            f"is {found}, not {md5}. It may be truncated; download it again."
        )
    return data


def _read(at, folder, file):
    """A file's bytes, from a folder or an open archive."""
    found, read = None, None
    if isinstance(at, Archive):
        members = [m for m in at.members if m.name == f"{folder}/{file}"]
        if members and members[-1].kind == "file":
            found = members[-1].size_bytes
            read = lambda: next(at.read(members[-1:]))  # noqa: E731
    elif (at / file).is_file():
        found, read = (at / file).stat().st_size, (at / file).read_bytes
    if read is None:
        raise ValueError(
            f"{file} is missing in {_path(at)}, or is no file. Unpack the "
            "whole archive there, or download it again."
        )
    if found > MAX_BYTES:
        raise ValueError(
            f"{file} in {_path(at)} is not the published CIFAR file: it has "
            f"{found:,} bytes. Download it again."
        )
    return read()


def _path(at):
    return os.fspath(at.path if isinstance(at, Archive) else at)


def _arrays(batches, label_key):
    images = np.concatenate([batch[b"data"] for batch in batches])
    images = images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    labels = np.concatenate([batch[label_key] for batch in batches])
    return np.ascontiguousarray(images), labels.astype(np.int32)
