"""Folders and archives of photos: layouts, links, what is left out."""

import gzip
import os
import shutil
import subprocess
import sys
import tarfile
import unicodedata
import zipfile

import numpy as np
import pytest
from data import photos
from PIL import Image

from gnsmall_keras.data.sources import load_data

FEW = ("plain.png", "UPPER.JPG", "turned6.jpg", "web.webp", "scan.tif")


@pytest.fixture
def folder(tmp_path):
    return photos.make(tmp_path / "own photos", kinds=FEW)


def _in_splits(root, **splits):
    """Moves each class's images into splits, so many each."""
    for label in photos.CLASSES:
        files = iter(sorted((root / label).iterdir()))
        for split, count in splits.items():
            place = root / split / label
            place.mkdir(parents=True)
            for _ in range(count):
                file = next(files)
                file.rename(place / file.name)
        shutil.rmtree(root / label)
    return root


def _pack(root, path, prefix=""):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(root.rglob("*")):
                name = f"{prefix}{file.relative_to(root).as_posix()}"
                archive.write(file, name)
        return path
    mode = {".gz": "gz", ".tgz": "gz", ".xz": "xz", ".bz2": "bz2"}
    with tarfile.open(path, f"w:{mode.get(path.suffix, '')}") as archive:
        for file in sorted(root.iterdir()):
            archive.add(file, f"{prefix}{file.name}")
    return path


def test_the_whole_script_of_photos(tmp_path):
    """Odd sizes, EXIF, grey, links, foreign files, unicode: a known answer."""
    root = photos.make(tmp_path / "d")
    foreign = photos.add_foreign(root)
    photos.add_links(root, tmp_path / "store")
    dataset = load_data(root, aspect="squash", test_fraction=0.25)
    assert dataset.class_names == tuple(
        sorted(unicodedata.normalize("NFC", name) for name in photos.CLASSES)
    )
    total = len(photos.CLASSES) * len(photos.KINDS) + 1
    images = np.concatenate([dataset.train_images, dataset.test_images])
    assert len(images) == total
    corners = images[:, [8, 8, 24, 24], [8, 24, 8, 24]].astype(int)
    colours = photos.COLOURS.reshape(4, 3)
    assert np.abs(corners - colours).max() <= 14
    others, parted, mirrored, *_ = dataset.notes
    assert others.startswith(f"{foreign} files of other kinds are left out")
    assert ".heic: 1" in others
    assert f"of {total} images were split off as one" in parted
    assert "flip=False" in mirrored
    assert dataset.flippable
    assert dataset.test_fraction == 0.25
    assert "3 classes: " in repr(dataset)
    assert len(repr(dataset)) < 200


def test_the_split_off_part_is_stratified_and_seeded(tmp_path):
    kinds = [kind for kind in photos.KINDS if kind != "moving.gif"]
    root = photos.make(tmp_path / "d", kinds=kinds)
    dataset = load_data(root)
    counts = np.bincount(dataset.test_labels)
    assert counts.tolist() == [round(0.2 * len(kinds))] * 3
    assert load_data(root).digest == dataset.digest
    assert load_data(root, seed=1).digest != dataset.digest


@pytest.mark.parametrize("name", ["val", "valid", "Validation"])
def test_a_validation_split_is_kept(folder, name):
    _in_splits(folder, train=2, **{name: 1}, test=2)
    dataset = load_data(folder)
    assert dataset.validation_images.shape == (3, 32, 32, 3)
    assert dataset.validation_labels.tolist() == [0, 1, 2]
    assert len(dataset.train_images), len(dataset.test_images) == (6, 6)
    assert dataset.test_fraction is None
    assert not any("split off" in note for note in dataset.notes)


@pytest.mark.parametrize(
    "name", ["a.tar", "a.tar.gz", "a.tgz", "a.tar.xz", "a.tar.bz2", "a.zip"]
)
@pytest.mark.parametrize("prefix", ["", "./", "photos/"])
def test_archives_equal_the_folder(folder, tmp_path, name, prefix):
    path = _pack(folder, tmp_path / name, prefix)
    assert load_data(path).digest == load_data(folder).digest


def test_archives_of_splits_equal_the_folder(folder, tmp_path):
    _in_splits(folder, train=3, val=1, test=1)
    path = _pack(folder, tmp_path / "a.zip", "train/")
    assert load_data(path).digest == load_data(folder).digest


