"""From an image file to pixels: one set of rules, here and on devices.

`tflite/run_model.py` has the same rules, in as few lines as it can have; a test
holds both to the same pixels (docs/adr/0024).
"""

import contextlib
import io
import re
import threading
import warnings
from collections.abc import Iterator
from typing import get_args

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from gnsmall_keras.config import Aspect
from gnsmall_keras.lines import one_line

# Nothing else is tried, whatever a file is called: an EPS would be given to
# Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".jfif",
    ".webp",
    ".bmp",
    ".tif",
    ".tiff",
    ".gif",
)
MAX_PIXELS = 89_478_485  # a header's claim; Pillow warns from here on
MAX_FILE_BYTES = 2**28  # of one image file
FILTER = Image.Resampling.BOX
# A JPEG is decoded at 1/2, 1/4 or 1/8, of at least so many times the size.
DRAFT = 2
ASPECTS = get_args(Aspect)
MODES = {3: "RGB", 1: "L"}
_OPAQUE = ("1", "L", "RGB", "CMYK", "YCbCr")
_LARGE_PIXELS = 2**24
_one_large_image = threading.Lock()  # at a time: it may need a gigabyte


def decode(
    data: bytes, *, image_size: int, channels: int, aspect: str
) -> np.ndarray:
    """Returns the pixels of an image file, of its first frame.

    Args:
        data: the file's content; PNG, JPEG, WebP, BMP, TIFF or GIF, whatever
            the file is called.
        image_size, channels, aspect: of `prepare`.

    Returns:
        uint8 `(image_size, image_size, channels)`.

    Raises:
        ValueError: with the reason alone, if it is none of these, damaged, or
            has more than `MAX_PIXELS`, which is seen before it is decoded.
    """
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(too_large(len(data)))
    with (
        _plain_reasons(),
        Image.open(io.BytesIO(data), formats=FORMATS) as image,
    ):
        _check_pixels(image.width * image.height)
        image.draft(None, (DRAFT * image_size,) * 2)
        large = image.width * image.height > _LARGE_PIXELS
        with _one_large_image if large else contextlib.nullcontext():
            return prepare(
                image,
                image_size=image_size,
                channels=channels,
                aspect=aspect,
            )


def decode_opened(
    image: Image.Image, *, image_size: int, channels: int, aspect: str
) -> np.ndarray:
    """Returns the pixels of a Pillow image; it is left as it is.

    As `decode` of its file, but for JPEGs much larger than `image_size`, which
    are read whole here.

    Raises:
        ValueError: as `decode`.
    """
    with _plain_reasons():
        _check_pixels(image.width * image.height)
        return prepare(
            image, image_size=image_size, channels=channels, aspect=aspect
        )


@contextlib.contextmanager
def _plain_reasons():
    """What Pillow raises, as a ValueError with the reason alone."""
    try:
        yield
    except UnidentifiedImageError:
        raise ValueError(f"it is none of {', '.join(FORMATS)}") from None
    except (
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        _check_pixels(int(re.findall(r"\d+", str(error))[0]))
        raise ValueError(one_line(error)) from None
    except Exception as error:  # Pillow's decoders raise all kinds
        raise ValueError(one_line(error)) from None


def prepare(
    image: Image.Image, *, image_size: int, channels: int, aspect: str
) -> np.ndarray:
    """Returns the pixels of an image, whatever its size and mode.

    EXIF's orientation is applied; 16 bits become the upper 8; transparency is
    over black; then grey or RGB; then the middle square ("crop"), black
    borders ("pad") or another shape ("squash"); then `FILTER`.

    Args:
        image: opened, its pixels read or not.
        image_size: pixels of a side.
        channels: 3 for RGB, 1 for grey.
        aspect: one of `ASPECTS`, for an image that is not square.

    Returns:
        uint8 `(image_size, image_size, channels)`.

    Raises:
        ValueError: if it has 32 bits a pixel.
    """
    # Older Pillows give 16-bit PNGs the mode "I".
    png = image.mode == "I" and image.format == "PNG"
    if image.mode in ("I", "F") and not png:
        raise ValueError(
            "it has 32 bits a pixel, of no known range; save it with 8"
        )
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # RGB would clip them
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in _OPAQUE and "transparency" not in image.info:
        image = image.convert("RGB")
    else:  # colours times their opacity, that is, over black
        over_black = np.asarray(image.convert("RGBA").convert("RGBa"))
        image = Image.fromarray(np.ascontiguousarray(over_black[..., :3]))
    image = image.convert(MODES[channels])
    size = (image_size, image_size)
    if aspect == "crop":
        image = ImageOps.fit(image, size, FILTER)
    elif aspect == "pad":
        image = ImageOps.pad(image, size, FILTER, "black")
    else:
        image = image.resize(size, FILTER)
    return np.asarray(image, np.uint8).reshape(*size, channels)


def prepare_array(
    pixels: np.ndarray, *, image_size: int, channels: int, aspect: str
) -> np.ndarray:
    """Returns what `prepare` does of uint8 `(h, w)` or `(h, w, 1|3|4)`."""
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    return prepare(
        Image.fromarray(pixels),
        image_size=image_size,
        channels=channels,
        aspect=aspect,
    )


@contextlib.contextmanager
def strict_warnings() -> Iterator[None]:
    """What Pillow warns of while files are decoded, in all threads.

    A header of too many pixels is an error; others are about metadata.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def too_large(size_bytes: int) -> str:
    """Returns the reason not to read a file of so many bytes."""
    return (
        f"it has {size_bytes:,} bytes, more than {MAX_FILE_BYTES:,}; save it "
        "smaller"
    )


def _check_pixels(pixels):
    if pixels > MAX_PIXELS:
        raise ValueError(
            f"its header says {pixels:,} pixels, more than {MAX_PIXELS:,}; "
            "save it smaller"
        )
