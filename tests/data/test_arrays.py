"""Images and labels from arrays, and from .npz files of them."""

import io
import struct
import zipfile

import numpy as np
import pytest
from data import photos
from PIL import Image

from gnsmall_keras.data.sources import load_data

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 40, 40, 3), np.uint8)
LABELS = np.arange(30) % 3


def _saved(tmp_path, **arrays):
    np.savez_compressed(tmp_path / "own.npz", **arrays)
    return tmp_path / "own.npz"


def test_arrays_are_read_as_they_are():
    images = IMAGES[:, :32, :32]
    dataset = load_data(images, LABELS, test_fraction=0)
    np.testing.assert_array_equal(dataset.train_images, images)
    np.testing.assert_array_equal(dataset.train_labels, LABELS)
    assert dataset.class_names == ("0", "1", "2")
    assert dataset.notes[0] == "There is no test split."


def test_classes_are_in_the_order_of_their_numbers():
    labels = np.repeat(np.arange(12), 3)
    images = np.repeat(IMAGES[:12], 3, axis=0)
    dataset = load_data(images, labels, test_fraction=0)
    assert dataset.class_names == tuple(map(str, range(12)))
    np.testing.assert_array_equal(dataset.train_labels, labels)
    names = [f"name {i}" for i in range(12, 0, -1)]
    dataset = load_data(images, labels, class_names=names, test_fraction=0)
    assert dataset.class_names == tuple(names)
    np.testing.assert_array_equal(dataset.train_labels, labels)


def test_labels_may_be_names():
    names = np.array(["b", "a", "c"])
    dataset = load_data(IMAGES, names[LABELS], test_fraction=0)
    assert dataset.class_names == ("a", "b", "c")
    assert dataset.train_labels[:3].tolist() == [1, 0, 2]


def test_an_npz_equals_the_arrays(tmp_path):
    options = {"image_size": 48, "channels": 1}
    names = ["x", "y", "z"]
    path = _saved(tmp_path, images=IMAGES, labels=LABELS, class_names=names)
    dataset = load_data(path, **options)
    direct = load_data(IMAGES, LABELS, class_names=names, **options)
    assert dataset.digest == direct.digest
    assert dataset.name == "own"
    assert dataset.class_names == ("x", "y", "z")
    assert len(dataset.test_images) == 6
    assert dataset.test_fraction == 0.2


def test_splits_of_arrays(tmp_path):
    some = slice(0, 6)
    path = _saved(
        tmp_path,
        images=IMAGES,
        labels=LABELS,
        test_images=IMAGES[some],
        test_labels=LABELS[some],
        val_images=IMAGES[some],
        val_labels=LABELS[some],
    )
    part = IMAGES[some], LABELS[some]
    direct = load_data(IMAGES, LABELS, test=part, validation=part)
    assert load_data(path).digest == direct.digest
    assert len(direct.train_images) == 30
    assert len(direct.test_images) == len(direct.validation_images) == 6


def test_images_of_several_sizes_and_kinds():
    images = [
        np.full((20 + i, 50, *end), 100, np.uint8)
        for i, end in enumerate([(), (1,), (3,)] * 4)
    ]
    dataset = load_data(images, np.arange(12) % 2, test_fraction=0)
    assert dataset.train_images.shape == (12, 32, 32, 3)
    assert np.all(dataset.train_images == 100)


PILLOW = {
    "RGB": lambda image: image,
    "P": lambda image: image.quantize(kmeans=1),
    "CMYK": lambda image: image.convert("CMYK"),
    "YCbCr": lambda image: image.convert("YCbCr"),
    "HSV": lambda image: image.convert("HSV"),
    "RGBA": lambda image: image.convert("RGBA"),
    "opened": lambda image: Image.open(
        io.BytesIO(photos.encode("plain.png", image))
    ),
    "turned": lambda image: Image.open(
        io.BytesIO(photos.encode("turned6.jpg", image))
    ),
}


@pytest.mark.parametrize("mode", PILLOW)
def test_pillow_images_are_read_as_from_files(mode):
    """Their values alone are palette indices, or of other colours."""
    images = [PILLOW[mode](photos.picture(48, 40)) for _ in range(4)]
    before = [image.mode for image in images]
    dataset = load_data(
        images, np.arange(4) % 2, test_fraction=0, aspect="squash"
    )
    assert [image.mode for image in images] == before
    for found in dataset.train_images.astype(int):
        away = np.abs(found - photos.expected())[:12, :12]
        assert away.max() <= 14, away.max()
        away = np.abs(found - photos.expected())[20:, :12]
        assert away.max() <= 14, away.max()


def test_pillow_images_of_no_known_range_are_refused():
    images = [Image.new(mode, (40, 40)) for mode in ("RGB", "F", "L", "1")]
    with pytest.raises(ValueError, match="image 1 of train, .* 'F'; it has 32"):
        load_data(images, [0, 1, 0, 1], test_fraction=0)


