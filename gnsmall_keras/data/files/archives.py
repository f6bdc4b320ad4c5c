"""Files in a tar or zip: listed and read with limits, links resolved.

Nothing is unpacked to disk. Sizes are looked at before anything is read.
"""

import bz2
import contextlib
import gzip
import lzma
import posixpath
import stat
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gnsmall_keras.data.decoding import MAX_FILE_BYTES, too_large
from gnsmall_keras.data.files.links import resolve
from gnsmall_keras.data.files.listing import (
    NOT_REGULAR,
    Entry,
    Listing,
    check_count,
    shown,
)
from gnsmall_keras.lines import one_line

# More than so much is a bomb where it is so many times the archive.
BOMB_BYTES = 2**30
BOMB_RATIO = 100
READABLE = (
    "Data are a folder, a tar (.tar, .tar.gz, .tgz, .tar.bz2, .tar.xz), a zip "
    "or an .npz; parquet, HDF5 and others are not read, convert them to a "
    "folder with one folder a class."
)
_ZIP_UTF8 = 0x800  # of a member's flags
_COMPRESSED = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}


class Member(NamedTuple):
    """Of a tar or zip."""

    name: str
    kind: str  # "file", "folder", "link" or "other"
    size_bytes: int
    target: str  # of a link, relative to the archive
    handle: Any


class Archive:
    """An open tar or zip.

    Attributes:
        members: all of them, in the order in which they are read fastest.
    """

    def __init__(self, path: Path, members: list[Member], reader):
        self.path = path
        self.members = members
        self._reader = reader

    def read(self, members: Iterable[Member]) -> Iterator[bytes]:
        """Yields the contents of files, which are at most `MAX_FILE_BYTES`.

        Raises:
            ValueError: if one is larger, or cannot be read.
        """
        for member in members:
            if member.size_bytes > MAX_FILE_BYTES:
                raise ValueError(
                    f"{shown(member.name)} in {self.path} cannot be read: "
                    f"{too_large(member.size_bytes)}."
                )
            with _library(self.path):
                data = self._reader(member.handle)
            yield data

    def list(self) -> Listing:
        """Returns images and folders, with links as what they lead to.

        Raises:
            ValueError: if a link leads out of the archive, or nowhere.
        """
        listing = Listing()
        files = {m.name: m for m in self.members if m.kind == "file"}
        links = {m.name: m.target for m in self.members if m.kind == "link"}
        resolved = resolve(files, links, str(self.path))
        status = self.path.stat()
        stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        for name, target in resolved.items():
            member = files[target]
            large = member.size_bytes > MAX_FILE_BYTES
            fault = too_large(member.size_bytes) if large else ""
            size = member.size_bytes
            listing.add(Entry(name, member, size, (*stamp, size), fault))
        for member in self.members:
            if member.kind == "folder":
                listing.add_folder(member.name)
            elif member.kind == "other":
                listing.add(Entry(member.name, member, 0, stamp, NOT_REGULAR))
        listing.sort()
        return listing


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """Opens a tar or zip and lists its members.

    Raises:
        ValueError: if it is neither, damaged, has members outside itself, or
            would unpack to a bomb.
    """
    with contextlib.ExitStack() as stack:
        with _library(path):
            zipped = is_zip(path)
            opener = zipfile.ZipFile if zipped else _open_tar
            archive = stack.enter_context(opener(path))
        lister = _zip_members if zipped else _tar_members
        members, total = [], 0
        for member in lister(archive, path):
            total += member.size_bytes
            _check_total(total, path)
            check_count(len(members) + 1)
            members.append(member)
        if zipped:
            yield Archive(path, members, archive.read)
        else:
            # As they lie: going back in a compressed tar starts it anew.
            members.sort(key=lambda member: member.handle.offset)
            yield Archive(
                path, members, lambda info: archive.extractfile(info).read()
            )


