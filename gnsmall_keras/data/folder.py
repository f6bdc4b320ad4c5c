"""Images in folders named after their classes, or in a tar of such folders."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

from gnsmall_keras.data.dataset import Dataset

SIDE = 32  # pixels
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_LAYOUT = "The layout is train/<class>/<image>, and the same under test/."


def load(path: Path) -> Dataset:
    """Loads `train/<class>/*.png|jpg|webp`, with or without `test/`.

    Grey, palette and transparent images become RGB (transparency over black);
    images of another size are resized to 32 x 32.

    Args:
        path: a folder, or a tar (also compressed) of such a folder.

    Raises:
        ValueError: if the layout is another, an image cannot be read, there
            is one class only, or a tar has members outside itself.
    """
    splits: dict[str, list[tuple[str, np.ndarray]]] = {"train": [], "test": []}
    files = _tar_files(path) if path.is_file() else _folder_files(path)
    for name, data in files:
        split, class_name = _place(name, path)
        splits[split].append((class_name, _decode(data, f"{name} in {path}")))
    class_names = tuple(sorted({name for name, _ in splits["train"]}))
    if len(class_names) < 2:
        raise ValueError(
            f"At least 2 classes are needed under train/. {os.fspath(path)} "
            f"has {len(class_names)}: {list(class_names)}. {_LAYOUT}"
        )
    unknown = {name for name, _ in splits["test"]} - set(class_names)
    if unknown:
        raise ValueError(
            f"test/ has classes that train/ lacks: {sorted(unknown)}. {_LAYOUT}"
        )
    return Dataset(
        path.name.split(".")[0],
        *_arrays(splits["train"], class_names),
        *_arrays(splits["test"], class_names),
        class_names,
    )


def _folder_files(root) -> Iterator[tuple[str, bytes]]:
    for file in sorted(root.rglob("*")):
        name = file.relative_to(root).as_posix()
        if file.is_file() and not _hidden(name):
            yield name, file.read_bytes()


def _tar_files(path) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(path) as tar:
            for member in sorted(tar.getmembers(), key=lambda m: m.name):
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts:
                    raise ValueError(
                        "A tar may only have members inside itself. "
                        f"{os.fspath(path)} has {member.name!r}. Pack it again "
                        "with relative names."
                    )
                if member.isfile() and not _hidden(name.as_posix()):
                    yield name.as_posix(), tar.extractfile(member).read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(
            f"{os.fspath(path)} is not a readable tar ({error}). Give a folder "
            f"or a tar of one. {_LAYOUT}"
        ) from None


def _hidden(name):
    return any(part.startswith(".") for part in PurePosixPath(name).parts)


def _place(name, path):
    # A tar may hold the folder itself: dataset/train/<class>/<image>.
    parts = PurePosixPath(name).parts
    if len(parts) == 4:
        parts = parts[1:]
    if len(parts) != 3 or parts[0] not in ("train", "test"):
        raise ValueError(
            f"{name} in {os.fspath(path)} is not where an image belongs. "
            f"{_LAYOUT}"
        )
    if not parts[2].lower().endswith(SUFFIXES):
        raise ValueError(
            f"{name} in {os.fspath(path)} is not an image of a known kind "
            f"({', '.join(SUFFIXES)}). Remove or convert it."
        )
    return parts[0], parts[1]


def _decode(data, name):
    try:
        with Image.open(io.BytesIO(data)) as image:
            # Older Pillows give 16-bit PNGs the mode "I".
            png = image.mode == "I" and image.format == "PNG"
            if image.mode in ("I", "F") and not png:
                raise ValueError(
                    "it has 32 bits a pixel, of no known range; save it with 8"
                )
            if png or image.mode.startswith("I;16"):  # RGB would clip them
                image = Image.fromarray((np.asarray(image) >> 8).astype("u1"))
            if (
                image.mode in ("RGBA", "LA", "PA")
                or "transparency" in image.info
            ):
                image = image.convert("RGBA")
                black = Image.new("RGBA", image.size, (0, 0, 0, 255))
                image = Image.alpha_composite(black, image)
            image = image.convert("RGB")
            if image.size != (SIDE, SIDE):
                image = image.resize((SIDE, SIDE), Image.Resampling.BOX)
            return np.asarray(image, dtype=np.uint8)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(
            f"{name} cannot be read as an image ({error}). Replace or remove "
            "it."
        ) from None


def _arrays(pairs, class_names):
    if not pairs:
        return np.zeros((0, SIDE, SIDE, 3), np.uint8), np.zeros(0, np.int32)
    images = np.stack([image for _, image in pairs])
    labels = np.array([class_names.index(name) for name, _ in pairs], np.int32)
    return images, labels