@pytest.mark.parametrize("kind", ["numbers", "names"])
def test_grey_images(kind):
    labels = LABELS if kind == "numbers" else LABELS.astype(str)
    dataset = load_data(IMAGES[..., 0], labels, channels=1)
    assert dataset.channels == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": LABELS - 1}, "from 0 to 2, .* has -1 to 1"),
        ({"labels": LABELS + 1}, "from 0 to 2, .* has 1 to 3"),
        ({"labels": LABELS[:20]}, "20 labels for train and another number"),
        ({"labels": np.append(LABELS, 0)}, "31 labels for train"),
        ({"labels": LABELS / 2}, "whole numbers or texts. Received: float64"),
        ({"labels": LABELS[:, None]}, r"has the shape \(30, 1\)"),
        ({"labels": LABELS % 2}, r"has none for: \['z'\]"),
        ({"labels": LABELS * 0}, "At least 2 classes"),
        (
            {"labels": np.array(["x", "y", "c"])[LABELS]},
            r"of `class_names`, \['x', 'y', 'z'\]. .* has \['c'\] for train",
        ),
        ({"images": IMAGES / 255}, "must be uint8.* Received: float64"),
        ({"images": IMAGES[..., :2]}, r"Received: uint8 \(40, 40, 2\)"),
        ({"images": IMAGES[0, 0]}, r"Received: uint8 \(3,\)"),
        ({"class_names": ["x", "x", "y"]}, "`class_names` must differ"),
        ({"class_names": ["x\ny", "b", "c"]}, r"'x\\ny'|one line"),
    ],
)
@pytest.mark.parametrize("stored", [False, True])
def test_arrays_that_do_not_fit_are_refused(tmp_path, changed, message, stored):
    given = {"images": IMAGES, "labels": LABELS, "class_names": ["x", "y", "z"]}
    given |= changed
    if stored:
        given = {"source": _saved(tmp_path, **given)}
    else:
        given["source"] = given.pop("images")
    with pytest.raises(ValueError, match=message) as caught:
        load_data(**given)
    assert len(str(caught.value).splitlines()) == 1


def test_labels_need_images_and_images_labels(tmp_path):
    with pytest.raises(ValueError, match="Images need `labels`"):
        load_data(IMAGES)
    with pytest.raises(ValueError, match="are for arrays. Received .*'digits'"):
        load_data("digits", LABELS)


def test_labels_that_are_negative_without_names_are_refused():
    with pytest.raises(ValueError, match="from 0 and more"):
        load_data(IMAGES, LABELS - 1)


def test_an_npz_of_objects_is_refused_unread(tmp_path):
    marker = tmp_path / "executed"

    class Payload:
        def __reduce__(self):
            return marker.touch, ()

    objects = np.array([Payload()] * 30, dtype=object)
    for name in ("images", "labels", "class_names"):
        given = {"images": IMAGES, "labels": LABELS} | {name: objects}
        with pytest.raises(ValueError, match=f"`{name}` .* pickled objects"):
            load_data(_saved(tmp_path, **given))
    assert not marker.exists()


def test_an_npz_of_something_else_is_explained(tmp_path):
    path = _saved(tmp_path, x_train=IMAGES, y_train=LABELS)
    with pytest.raises(ValueError, match=r"lacks \['images', 'labels'\]; it "):
        load_data(path)
    path = _saved(tmp_path, images=np.asfortranarray(IMAGES), labels=LABELS)
    with pytest.raises(ValueError, match="Fortran's order"):
        load_data(path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="not a readable tar or zip"):
        load_data(path)


@pytest.mark.parametrize(
    "names", [np.array([b"x", b"y", b"z"]), np.array("x"), np.eye(3)]
)
def test_names_of_classes_that_are_no_texts_are_refused(tmp_path, names):
    path = _saved(tmp_path, images=IMAGES, labels=LABELS, class_names=names)
    with pytest.raises(ValueError, match="must be texts .* Received: ") as told:
        load_data(path)
    assert f"{names.dtype} {names.shape} in " in str(told.value)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (
            {"validation_images": IMAGES, "validation_labels": LABELS},
            r"\['validation_images', 'validation_labels'\]\. .*, val_images",
        ),
        ({"val_labels": LABELS}, "`val_images` of .* cannot be read"),
        ({"test_images": IMAGES}, "`test_labels` of .* cannot be read"),
    ],
)
def test_arrays_of_an_npz_that_would_be_ignored_are_refused(
    tmp_path, others, message
):
    path = _saved(tmp_path, images=IMAGES, labels=LABELS, **others)
    with pytest.raises(ValueError, match=message):
        load_data(path)


def test_an_npz_that_promises_more_than_it_has(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header,
        {"descr": "|u1", "fortran_order": False, "shape": (30, 40, 40, 3)},
    )
    path = tmp_path / "own.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", header.getvalue() + bytes(10_000))
        out = io.BytesIO()
        np.save(out, LABELS)
        archive.writestr("labels.npy", out.getvalue())
    with pytest.raises(ValueError, match="`images` .* is cut short"):
        load_data(path)


def test_an_npz_of_gigabytes_is_refused(tmp_path):
    path = _saved(tmp_path, images=IMAGES, labels=LABELS)
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo("images.npy").file_size
    packed = struct.pack("<I", size)
    path.write_bytes(data.replace(packed, struct.pack("<I", 2**31)))
    with pytest.raises(ValueError, match="must not unpack|not a readable"):
        load_data(path)


def test_labels_of_gigabytes_are_refused(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<i8", "fortran_order": False, "shape": (2**30,)}
    )
    path = _saved(tmp_path, images=IMAGES)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.npy", header.getvalue())
    with pytest.raises(ValueError, match="`labels` .* has 8,589,934,592 bytes"):
        load_data(path)
