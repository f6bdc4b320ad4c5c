"""Photo folders of odd sizes and kinds, with a known answer.

`python tests/data/photos.py FOLDER` makes one. Every picture, upright, has four
quadrants of the colours in `COLOURS`, whatever its file's kind; the answer of
`expected` holds for the loader and for any other reader of images.
"""

import io
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = np.array(
    [[[200, 40, 40], [40, 180, 60]], [[50, 60, 190], [230, 230, 220]]], np.uint8
)
CLASSES = ("Äpfel", "b c'd", "链接")
SIZES = ((320, 240), (33, 47), (250, 249), (31, 90), (32, 32), (512, 50))
ORIENTATION = 0x0112
# How a camera that writes an orientation has stored the upright picture.
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def picture(width: int, height: int) -> Image.Image:
    """The upright picture, RGB."""
    rows = np.arange(height) * 2 // height
    columns = np.arange(width) * 2 // width
    return Image.fromarray(COLOURS[rows][:, columns])


def expected(side: int = 32, channels: int = 3) -> np.ndarray:
    """What a reader makes of the picture, `(side, side, channels)`."""
    pixels = picture(side, side)
    if channels == 1:
        return np.asarray(pixels.convert("L"))[..., None]
    return np.asarray(pixels)


def _grey(image):
    return image.convert("L")


def _half_clear(image):
    """Twice as bright and half as opaque: the same over black."""
    bright = np.minimum(np.asarray(image).astype(int) * 255 // 230, 255)
    opacity = np.full((*bright.shape[:2], 1), 230)
    return Image.fromarray(np.concatenate([bright, opacity], 2).astype("u1"))


def _wide(image):
    return Image.fromarray(np.asarray(_grey(image)).astype("u2") * 256 + 77)


def _oriented(number):
    def store(image):
        exif = Image.Exif()
        exif[ORIENTATION] = number
        stored = image.transpose(STORED[number]) if number > 1 else image
        return stored, {"exif": exif}

    return store


# Name and format of a file -> how the picture is stored in it.
KINDS = {
    "plain.png": ("PNG", lambda image: image),
    "UPPER.JPG": ("JPEG", lambda image: image),
    "other.jfif": ("JPEG", lambda image: image),
    "web.webp": ("WEBP", lambda image: (image, {"lossless": True})),
    "windows.bmp": ("BMP", lambda image: image),
    "scan.tif": ("TIFF", lambda image: image),
    "scan.TIFF": ("TIFF", lambda image: (image, {"compression": "tiff_lzw"})),
    "moving.gif": (
        "GIF",
        lambda image: (
            image,
            {"save_all": True, "append_images": [Image.new("RGB", image.size)]},
        ),
    ),
    "clear.png": ("PNG", _half_clear),
    "palette.png": ("PNG", lambda image: image.quantize(16)),
    "print.jpeg": ("JPEG", lambda image: image.convert("CMYK")),
    "print.tif": ("TIFF", lambda image: image.convert("CMYK")),
    "a jpeg.png": ("JPEG", lambda image: image),
} | {
    f"turned{number}.{suffix}": (kind, _oriented(number))
    for suffix, kind in (("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"))
    for number in range(1, 9)
}
GREY_KINDS = {
    "grey.jpg": ("JPEG", _grey),
    "grey.png": ("PNG", _grey),
    "grey clear.png": ("PNG", lambda image: image.convert("LA")),
    "sixteen.png": ("PNG", _wide),
    "sixteen.tif": ("TIFF", _wide),
}


def encode(kind: str, image: Image.Image) -> bytes:
    """A file's content, by its name in KINDS or GREY_KINDS."""
    name, store = (KINDS | GREY_KINDS)[kind]
    stored = store(image)
    stored, options = stored if isinstance(stored, tuple) else (stored, {})
    out = io.BytesIO()
    if name in ("JPEG", "WEBP"):
        options = {"quality": 95, **options}
    stored.save(out, name, **options)
    return out.getvalue()


def make(root: Path, *, classes=CLASSES, kinds=tuple(KINDS)) -> Path:
    """Makes `root/<class>/*`: one image a kind, each of the next size."""
    for shift, label in enumerate(classes):
        folder = root / label
        folder.mkdir(parents=True)
        for number, kind in enumerate(kinds):
            size = SIZES[(number + shift) % len(SIZES)]
            (folder / kind).write_bytes(encode(kind, picture(*size)))
    return root


def add_foreign(root: Path) -> int:
    """Adds what is no image, and returns how many files that is."""
    first = root / CLASSES[0]
    (first / "IMG_1.HEIC").write_bytes(b"x")
    (first / "notes.txt").write_text("hello")
    (first / ".DS_Store").write_bytes(b"x")
    (first / "Thumbs.db").write_bytes(b"x")
    (root / "__MACOSX").mkdir()
    (root / "labels.csv").write_text("a,b")
    return 6  # a hidden folder is one


def add_links(root: Path, store: Path) -> None:
    """Moves the last class elsewhere, and leaves a link; links an image too."""
    store.mkdir(exist_ok=True)
    last = root / CLASSES[-1]
    last.rename(store / "links")
    last.symlink_to(store / "links", target_is_directory=True)
    first = root / CLASSES[0]
    (first / "zz link.png").symlink_to(first / "plain.png")


def archive(path, files, links=(), hard=()):
    """A tar or zip of `{name: bytes}`, links first."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as packed:
            for name, target in links:
                info = zipfile.ZipInfo(name)
                info.create_system, info.external_attr = 3, 0o120777 << 16
                packed.writestr(info, target)
            for name, data in files.items():
                packed.writestr(name, data)
        return path
    with tarfile.open(path, "w") as packed:
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            packed.addfile(info)
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
        for name, target in hard:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.LNKTYPE, target
            packed.addfile(info)
    return path


def files(*labels, count=3):
    """Some images of each class, as `{name: bytes}`."""
    data = encode("plain.png", picture(20, 30))
    return {f"{label}/{i}.png": data for label in labels for i in range(count)}


if __name__ == "__main__":
    made = make(Path(sys.argv[1]) / "photos", kinds=tuple(KINDS | GREY_KINDS))
    add_foreign(made)
    add_links(made, made.with_name("elsewhere"))