def test_spellings_of_a_path_are_one_dataset(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    spellings = ("own photos", "own photos/", "./own photos", str(folder))
    found = [load_data(spelling) for spelling in spellings]
    monkeypatch.chdir(folder)
    found.append(load_data("."))
    assert len({dataset.digest for dataset in found}) == 1
    assert {dataset.name for dataset in found} == {"own photos"}


def test_the_digest_follows_images_and_names(folder):
    digests = {load_data(folder).digest}
    digests.add(load_data(folder, image_size=40).digest)
    digests.add(load_data(folder, channels=1).digest)
    digests.add(load_data(folder, aspect="pad").digest)
    (folder / photos.CLASSES[1]).rename(folder / "b d")
    digests.add(load_data(folder).digest)
    Image.new("RGB", (32, 32)).save(folder / "b d" / "plain.png")
    digests.add(load_data(folder).digest)
    assert len(digests) == 6


@pytest.mark.parametrize("side", [32, 96, 128])
@pytest.mark.parametrize("channels", [1, 3])
def test_size_and_channels(folder, side, channels):
    dataset = load_data(folder, image_size=side, channels=channels)
    assert dataset.train_images.shape[1:] == (side, side, channels)
    assert (dataset.image_size, dataset.channels) == (side, channels)


def test_flips_can_be_switched_off(folder):
    dataset = load_data(folder, flip=False)
    assert not dataset.flippable
    assert not any("mirrored" in note for note in dataset.notes)
    assert load_data("digits", flip=True).flippable


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"image_size": 33}, "multiple of 8 from 32 to 128. Received: 33"),
        ({"image_size": 136}, "Received: 136"),
        ({"image_size": "32"}, "Received: '32'"),
        ({"channels": 4}, "must be one of .3, 1.. Received: 4"),
        ({"aspect": "fill"}, "must be one of .* Received: 'fill'"),
        ({"test_fraction": 0.9}, "in .0, 0.5.; .* Received: 0.9"),
        ({"seed": -1}, "Received: -1"),
        ({"flip": "no"}, "Received: 'no'"),
    ],
)
def test_options_outside_their_range_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        load_data("digits", **option)


def test_known_data_in_other_sizes():
    digits = load_data("digits", image_size=48, channels=1)
    assert digits.train_images.shape == (1437, 48, 48, 1)
    assert digits.digest != load_data("digits").digest


def test_digests_of_known_data_stay():
    # Records rest on it, and on CIFAR-10's: test_cifar.py.
    assert load_data("digits").digest == "c24d3cef1169b319"


def test_names_are_compared_in_nfc(tmp_path):
    composed = unicodedata.normalize("NFC", "Äpfel")
    apart = unicodedata.normalize("NFD", "Äpfel")
    files = {f"train/{k}": v for k, v in photos.files(composed, "b").items()}
    files |= {f"test/{k}": v for k, v in photos.files(apart, "b").items()}
    dataset = load_data(photos.archive(tmp_path / "a.zip", files))
    assert dataset.class_names == ("b", composed)
    assert len(dataset.test_images) == 6
    assert any("are one class" in note for note in dataset.notes)


@pytest.mark.parametrize(
    ("stored", "label"), [("Köln".encode(), "Köln"), (b"K\x94\x94n", "Köön")]
)
def test_names_in_a_zip_without_the_flag_of_utf8(tmp_path, stored, label):
    """As macOS packs them, and in the code page of old zips."""
    hidden = b"@" * len(stored)  # of its length, where the name will be
    path = photos.archive(
        tmp_path / "a.zip", photos.files(hidden.decode(), "b")
    )
    path.write_bytes(path.read_bytes().replace(hidden + b"/", stored + b"/"))
    assert load_data(path).class_names == (label, "b")


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "a\u2028b", "a\x85b"])
def test_labels_of_several_lines_are_refused(tmp_path, name):
    path = photos.archive(tmp_path / "a.tar", photos.files(name, "b"))
    with pytest.raises(ValueError, match="named in one line") as caught:
        load_data(path)
    assert len(str(caught.value).splitlines()) == 1


def test_labels_that_are_no_utf8_are_refused(folder):
    (folder / photos.CLASSES[0]).rename(folder / os.fsdecode(b"\xff"))
    with pytest.raises(ValueError, match=r"Received: .*udcff"):
        load_data(folder)


def test_other_labels_are_taken_as_they_are(tmp_path):
    names = ("a b", "'quoted'", "100%", "[red]x", "*", "👩‍🚀")
    dataset = load_data(
        photos.archive(tmp_path / "a.tar", photos.files(*names))
    )
    assert dataset.class_names == tuple(sorted(names))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cat"], r"At least 2 classes .* has 1: \['cat'\]"),
        (["p/cat"], r"At least 2 classes .* has 1: \['cat'\]"),
        ([f"c{i}" for i in range(300)], "At most 256 classes .* has 300: "),
        (["a/b/cat", "a/b/dog"], "a/b/cat/0.png .* not where an image"),
        (["a/cat", "b/dog"], "a/cat/0.png .* not where an image belongs"),
        (["cat", "dog/x"], "dog/x/0.png .* not where an image belongs"),
        (["cat", "ant/x", "dog/x"], "ant/x/0.png .* belongs, nor .*dog/x/0"),
        (["train/cat", "dog"], "dog/0.png .* not where an image belongs"),
        (["train/cat", "train/dog", "x/dog"], "x/dog/0.png .* not where"),
        (["train", "test"], "must be in folders of their classes"),
        (["train/a", "train/b", "val/a", "valid/a"], "val/ and valid/"),
        (["train/a", "train/b", "test/c"], r"train/ lacks: \['c'\]"),
        ([], "There are no images .* The layout is train/<class>"),
    ],
)
def test_other_layouts_are_refused(tmp_path, names, message):
    files = photos.files(*names, count=3) | {"notes.heic": b"x"}
    path = photos.archive(tmp_path / "a.zip", files)
    with pytest.raises(ValueError, match=message) as caught:
        load_data(path)
    assert ".heic: 1" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_folders_of_folders_are_refused_at_once(tmp_path):
    (tmp_path / "a/b/c/d/e/f").mkdir(parents=True)
    with pytest.raises(ValueError, match="Received the folder a/b/c/d. Give"):
        load_data(tmp_path)


