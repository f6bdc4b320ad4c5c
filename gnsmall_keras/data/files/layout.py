"""From the names of files to splits and classes."""

import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gnsmall_keras.data.files.listing import shown

# A folder's name, in any case, and the split it has.
SPLITS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
LAYOUT = (
    "The layout is train/<class>/<image>, with test/ and val/ like it if "
    "there are any, or <class>/<image> alone."
)
_NAMED = 5  # images in a message
# Line breaks and control characters; bytes that are no UTF-8.
_REFUSED = ("Cc", "Zl", "Zp", "Cs")


class Layout(NamedTuple):
    """Where images belong.

    Attributes:
        splits: of each image "train", "validation" or "test".
        labels: of each image its class.
        empty: `(split, label)` of folders without an image.
        notes: lines about what was read as something else.
    """

    splits: list[str]
    labels: list[str]
    empty: list[tuple[str, str]]
    notes: list[str]


def arrange(names: Sequence[str], folders: Iterable[str], where: str) -> Layout:
    """Finds each image's split and class by its place.

    Args:
        names: relative names of images, with slashes.
        folders: of folders.
        where: names the whole, for errors.

    Raises:
        ValueError: if there is no image, one is in a wrong place, or a class
            has a name that no list of classes can have.
    """
    images = [tuple(name.split("/")) for name in names]
    places = [tuple(name.split("/")) for name in folders]
    if not images:
        raise ValueError(f"There are no images in {where}. {LAYOUT}")
    if _has_prefix(images, places):
        images = [parts[1:] for parts in images]
        places = [parts[1:] for parts in places]
    nested = any(
        len(parts) >= 3 and parts[0].lower() in SPLITS for parts in images
    )
    _check_places(images, names, nested, where)
    _check_splits({parts[0] for parts in images if nested}, where)
    found = [_place(parts, nested) for parts in images]
    given = {_place(p, nested) for p in places if len(p) == 1 + nested}
    raw = {parts[-2] for parts in images}
    for label in raw:
        check_label(label)
    labels = {unicodedata.normalize("NFC", label) for label in raw}
    notes = []
    if len(labels) < len(raw):
        notes.append(
            "Folders whose names differ only in how accents are encoded are "
            "one class."
        )
    return Layout(
        [split for split, _ in found],
        [label for _, label in found],
        sorted(given - set(found)),
        notes,
    )


def check_label(label: str) -> None:
    """Refuses what cannot be a line of `labels.txt`.

    Raises:
        ValueError: if a class is named with a line break or another control
            character, or with nothing.
    """
    bad = any(unicodedata.category(c) in _REFUSED for c in label)
    if bad or not label:
        raise ValueError(
            "A class is named in one line, without control characters and in "
            f"UTF-8. Received: {shown(label)!r}. Rename it."
        )


def _has_prefix(images, places):
    """Whether all are in one folder, which is no split and no class."""
    tops = {parts[0] for parts in (*images, *places)}
    depth = min(map(len, images))
    return len(tops) == 1 and (
        depth >= 4 or (depth == 3 and tops.pop().lower() not in SPLITS)
    )


def _check_places(images, names, nested, where):
    wrong = [
        shown(name)
        for parts, name in zip(images, names, strict=True)
        if len(parts) != 2 + nested
        or (nested and parts[0].lower() not in SPLITS)
    ]
    if wrong:
        others = ", ".join(wrong[1:_NAMED])
        if len(wrong) > _NAMED:
            others += f" and {len(wrong) - _NAMED:,} more"
        raise ValueError(
            f"{wrong[0]} in {where} is not where an image belongs"
            f"{', nor ' * bool(others)}{others}. {LAYOUT}"
        )
    if not nested and {parts[0].lower() for parts in images} <= set(SPLITS):
        raise ValueError(
            f"Images must be in folders of their classes. {where} has "
            f"{shown(names[0])}. {LAYOUT}"
        )


def _check_splits(tops, where):
    """No two folders may be one split."""
    known = {}
    for top in sorted(tops):
        other = known.setdefault(SPLITS[top.lower()], top)
        if other != top:
            raise ValueError(
                f"A split has one folder. {where} has {other}/ and {top}/. "
                "Join or remove one."
            )


def _place(parts, nested):
    split = SPLITS.get(parts[0].lower(), "") if nested else "train"
    return split, unicodedata.normalize("NFC", parts[int(nested)])