def top_folder(path: Path) -> str:
    """Returns the outermost folder of a tar's first member.

    Raises:
        ValueError: if it is no readable tar.
    """
    with contextlib.ExitStack() as stack:
        with _library(path):
            archive = stack.enter_context(_open_tar(path))
        first = next(_tar_members(archive, path), None)
        return first.name.split("/")[0] if first else ""


def is_zip(path: Path) -> bool:
    """Whether a file begins as zips do (not: ends; a tar may hold a zip)."""
    with path.open("rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


@contextlib.contextmanager
def _library(path):
    """Any error of the libraries in one line: damaged files raise all kinds."""
    try:
        yield
    except Exception as error:
        text = one_line(error)
        raise ValueError(
            f"{path} is not a readable tar or zip ({text}). It may be "
            f"truncated or of another kind. {READABLE}"
        ) from None


class _Limited:
    """A file of which no header can have gigabytes read at once."""

    def __init__(self, file):
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size):
        if not 0 <= size <= MAX_FILE_BYTES:
            raise ValueError(f"a header says {size:,} bytes")
        return self._file.read(size)


@contextlib.contextmanager
def _open_tar(path):
    with path.open("rb") as file:
        head = file.read(6)
    known = [f for magic, f in _COMPRESSED.items() if head.startswith(magic)]
    opener = known[0] if known else open
    with (
        opener(path, "rb") as file,
        tarfile.open(fileobj=_Limited(file), mode="r:") as archive,
    ):
        yield archive


def _tar_members(archive, path):
    while True:
        with _library(path):
            info = archive.next()
        if info is None:
            return
        name = _inside(info.name, path)
        kind, target = "other", ""
        if info.isfile():
            kind = "file"
        elif info.isdir():
            kind = "folder"
        elif info.islnk() or info.issym():
            # A hard link's target is named from the archive's root.
            base = posixpath.dirname(name) if info.issym() else ""
            kind, target = "link", _target(base, info.linkname, name, path)
        if name:
            size = info.size if kind == "file" else 0
            yield Member(name, kind, size, target, info)


def _zip_members(archive, path):
    for info in archive.infolist():
        name = _inside(_zip_name(info), path)
        kind, target = "folder" if info.is_dir() else "file", ""
        if info.flag_bits & 1:
            raise ValueError(
                f"A zip must not be encrypted. {shown(name)} in {path} is. "
                "Pack it again without a password."
            )
        if stat.S_ISLNK(info.external_attr >> 16):
            kind = "link"
            with _library(path), archive.open(info) as file:
                text = file.read(4096).decode()
            target = _target(posixpath.dirname(name), text, name, path)
        if name:
            size = info.file_size if kind == "file" else 0
            yield Member(name, kind, size, target, info)


def _zip_name(info):
    """A member's name; macOS packs UTF-8 without the flag that says so."""
    if info.flag_bits & _ZIP_UTF8:
        return info.filename
    try:
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:  # it is in the zips' old code page
        return info.filename


def _inside(name, path):
    """A member's name without "./" and doubled slashes."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts:
        raise ValueError(
            f"An archive may only have members inside itself. {path} has "
            f"{shown(name)!r}. Pack it again with relative names."
        )
    return "/".join(parts)


def _target(base, link, name, path):
    target = posixpath.normpath(posixpath.join(base, link))
    if target.startswith(("/", "..")):
        raise ValueError(
            f"A link in an archive must stay inside. {shown(name)} in {path} "
            f"leads to {shown(link)!r}. Pack the files themselves (tar "
            "--dereference)."
        )
    return target


def _check_total(total, path):
    size = path.stat().st_size
    if total > BOMB_BYTES and total > BOMB_RATIO * size:
        raise ValueError(
            f"An archive must not unpack to more than {BOMB_BYTES:,} bytes and "
            f"{BOMB_RATIO} times its size. {path} of {size:,} bytes has "
            f"{total:,} or more. Pack the images alone."
        )