@pytest.mark.parametrize(
    ("count", "test", "message"),
    [
        (1, 0, r"at least 3 training images, .* split off.*'dog': 1"),
        (2, 0, "at least 3 training images"),
        (1, 1, "at least 2 training images. .*'dog': 1"),
    ],
)
def test_a_class_of_one_image_is_refused(tmp_path, count, test, message):
    files = photos.files("train/cat") | photos.files("train/dog", count=count)
    files |= photos.files("test/cat", "test/dog", count=test)
    with pytest.raises(ValueError, match=message):
        load_data(photos.archive(tmp_path / "a.tar", files))


def test_empty_folders_are_named(folder):
    (folder / "none").mkdir()
    with pytest.raises(ValueError, match=r"has none for: \['none'\]"):
        load_data(folder)
    (folder / "none").rmdir()
    _in_splits(folder, train=3, test=2)
    shutil.rmtree(folder / "test" / photos.CLASSES[1])
    (folder / "test" / photos.CLASSES[1]).mkdir()
    (folder / "test/other").mkdir()
    empty, missing, *_ = load_data(folder).notes
    assert "test: b c'd" in empty
    assert "test: other" in empty
    assert missing == 'The test split has no ["b c\'d"].'


def test_broken_images_are_named_or_left_out(folder):
    whole = load_data(folder)
    for label in photos.CLASSES:
        file = folder / label / "broken.png"
        file.write_bytes(
            photos.encode("plain.png", photos.picture(64, 64))[:99]
        )
    os.mkfifo(folder / photos.CLASSES[0] / "pipe.jpg")
    with pytest.raises(ValueError, match=r"broken.png in .* \(.*nor .*pipe"):
        load_data(folder)
    dataset = load_data(folder, skip_broken=True)
    assert dataset.digest == whole.digest
    note = next(n for n in dataset.notes if n.startswith("Left out"))
    assert note.count("broken.png") == 3
    assert "skip_broken" not in note  # it is what was given
    assert "pipe.jpg (it is no regular file)" in note


def test_a_class_of_broken_images_alone_is_refused(folder):
    for file in (folder / photos.CLASSES[0]).iterdir():
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be read as an image .*nor "):
        load_data(folder)
    with pytest.raises(ValueError, match=r"has none for: \['Äpfel'\]. Fill"):
        load_data(folder, skip_broken=True)


def test_empty_and_small_classes_are_named_together(folder):
    (folder / "none").mkdir()
    for file in [*(folder / photos.CLASSES[1]).iterdir()][1:]:
        file.unlink()
    with pytest.raises(ValueError, match=r"has none for.*at least 3 training"):
        load_data(folder)


def test_files_that_are_no_data_are_explained(tmp_path):
    for name, head in (
        ("a.parquet", b"PAR1"),
        ("a.tar.zst", b"\x28\xb5\x2f\xfd"),
        ("a.h5", b"\x89HDF\r\n"),
        ("a.jpg", b"\xff\xd8\xff"),
        ("empty.tar", b""),
    ):
        (tmp_path / name).write_bytes(head + bytes(100) if head else b"")
        with pytest.raises(
            ValueError, match="Data are a folder, a tar .* zip .*parquet"
        ):
            load_data(tmp_path / name)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="neither a folder nor a file"):
        load_data(tmp_path / "pipe")
    for name in ("x" * 5000, "a\0b"):
        with pytest.raises(ValueError, match="No data at 'x|No data at 'a"):
            load_data(name)


def test_a_path_is_checked_before_a_framework_is_loaded():
    code = (
        "import sys\n"
        "from gnsmall_keras.data.sources import load_data, check_source\n"
        "for check in (check_source, load_data):\n"
        "    try:\n"
        "        check('nowhere')\n"
        "    except ValueError as error:\n"
        "        assert 'No data at' in str(error)\n"
        "heavy = {'keras', 'sklearn', 'scipy', 'tensorflow', 'torch', 'jax'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_folder_that_cannot_be_listed_is_named(folder, monkeypatch):
    def scandir(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(ValueError, match="must be readable.*own photos"):
        load_data(folder)


def test_a_gzip_that_is_no_tar_is_refused(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(b"hello" * 1000))
    with pytest.raises(ValueError, match="not a readable tar or zip"):
        load_data(tmp_path / "a.tar.gz")
