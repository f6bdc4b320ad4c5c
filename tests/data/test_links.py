"""Links in folders and archives: followed, or refused by name."""

import itertools

import numpy as np
import pytest
from data import photos

from gnsmall_keras.data.sources import load_data


@pytest.mark.parametrize("name", ["a.tar", "a.zip"])
def test_links_in_archives_are_followed(tmp_path, name):
    """To a file, to a folder, by way of another link; hard ones in a tar."""
    files = photos.files("cat", "dog", ".store/hen")
    links = [
        ("hen", ".short/hen"),
        (".short", ".store"),
        ("cat/link.png", "../dog/./0.png"),
        ("cat/again.png", "link.png"),
    ]
    hard = [("dog/hard.png", "dog/0.png")]
    path = photos.archive(tmp_path / name, files, links, hard)
    dataset = load_data(path, test_fraction=0)
    counts = np.bincount(dataset.train_labels).tolist()
    assert dataset.class_names == ("cat", "dog", "hen")
    assert counts == [5, 4 if name == "a.tar" else 3, 3]
    wanted = photos.expected()
    assert np.all(dataset.train_images[:, 8, 8] == wanted[8, 8])


@pytest.mark.parametrize("name", ["a.tar", "a.zip"])
@pytest.mark.parametrize(
    ("link", "target", "message"),
    [
        ("cat/x.png", "/etc/passwd", "must stay inside.*cat/x.png"),
        ("cat/x.png", "../../x.png", "must stay inside.*cat/x.png"),
        ("cat/x.png", "none.png", "cat/x.png .* leads to 'cat/none.png'"),
        ("cat/x.png", "x.png", "not to itself. cat/x.png"),
        ("cat/loop", "../cat", "not to itself. cat/loop"),
        ("hen", ".", "not to itself. hen"),
    ],
)
def test_other_links_in_archives_are_named(
    tmp_path, name, link, target, message
):
    path = photos.archive(
        tmp_path / name, photos.files("cat", "dog"), [(link, target)]
    )
    with pytest.raises(ValueError, match=message):
        load_data(path)


def test_links_to_links_end(tmp_path):
    names = [f"cat/{i}.png" for i in range(100, 160)]
    links = [(a, b[4:]) for a, b in itertools.pairwise(names)]
    links.append((names[-1], "0.png"))
    links.append(("hen", "cat"))
    path = photos.archive(tmp_path / "a.tar", photos.files("cat", "dog"), links)
    with pytest.raises(ValueError, match="not to itself"):
        load_data(path)


def test_links_in_folders_are_followed_or_named(tmp_path):
    folder = photos.make(tmp_path / "d", kinds=("plain.png", "UPPER.JPG"))
    first = folder / photos.CLASSES[0]
    link = first / "x.png"
    link.symlink_to("nothing.png")
    with pytest.raises(ValueError, match=r"must lead to .*x\.png .No such"):
        load_data(folder)
    link.unlink()
    link.symlink_to("x.png")
    with pytest.raises(ValueError, match=r"must lead to .*x\.png"):
        load_data(folder)
    link.unlink()
    (first / "loop").symlink_to(folder, target_is_directory=True)
    with pytest.raises(ValueError, match=r"folder that it is in.*/loop"):
        load_data(folder)
