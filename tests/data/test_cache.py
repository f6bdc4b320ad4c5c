"""Decoded images that are kept: taken again, or not, and why."""

import os

import numpy as np
import pytest
from data import photos

from gnsmall_keras.data import folder as folder_module
from gnsmall_keras.data.files import cache
from gnsmall_keras.data.sources import load_data

FEW = ("plain.png", "UPPER.JPG", "web.webp")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "LEAST_IMAGES", 5)
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "kept"))
    return photos.make(tmp_path / "d", kinds=FEW)


def _decoded(folder, monkeypatch, **options):
    """The dataset, and how many images were decoded for it."""
    count = []

    def decode(data, **options):
        count.append(1)
        return plain(data, **options)

    plain = folder_module.decode
    with monkeypatch.context() as patch:
        patch.setattr(folder_module, "decode", decode)
        return load_data(folder, **options), len(count)


def test_a_second_start_decodes_nothing(folder, monkeypatch):
    first, decoded = _decoded(folder, monkeypatch)
    assert decoded == 9
    assert "9 images decoded in" in first.reading
    assert "kept in" in first.reading
    second, decoded = _decoded(os.path.relpath(folder), monkeypatch)
    assert decoded == 0
    assert second.digest == first.digest
    assert "taken from" in second.reading
    assert second.notes == first.notes


def test_an_archive_has_a_cache_too(folder, tmp_path, monkeypatch):
    import tarfile

    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(folder, "d")
    first, _ = _decoded(tmp_path / "a.tar.gz", monkeypatch)
    second, decoded = _decoded(tmp_path / "a.tar.gz", monkeypatch)
    assert (decoded, second.digest) == (0, first.digest)


def test_changed_files_are_decoded_again(folder, monkeypatch):
    before, _ = _decoded(folder, monkeypatch)
    file = folder / photos.CLASSES[0] / "plain.png"
    data = photos.encode("grey.png", photos.picture(32, 32))
    status = file.stat()
    file.write_bytes(data.ljust(status.st_size, b"\0")[: len(data)])
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    after, decoded = _decoded(folder, monkeypatch)
    assert decoded == 9
    assert after.digest != before.digest
    for option in ({"image_size": 40}, {"channels": 1}, {"aspect": "pad"}):
        assert _decoded(folder, monkeypatch, **option)[1] == 9
        assert _decoded(folder, monkeypatch, **option)[1] == 0


def test_broken_images_stay_known(folder, monkeypatch):
    (folder / photos.CLASSES[0] / "x.png").write_bytes(b"x")
    first, decoded = _decoded(folder, monkeypatch, skip_broken=True)
    second, again = _decoded(folder, monkeypatch, skip_broken=True)
    assert (decoded, again) == (10, 0)
    assert first.notes == second.notes
    assert any("x.png" in note for note in second.notes)
    with pytest.raises(ValueError, match="x.png .* cannot be read"):
        load_data(folder)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 no", None])
def test_a_damaged_cache_is_made_anew(folder, monkeypatch, damage):
    first, _ = _decoded(folder, monkeypatch)
    (file,) = cache.folder().iterdir()
    file.write_bytes(file.read_bytes()[:-100] if damage is None else damage)
    second, decoded = _decoded(folder, monkeypatch)
    assert (decoded, second.digest) == (9, first.digest)
    assert _decoded(folder, monkeypatch)[1] == 0


def test_a_cache_of_pickles_is_not_read(folder, monkeypatch):
    _decoded(folder, monkeypatch)
    (file,) = cache.folder().iterdir()
    np.savez(file, about=np.array({}, object), images=np.array([{}], object))
    assert _decoded(folder, monkeypatch)[1] == 9


def test_why_there_is_none(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file/x"))
    assert "not kept (Not a directory" in load_data(folder).reading
    assert load_data(folder, cache=False).reading == (
        "Decoded; the cache is switched off."
    )
    monkeypatch.setenv(cache.VARIABLE, "")
    assert "switched off" in load_data(folder).reading
    monkeypatch.setattr(cache, "LEAST_IMAGES", 1000)
    monkeypatch.delenv(cache.VARIABLE)
    assert "fewer than 1,000 images" in load_data(folder).reading


def test_without_a_home_folder_images_are_read(folder, monkeypatch):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv(cache.VARIABLE)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(cache.Path, "home", nobody)
    assert "no home folder" in load_data(folder).reading


def test_where_it_is(monkeypatch, tmp_path):
    monkeypatch.delenv(cache.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "gnsmall_keras"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.folder() == tmp_path / ".cache/gnsmall_keras"
