"""From images with splits and labels to a `Dataset`: counts, test split."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np

from gnsmall_keras import fields
from gnsmall_keras.config import Aspect
from gnsmall_keras.data.dataset import Dataset, some
from gnsmall_keras.fields import Range
from gnsmall_keras.models.spec import check_image_size

# A record keeps counts for each pair of classes, in one line of text.
MAX_CLASSES = 256
LEAST = 2  # images of a class; with one, nothing can be held out
TEST_FRACTION = 0.2
_NAMED = 3  # pairs of equal images in a note


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How data are read; `load_data` says what each is.

    Raises:
        ValueError: if one is outside its range.
    """

    image_size: int = 32
    channels: Literal[3, 1] = 3
    flip: bool | None = None
    aspect: Aspect = "crop"
    skip_broken: bool = False
    test_fraction: Annotated[
        float, Range(least=0, most=0.5, cure="0 splits off none")
    ] = TEST_FRACTION
    seed: Annotated[int, Range(least=0, below=2**32)] = 0
    cache: bool = True

    def __post_init__(self):
        fields.settle(self)
        check_image_size(self.image_size)

    @property
    def pixels(self) -> dict:
        """Arguments of `decoding.prepare`."""
        return {
            "image_size": self.image_size,
            "channels": self.channels,
            "aspect": self.aspect,
        }


def check_classes(
    labels: Sequence[str],
    splits: Sequence[str],
    empty: Sequence[tuple[str, str]],
    options: Options,
    where: str,
) -> tuple[str, ...]:
    """Returns the names of the classes, sorted.

    Args:
        labels, splits: of each image.
        empty: `(split, label)` of folders without images.
        options: say whether a test split is to be made.
        where: names the data, for errors.

    Raises:
        ValueError: if there are too few classes, or too many, a class has too
            few images, or none to train on.
    """
    counts = {split: {} for split in ("train", "validation", "test")}
    for split, label in zip(splits, labels, strict=True):
        counts[split][label] = counts[split].get(label, 0) + 1
    names = tuple(sorted(counts["train"]))
    without = sorted(label for split, label in empty if split == "train")
    if not 2 <= len(names) <= MAX_CLASSES:
        bound = f"At most {MAX_CLASSES}" if names[2:] else "At least 2"
        raise ValueError(
            f"{bound} classes with training images are needed. {where} has "
            f"{len(names)}: {some(names)}; without images: {some(without)}. "
            "Give one folder a class, train/<class>/<image> or <class>/<image>."
        )
    for split in ("validation", "test"):
        unknown = set(counts[split]) - set(names)
        if unknown:
            raise ValueError(
                f"{split} has classes that train/ lacks: "
                f"{some(sorted(unknown))}. Received: {where}. Add training "
                "images of these, or remove them."
            )
    parted = not counts["test"] and options.test_fraction > 0
    least = LEAST + parted
    few = [name for name in names if counts["train"][name] < least]
    faults = []
    if without:
        faults.append(
            f"A class must have images. {where} has none for: "
            f"{some(without)}. Fill or remove them."
        )
    if few:
        found = {name: counts["train"][name] for name in few[:5]}
        why = ", one of them to be split off as test" if parted else ""
        faults.append(
            f"A class must have at least {least} training images{why}. "
            f"{where} has {found}{' and more' if few[5:] else ''}. Add images "
            "or remove the class."
        )
    if faults:
        raise ValueError(" ".join(faults))
    return names


def assemble(
    name: str,
    images: np.ndarray,
    labels: Sequence[str],
    splits: Sequence[str],
    class_names: Sequence[str],
    options: Options,
    *,
    origin: str,
    notes: Sequence[str] = (),
    reading: str = "",
    names: Sequence[str] = (),
) -> Dataset:
    """Returns a `Dataset` of images in their order, its test part made.

    Args:
        name: of the dataset.
        images: uint8 `(n, size, size, channels)`.
        labels, splits: of each image; classes by name.
        class_names: checked, in the order of their numbers.
        options: how it is read.
        origin, notes, reading: of `Dataset`.
        names: of the images' files, for notes; empty: they have none.
    """
    index = {name: number for number, name in enumerate(class_names)}
    numbers = np.array([index[label] for label in labels], np.int32)
    parts = np.array(splits)
    fraction = None
    if "test" not in splits:
        fraction = options.test_fraction
        off = _split_off(numbers, parts == "train", options)
        parts = np.where(off, "test", parts)
    notes = [
        *notes,
        *_notes(numbers, parts, class_names, fraction, options),
        *_copies(images, numbers, parts, names),
    ]
    held = (None, None)
    if "validation" in splits:
        held = images[parts == "validation"], numbers[parts == "validation"]
    return Dataset(
        name,
        images[parts == "train"],
        numbers[parts == "train"],
        images[parts == "test"],
        numbers[parts == "test"],
        tuple(class_names),
        flippable=options.flip is not False,
        validation_images=held[0],
        validation_labels=held[1],
        aspect=options.aspect,
        test_fraction=fraction,
        notes=tuple(notes),
        reading=reading,
        origin=origin,
    )


def _notes(numbers, parts, class_names, fraction, options):
    """What was split off, is missing, or is mirrored."""
    tested = parts == "test"
    if fraction:
        total = int((parts != "validation").sum())
        yield (
            f"There is no test split: {tested.sum():,} of {total:,} images "
            f"were split off as one, class by class (seed {options.seed})."
        )
    elif fraction is not None:
        yield "There is no test split."
    else:
        found = set(numbers[tested].tolist())
        names = [n for i, n in enumerate(class_names) if i not in found]
        if names:
            yield f"The test split has no {some(names)}."
    if options.flip is None:
        yield (
            "Images are mirrored in training; where left and right are "
            "different classes, switch it off with flip=False (--no-flip)."
        )


def _copies(images, numbers, parts, names):
    """Says which are there twice with two answers, or trained and measured."""
    first, torn = {}, []
    leaked: dict[str, list] = {"validation": [], "test": []}
    # The training images come first, whatever their place.
    for index in np.argsort(parts != "train", kind="stable"):
        key = hashlib.blake2b(images[index], digest_size=16).digest()
        known = first.setdefault(key, index)
        if known != index and numbers[known] != numbers[index]:
            torn.append((known, index))
        elif parts[known] == "train" and parts[index] in leaked:
            leaked[parts[index]].append((known, index))

    def shown(pairs):
        if not names:
            return ""
        few = [f"{names[a]} and {names[b]}" for a, b in pairs[:_NAMED]]
        return f" ({', '.join(few)}{', ...' if pairs[_NAMED:] else ''})"

    if torn:
        yield (
            "Identical images in two classes: "
            f"{len(torn):,}{shown(torn)}. Keep one of each."
        )
    for part, pairs in leaked.items():
        if pairs:
            yield (
                f"{part.capitalize()} images identical to a training image: "
                f"{len(pairs):,}{shown(pairs)}, which makes the {part} "
                "accuracy too high. Keep one of each."
            )


def _split_off(numbers, mask, options):
    """Which training images become test: some of each class, one at least."""
    off = np.zeros(len(numbers), bool)
    if not options.test_fraction:
        return off
    generator = np.random.default_rng(options.seed)
    for number in np.unique(numbers[mask]):
        mine = np.flatnonzero(mask & (numbers == number))
        count = max(1, round(options.test_fraction * len(mine)))
        off[generator.permutation(mine)[: min(count, len(mine) - LEAST)]] = True
    return off
