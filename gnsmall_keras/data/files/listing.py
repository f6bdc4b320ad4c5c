"""What is in a folder: images, folders, and what is left out."""

import collections
import dataclasses
import os
import stat
from pathlib import Path
from typing import Any, NamedTuple

from gnsmall_keras.data.decoding import (
    MAX_FILE_BYTES,
    SUFFIXES,
    too_large,
)

# dataset/train/<class>/<image>: what is deeper is nowhere.
MAX_DEPTH = 4
MAX_FILES = 2_000_000
HIDDEN = "hidden"
NOT_REGULAR = "it is no regular file"


class Entry(NamedTuple):
    """An image file, before it is read."""

    name: str  # relative, with slashes
    handle: Any  # for whoever reads it
    size_bytes: int
    stamp: tuple[int, ...]  # differs where the content may
    fault: str = ""  # why it cannot be read at all


@dataclasses.dataclass
class Listing:
    """What a folder or an archive has.

    Attributes:
        entries: image files, by the end of their names.
        folders: relative names of all folders.
        others: how many files are of other kinds, by the ends of their names.
    """

    entries: list[Entry] = dataclasses.field(default_factory=list)
    folders: list[str] = dataclasses.field(default_factory=list)
    others: collections.Counter[str] = dataclasses.field(
        default_factory=collections.Counter
    )

    def add(self, entry: Entry) -> None:
        """Takes a file as an image, or counts it among the others."""
        parts = entry.name.split("/")
        if any(map(is_hidden, parts)):
            self.others[HIDDEN] += 1
        elif parts[-1].lower().endswith(SUFFIXES):
            self.entries.append(entry)
        else:
            suffix = os.path.splitext(parts[-1])[1].lower()  # noqa: PTH122
            self.others[suffix or "no suffix"] += 1
        check_count(len(self.entries) + sum(self.others.values()))

    def add_folder(self, name: str) -> None:
        """Takes a folder, which may turn out to be empty."""
        if not any(map(is_hidden, name.split("/"))):
            self.folders.append(name)

    def sort(self) -> None:
        """Puts entries into the order of datasets: folder by folder."""
        self.entries.sort(key=lambda entry: entry.name.split("/"))

    def describe_others(self) -> str:
        """Returns one line about what is left out, or an empty one."""
        if not self.others:
            return ""
        kinds = [f"{kind}: {n:,}" for kind, n in self.others.most_common(8)]
        rest = len(self.others) - len(kinds)
        if rest:
            kinds.append(f"and {rest:,} more kinds")
        found = {".heic", ".heif"} & set(self.others)
        heic = " Save those of HEIC as JPEG to have them." if found else ""
        return (
            f"{self.others.total():,} files of other kinds are left out "
            f"({', '.join(kinds)}).{heic}"
        )


def is_hidden(part: str) -> bool:
    """Whether a file or folder is the system's, not the user's."""
    return part.startswith(".") or part in (
        "__MACOSX",
        "Thumbs.db",
        "desktop.ini",
    )


def check_count(files: int) -> None:
    """Refuses more files than any folder of photos has.

    Raises:
        ValueError: if there are too many.
    """
    if files > MAX_FILES:
        raise ValueError(
            f"At most {MAX_FILES:,} files are read. Received: more. Give the "
            "folder of the photos alone."
        )


def shown(name: str) -> str:
    """Returns a name as it can be printed in one line."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode()
        for c in name
    )


def list_folder(root: Path) -> Listing:
    """Lists a folder; links are followed.

    Raises:
        ValueError: if a link leads nowhere or to a folder that it is in, a
            folder cannot be listed, or one is too deep.
    """
    listing = Listing()
    try:
        _walk(root, "", (_identity(root.stat()),), listing)
    except OSError as error:
        raise ValueError(
            f"A folder of images must be readable. Received: {error}. Change "
            "its permissions."
        ) from None
    listing.sort()
    return listing


def _walk(folder, prefix, above, listing):
    for item in sorted(os.scandir(folder), key=lambda item: item.name):
        name = prefix + item.name
        if is_hidden(item.name):
            listing.others[HIDDEN] += 1
            continue
        status = _status(item, name)
        if not stat.S_ISDIR(status.st_mode):
            listing.add(_entry(item, name, status))
            continue
        if _identity(status) in above:
            raise ValueError(
                f"A link must not lead to a folder that it is in. Received: "
                f"{shown(name)}. Remove it."
            )
        listing.add_folder(name)
        if name.count("/") + 1 >= MAX_DEPTH:
            raise ValueError(
                "A folder of images has at most train/<class>/<image> in one "
                f"more folder. Received the folder {shown(name)}. Give the "
                "folder that has the classes, or move the images up."
            )
        _walk(item.path, name + "/", (*above, _identity(status)), listing)


def _status(item, name):
    try:
        return item.stat()
    except OSError as error:  # of what a link leads to
        raise ValueError(
            f"A link must lead to a file or folder. Received: {shown(name)} "
            f"({error.strerror}). Remove or mend it."
        ) from None


def _entry(item, name, status):
    fault = "" if stat.S_ISREG(status.st_mode) else NOT_REGULAR
    if status.st_size > MAX_FILE_BYTES:
        fault = too_large(status.st_size)
    return Entry(
        name,
        Path(item.path),
        status.st_size,
        (status.st_size, status.st_mtime_ns, status.st_ctime_ns),
        fault,
    )


def _identity(status):
    return status.st_dev, status.st_ino
