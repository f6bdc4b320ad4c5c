"""Digits, image folders and tars, and what is none of them."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from gnsmall_keras.data.sources import load_data


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pets"
    generator = np.random.default_rng(0)
    for split, count in (("train", 3), ("test", 2)):
        for class_name in ("cat", "dog"):
            place = root / split / class_name
            place.mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(place / f"{index}.png")
    return root


def _tar(tmp_path, members):
    path = tmp_path / "images.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_digits_need_nothing():
    digits = load_data("digits")
    assert digits.train_images.shape == (1437, 32, 32, 3)
    assert digits.test_images.shape == (360, 32, 32, 3)
    assert digits.train_images.dtype == np.uint8
    assert digits.train_images.max() == 255
    assert digits.classes == 10
    assert not digits.flippable
    assert digits.digest == load_data("digits").digest


def test_folder_is_read_by_class(folder):
    dataset = load_data(folder)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.test_images.shape == (4, 32, 32, 3)
    with Image.open(folder / "train/cat/0.png") as image:
        np.testing.assert_array_equal(dataset.train_images[0], image)


def test_tar_equals_the_folder(folder, tmp_path):
    path = tmp_path / "pets.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, "pets")
    assert load_data(path).digest == load_data(folder).digest


def test_test_split_is_optional(folder):
    for file in folder.glob("test/*/*"):
        file.unlink()
    dataset = load_data(folder)
    assert len(dataset.test_images) == 2  # one of each class, split off
    assert len(dataset.train_images) == 4
    assert dataset.test_fraction == 0.2
    assert len(load_data(folder, test_fraction=0).test_images) == 0


@pytest.mark.parametrize(
    ("mode", "color", "size", "expected"),
    [
        ("L", 100, (32, 32), (100, 100, 100)),
        ("RGBA", (200, 100, 0, 0), (32, 32), (0, 0, 0)),
        ("RGB", (10, 20, 30), (64, 64), (10, 20, 30)),
        ("I;16", 100 * 256 + 7, (32, 32), (100, 100, 100)),
    ],
)
def test_other_images_are_converted(folder, mode, color, size, expected):
    Image.new(mode, size, color).save(folder / "train/cat/0.png")
    image = load_data(folder).train_images[0]
    assert image.shape == (32, 32, 3)
    assert tuple(image[5, 5]) == expected


def test_one_class_is_refused(folder):
    for file in [*folder.glob("*/dog/*")]:
        file.unlink()
    with pytest.raises(ValueError, match="At least 2 classes"):
        load_data(folder)


def test_test_class_without_training_images_is_refused(folder):
    for file in [*folder.glob("train/dog/*")]:
        file.rename(folder / "train/cat" / f"dog-{file.name}")
    (folder / "train/bird").mkdir()
    (folder / "train/cat/0.png").rename(folder / "train/bird/0.png")
    with pytest.raises(ValueError, match=r"train/ lacks: \['dog'\]"):
        load_data(folder)


def test_file_that_is_no_image_is_named(folder):
    (folder / "train/cat/0.png").write_text("hello")
    with pytest.raises(ValueError, match=r"cat/0\.png .* cannot be read"):
        load_data(folder)


def test_truncated_image_is_named(folder):
    file = folder / "train/dog/1.png"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"dog/1\.png .* cannot be read"):
        load_data(folder)


def test_files_of_other_kinds_are_counted_in_a_line(folder):
    (folder / "train/cat/notes.txt").write_text("hello")
    (folder / "train/cat/0.HEIC").write_text("hello")
    (folder / "more.heic").write_text("hello")
    dataset = load_data(folder)
    assert dataset.notes[0] == (
        "3 files of other kinds are left out (.heic: 2, .txt: 1). Save those "
        "of HEIC as JPEG to have them."
    )
    assert len(dataset.train_images) == 6


def test_file_in_the_wrong_place_is_named(folder):
    (folder / "train/0.png").write_bytes(b"")
    with pytest.raises(ValueError, match="layout is train/<class>/<image>"):
        load_data(folder)


@pytest.mark.parametrize("name", ["../outside.png", "/tmp/outside.png"])
def test_tar_members_outside_are_refused(tmp_path, name):
    path = _tar(tmp_path, {name: b"x"})
    with pytest.raises(ValueError, match="members inside itself"):
        load_data(path)


def test_file_that_is_no_tar_is_refused(tmp_path):
    (tmp_path / "images.tar").write_bytes(b"not a tar")
    with pytest.raises(ValueError, match="not a readable tar"):
        load_data(tmp_path / "images.tar")


def test_unknown_source_names_the_known_ones():
    with pytest.raises(ValueError, match="No data at 'mnist'.*digits"):
        load_data("mnist")
