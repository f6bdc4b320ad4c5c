"""Images and archives that are made to break their reader: a line each."""

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import time
import zipfile
import zlib

import numpy as np
import pytest
from data import photos
from PIL import Image

from gnsmall_keras.data import decoding
from gnsmall_keras.data.decoding import decode
from gnsmall_keras.data.files import archives
from gnsmall_keras.data.sources import load_data

FUZZED = (
    "plain.png",
    "palette.png",
    "UPPER.JPG",
    "turned6.jpg",
    "web.webp",
    "windows.bmp",
    "scan.TIFF",
    "moving.gif",
)
OPTIONS = {"image_size": 32, "channels": 3, "aspect": "crop"}
PLAIN = photos.encode("plain.png", photos.picture(20, 30))


def _png(width, height):
    """A header, and no pixels to speak of."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in (
        (b"IHDR", header),
        (b"IDAT", zlib.compress(bytes(1000))),
        (b"IEND", b""),
    ):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        parts += [struct.pack(">I", len(data)), kind, data, crc]
    return b"".join(parts)


@pytest.fixture
def folder(tmp_path):
    for label in ("cat", "dog"):
        (tmp_path / "d" / label).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "d" / label / f"{i}.png").write_bytes(PLAIN)
    return tmp_path / "d"


def _refused(path, message, **options):
    """In one line, within seconds."""
    started = time.monotonic()
    with pytest.raises(ValueError, match=message) as caught:
        load_data(path, **options)
    assert len(str(caught.value).splitlines()) == 1
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("width", "height"), [(30_000, 30_000), (10_000, 9_000), (2**31 - 1, 1)]
)
def test_too_many_pixels_are_seen_in_the_header(folder, width, height):
    (folder / "cat/x.png").write_bytes(_png(width, height))
    pixels = f"{width * height:,}"
    _refused(
        folder, f"x.png .*header says {pixels} pixels, more than 89,478,48"
    )
    notes = load_data(folder, skip_broken=True).notes
    assert any(f"header says {pixels}" in note for note in notes)


def test_large_images_are_decoded_one_at_a_time(monkeypatch):
    monkeypatch.setattr(decoding, "_LARGE_PIXELS", 100)
    assert decode(PLAIN, **OPTIONS).shape == (32, 32, 3)


def test_ghostscript_is_never_reached(folder, monkeypatch):
    from PIL import EpsImagePlugin

    def reached(*arguments, **options):
        raise AssertionError("Ghostscript")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", reached)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n"
    (folder / "cat/x.png").write_bytes(eps + b"showpage\n%%EOF\n")
    _refused(folder, "x.png .*it is none of PNG, JPEG, WEBP, BMP, TIFF, GIF")


@pytest.mark.parametrize("suffix", ["ico", "psd", "ppm", "svg", "pcx"])
def test_other_formats_are_refused_by_content(suffix):
    heads = {
        "ico": b"\0\0\1\0\1\0",
        "psd": b"8BPS\0\1",
        "ppm": b"P6 2 2 255 ",
        "svg": b"<svg>",
        "pcx": b"\x0a\x05\x01\x08",
    }
    with pytest.raises(ValueError, match="it is none of"):
        decode(heads[suffix] + bytes(200), **OPTIONS)


def test_damaged_images_are_value_errors():
    """Cut short or with changed bytes; what is read has the right shape."""
    generator = np.random.default_rng(0)
    for kind in FUZZED:
        data = photos.encode(kind, photos.picture(40, 40))
        for number in range(12):
            changed = bytearray(data)
            for _ in range(1 + number):
                changed[generator.integers(len(data))] = generator.integers(256)
            if number % 3 == 0:
                changed = changed[: generator.integers(len(data))]
            with decoding.strict_warnings():
                try:
                    found = decode(bytes(changed), **OPTIONS)
                except ValueError as error:
                    assert len(str(error).splitlines()) == 1  # noqa: PT017
                else:
                    assert found.shape == (32, 32, 3)


def test_a_large_file_is_not_read(folder):
    with (folder / "cat/x.png").open("wb") as file:
        file.truncate(3 * 2**30)
    _refused(
        folder, "x.png .*it has 3,221,225,472 bytes, more than 268,435,456"
    )


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tar.xz"])
def test_a_member_of_gigabytes_is_refused_unread(tmp_path, name):
    path = tmp_path / name
    opener = {"gz": gzip.open, "xz": lzma.open}[name[-2:]]
    with opener(path, "wb") as file:
        info = tarfile.TarInfo("cat/0.png")
        info.size = 3 * 2**30
        file.write(info.tobuf() + bytes(1000))
    _refused(path, "more than 1,073,741,824 bytes and 100 times its size")


def test_many_small_members_can_be_a_bomb_too(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "BOMB_BYTES", 2**24)
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for i in range(40):
            info = tarfile.TarInfo(f"cat/{i}.bmp")
            info.size = 2**20
            archive.addfile(info, io.BytesIO(bytes(2**20)))
    _refused(path, "must not unpack .* has 17,825,792 or more. Pack")


def test_a_sparse_member_is_refused(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("cat/0.png")
        info.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": "cat/0.png",
            "GNU.sparse.realsize": str(2**40),
        }
        data = b"0\n".ljust(512, b"\0")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    _refused(path, "must not unpack|not a readable tar")


def test_a_header_of_gigabytes_is_refused(tmp_path):
    path = tmp_path / "a.tar.gz"
    with gzip.open(path, "wb") as file:
        info = tarfile.TarInfo("././@LongLink")
        info.size, info.type = 3 * 2**30, tarfile.GNUTYPE_LONGNAME
        file.write(info.tobuf() + bytes(2000))
    _refused(path, "a header says 3,221,225,472 bytes")


def test_a_zip_bomb_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(3):
            with archive.open(f"cat/{i}.png", "w") as file:
                for _ in range(4):
                    file.write(bytes(2**20))
    data = path.read_bytes()
    size = struct.pack("<I", 4 * 2**20)
    path.write_bytes(data.replace(size, struct.pack("<I", 2**30)))
    _refused(path, "must not unpack to more than 1,073,741,824 bytes")
    # A directory that claims less is found out when the member is read.
    path.write_bytes(data.replace(size, struct.pack("<I", 1000)))
    _refused(path, "cat.* (cannot be read|not a readable)|not a readable|least")


def test_a_large_member_of_a_real_archive_is_named(folder, monkeypatch):
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 2**20)
    with tarfile.open(folder.parent / "a.tar", "w") as archive:
        archive.add(folder, "d")
        info = tarfile.TarInfo("d/cat/x.png")
        info.size = 2**21
        archive.addfile(info, io.BytesIO(bytes(2**21)))
    _refused(folder.parent / "a.tar", "x.png in .*it has 2,097,152 bytes")


@pytest.mark.parametrize("name", ["a.tar.xz", "a.tar.gz", "a.tar.bz2", "a.zip"])
def test_damaged_archives_are_value_errors(folder, tmp_path, name):
    """A byte here and there, or cut short: zlib, LZMA, CRC, names."""
    path = tmp_path / name
    if name == "a.zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in folder.rglob("*.png"):
                archive.write(file, file.relative_to(folder))
    else:
        with tarfile.open(path, f"w:{name[6:]}") as archive:
            archive.add(folder, "d")
    data, generator = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for number in range(24):
        changed = bytearray(data)
        changed[generator.integers(len(data))] ^= 1 + generator.integers(255)
        if number % 3 == 0:
            changed = changed[: generator.integers(len(data))]
        path.write_bytes(changed)
        try:
            load_data(path)
        except ValueError as error:
            refused += 1
            assert len(str(error).splitlines()) == 1  # noqa: PT017
    assert refused > 8


def test_a_corrupt_xz_is_refused(tmp_path):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for i in range(8):
            info = tarfile.TarInfo(f"{'cat' if i % 2 else 'dog'}/{i}.png")
            info.size = 20_000
            noise = np.random.default_rng(i).integers(0, 4, info.size, "u1")
            archive.addfile(info, io.BytesIO(noise.tobytes()))
    data = bytearray(lzma.compress(raw.getvalue()))
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    (tmp_path / "a.tar.xz").write_bytes(data)
    _refused(tmp_path / "a.tar.xz", "a.tar.xz is not a readable tar or zip")
    broken = bz2.compress(raw.getvalue())[:-500]
    (tmp_path / "a.tar.bz2").write_bytes(broken)
    _refused(tmp_path / "a.tar.bz2", "a.tar.bz2 is not a readable tar or zip")


def test_an_encrypted_zip_is_refused(folder):
    path = folder.parent / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(folder / "cat/0.png", "cat/0.png")
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    _refused(path, "must not be encrypted. cat/0.png")


@pytest.mark.parametrize("name", ["../x/0.png", "/x/0.png", "x/../../0.png"])
def test_members_outside_a_zip_are_refused(tmp_path, name):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, PLAIN)
    _refused(path, "may only have members inside itself")


def test_pipes_and_devices_in_a_tar_are_named(folder):
    path = folder.parent / "a.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(folder, "d")
        for name, kind in (
            ("pipe", tarfile.FIFOTYPE),
            ("tty", tarfile.CHRTYPE),
        ):
            info = tarfile.TarInfo(f"d/cat/{name}.png")
            info.type = kind
            archive.addfile(info)
    _refused(path, "pipe.png in .*no regular file.*nor d/cat/tty.png")
    assert (
        len(load_data(path, skip_broken=True, test_fraction=0).train_images)
        == 6
    )


@pytest.mark.parametrize(
    "kind", ["folder", "pipe", "itself", "outside", "large"]
)
def test_a_cifar_tar_of_anything_but_files_is_refused(tmp_path, kind):
    path = tmp_path / "cifar-10-python.tar.gz"
    types = {
        "folder": tarfile.DIRTYPE,
        "pipe": tarfile.FIFOTYPE,
        "itself": tarfile.SYMTYPE,
        "outside": tarfile.SYMTYPE,
        "large": tarfile.REGTYPE,
    }
    message = "data_batch_1 is missing .* or is no file"
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        info.type = types[kind]
        if kind == "itself":
            info.linkname = "data_batch_1"
        elif kind == "outside":
            info.linkname, message = "/etc/passwd", "must stay inside"
        elif kind == "large":
            info.size, message = 3 * 2**30, "must not unpack"
            archive.fileobj.write(info.tobuf())
        if kind != "large":
            archive.addfile(info)
    _refused(path, message)


def test_a_cifar_file_of_gigabytes_is_not_read(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    with (folder / "data_batch_1").open("wb") as file:
        file.truncate(3 * 2**30)
    _refused(folder, "data_batch_1 .* it has 3,221,225,472 bytes")
    _refused(tmp_path, "data_batch_1 .* it has 3,221,225,472 bytes")


def test_a_thousand_links_to_one_file_are_decoded_once(tmp_path, monkeypatch):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for label in ("cat", "dog"):
            info = tarfile.TarInfo(f"{label}/0.png")
            info.size = len(PLAIN)
            archive.addfile(info, io.BytesIO(PLAIN))
            for i in range(500):
                info = tarfile.TarInfo(f"{label}/l{i}.png")
                info.type, info.linkname = tarfile.SYMTYPE, "0.png"
                archive.addfile(info)
    dataset = load_data(path, test_fraction=0, cache=False)
    assert np.bincount(dataset.train_labels).tolist() == [501, 501]
    assert np.ptp(dataset.train_images, axis=0).max() == 0


def test_links_that_double_are_refused(tmp_path, monkeypatch):
    from gnsmall_keras.data.files import listing

    monkeypatch.setattr(listing, "MAX_FILES", 1000)
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("f0/x/0.png")
        info.size = len(PLAIN)
        archive.addfile(info, io.BytesIO(PLAIN))
        for i in range(12):
            for side in "ab":
                info = tarfile.TarInfo(f"f{i + 1}/{side}")
                info.type, info.linkname = tarfile.SYMTYPE, f"../f{i}"
                archive.addfile(info)
    _refused(path, "At most 1,000 files are read")


def test_an_image_of_one_line_is_read(folder):
    Image.new("RGB", (5000, 1), (9, 9, 9)).save(folder / "cat/x.png")
    assert len(load_data(folder, test_fraction=0).train_images) == 7
