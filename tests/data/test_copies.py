"""Equal images in several classes or splits; new images of known classes."""

import numpy as np
import pytest
from PIL import Image

from gnsmall_keras.data.folder import load_all
from gnsmall_keras.data.parts import Options
from gnsmall_keras.data.sources import load_data

pytestmark = pytest.mark.any_backend


def _images(count):
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def _write(root, **classes):
    """Images by their numbers, in folders named after classes."""
    pictures = _images(20)
    for label, numbers in classes.items():
        folder = root / label.replace("_", "/")
        folder.mkdir(parents=True)
        for place, number in enumerate(numbers):
            file = folder / f"{place}.png"
            Image.fromarray(pictures[number]).save(file)
    return root


def test_images_of_two_classes_are_named(tmp_path):
    _write(tmp_path / "d", cat=range(5), dog=[4, *range(5, 9)])
    dataset = load_data(tmp_path / "d", test_fraction=0)
    assert dataset.notes[-1] == (
        "Identical images in two classes: 1 (cat/4.png and dog/0.png). Keep "
        "one of each."
    )


def test_test_images_that_were_trained_on_are_counted(tmp_path):
    parts = {
        "train_cat": range(3),
        "train_dog": range(3, 6),
        "test_cat": [0, 1, 6],
        "test_dog": [7],
    }
    notes = load_data(_write(tmp_path / "d", **parts)).notes
    (note,) = [n for n in notes if "identical" in n]
    assert note.startswith("Test images identical to a training image: 2")
    assert "train/cat/0.png and test/cat/0.png" in note
    images = _images(6)
    labels = [0, 0, 0, 1, 1, 1]
    dataset = load_data(images, labels, test=(images[:1], [0]))
    assert any("too high. Keep" in note for note in dataset.notes)


def test_validation_images_that_were_trained_on_are_counted(tmp_path):
    parts = {
        "train_cat": range(3),
        "train_dog": range(3, 6),
        "val_cat": [0, 6],
        "val_dog": [3],
        "test_cat": [7],
        "test_dog": [8],
    }
    notes = load_data(_write(tmp_path / "d", **parts)).notes
    (note,) = [n for n in notes if "identical" in n]
    assert note == (
        "Validation images identical to a training image: 2 "
        "(train/cat/0.png and val/cat/0.png, train/dog/0.png and "
        "val/dog/0.png), which makes the validation accuracy too high. Keep "
        "one of each."
    )


def test_new_images_are_all_tested(tmp_path):
    """One image is enough, of any class, in any layout."""
    root = _write(tmp_path / "d", test_dog=range(3), train_cat=[3])
    dataset = load_all(root, Options(), ("ant", "cat", "dog"))
    assert dataset.test_labels.tolist() == [2, 2, 2, 1]
    assert dataset.class_names == ("ant", "cat", "dog")
    assert len(dataset.train_images) == 0
    assert dataset.notes == ("The test split has no ['ant'].",)
    with pytest.raises(ValueError, match=r"has \['dog'\] too. Name its fold"):
        load_all(root, Options(), ("ant", "cat"))
    assert load_all(root, Options()).class_names == ("cat", "dog")
