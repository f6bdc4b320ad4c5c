"""Images in folders named after their classes, or in an archive of them."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gnsmall_keras.cores import process_cores
from gnsmall_keras.data.dataset import Dataset, some
from gnsmall_keras.data.decoding import decode, strict_warnings
from gnsmall_keras.data.files import archives, cache
from gnsmall_keras.data.files.layout import Layout, arrange
from gnsmall_keras.data.files.listing import list_folder, shown
from gnsmall_keras.data.parts import Options, assemble, check_classes

_NAMED = 5  # broken images in a message
_AHEAD = 4  # files in memory for each thread


class _Found(NamedTuple):
    """Images before they are parted.

    Attributes:
        images: uint8 `(n, size, size, channels)`.
        names: of their files.
        labels, splits: of each image, by its place.
        empty: `(split, label)` of folders without images.
        notes, reading: as of `Dataset`.
        where: names the whole, for errors.
    """

    images: np.ndarray
    names: list[str]
    labels: list[str]
    splits: list[str]
    empty: list[tuple[str, str]]
    notes: list[str]
    reading: str
    where: str


def load(path: Path, options: Options) -> Dataset:
    """Loads `<class>/<image>`, or `train/<class>/<image>` and its like.

    Args:
        path: a folder, tar or zip.
        options: of `load_data`.

    Raises:
        ValueError: if the layout is another, an image cannot be read, or a
            class has too few.
    """

    def check(layout, where):
        return check_classes(
            layout.labels, layout.splits, layout.empty, options, where
        )

    found = _read(path, options, check)
    return assemble(
        _name(path),
        found.images,
        found.labels,
        found.splits,
        check(found, found.where),
        options,
        origin="files",
        notes=found.notes,
        reading=found.reading,
        names=found.names,
    )


def load_all(
    path: Path, options: Options, class_names: Sequence[str] = ()
) -> Dataset:
    """Loads all images as a test split, whatever part they lie in.

    Args:
        path: a folder, tar or zip, as of `load`.
        options: of `load_data`.
        class_names: of the network to be tested; the images need not have all
            of them. Empty: those of the folders.

    Raises:
        ValueError: as `load`, or if a class is none of these.
    """

    def check(layout, where):
        unknown = sorted(set(layout.labels) - set(class_names))
        if class_names and unknown:
            raise ValueError(
                f"Classes must be those of the network: {some(class_names)}. "
                f"{where} has {some(unknown)} too. Name its folders after "
                "the network's classes."
            )

    found = _read(path, options, check)
    return assemble(
        _name(path),
        found.images,
        found.labels,
        ["test"] * len(found.labels),
        class_names or tuple(sorted(set(found.labels))),
        dataclasses.replace(options, flip=False),  # nothing is trained
        origin="files",
        notes=found.notes,
        reading=found.reading,
        names=found.names,
    )


def _read(
    path: Path, options: Options, check: Callable[[Layout, str], object]
) -> _Found:
    """Lists and decodes; `check` looks at the layout before that."""
    with contextlib.ExitStack() as stack:
        archive = None
        if path.is_dir():
            listing = list_folder(path)
        else:
            archive = stack.enter_context(archives.opened(path))
            listing = archive.list()
        entries, where = listing.entries, shown(str(path))
        others = listing.describe_others()
        names = [entry.name for entry in entries]
        try:
            layout = arrange(names, listing.folders, where)
            check(layout, where)
        except ValueError as error:  # HEIC photos, for example
            raise ValueError(f"{error} {others}".strip()) from None
        images, broken, reading = _images(path, archive, entries, options)
    if broken and not options.skip_broken:
        raise ValueError(
            f"{_describe_broken(entries, broken, where)}. Replace or remove "
            "what is broken, or go on without it: skip_broken=True "
            "(--skip-broken)."
        )
    kept = [i for i in range(len(entries)) if i not in broken]
    labels = [layout.labels[i] for i in kept]
    splits = [layout.splits[i] for i in kept]
    given = set(zip(layout.splits, layout.labels, strict=True))
    empty = [*layout.empty, *(given - set(zip(splits, labels, strict=True)))]
    notes = [others, *layout.notes, *_describe_empty(layout)]
    if broken:
        images = images[kept]
        notes.append(f"Left out: {_describe_broken(entries, broken, where)}.")
    return _Found(
        images,
        [shown(names[i]) for i in kept],
        labels,
        splits,
        empty,
        [note for note in notes if note],
        reading,
        where,
    )


def _images(path, archive, entries, options):
    """Decodes, or takes from the cache; says which, and why not the other."""
    shape = (len(entries), options.image_size, options.image_size)
    shape = (*shape, options.channels)
    why = cache.unused(len(entries), options.cache)
    if why:
        return *_decode_all(
            archive, entries, options, shape
        ), f"Decoded; {why}."
    file = cache.file_of(path, options.pixels)
    state = cache.state_of(entries)
    found = cache.take(file, state, shape)
    if found:
        return *found, f"{len(entries):,} decoded images taken from {file}."
    started = time.monotonic()
    images, broken = _decode_all(archive, entries, options, shape)
    seconds = time.monotonic() - started
    failed = cache.keep(file, state, images, broken)
    reading = f"{len(entries):,} images decoded in {seconds:.1f} s"
    if failed:
        return images, broken, f"{reading}, not kept ({failed})."
    return images, broken, f"{reading}, kept in {file}."


def _decode_all(archive, entries, options, shape):
    images = _room(shape)
    work = [i for i, entry in enumerate(entries) if not entry.fault]
    broken = {i: entry.fault for i, entry in enumerate(entries) if entry.fault}
    # A file that several links lead to is read once.
    indices = collections.defaultdict(list)
    for i in work:
        indices[entries[i].handle].append(i)
    if archive:
        in_order = [member for member in archive.members if member in indices]
        sources = archive.read(in_order)
    else:
        in_order = list(indices)
        sources = iter(in_order)

    def decoded(source):
        try:
            data = source.read_bytes() if isinstance(source, Path) else source
            return decode(data, **options.pixels)
        except (OSError, ValueError) as error:
            return getattr(error, "strerror", None) or str(error)

    with strict_warnings():
        for handle, result in zip(
            in_order, _in_threads(decoded, sources), strict=True
        ):
            for i in indices[handle]:
                if isinstance(result, str):
                    broken[i] = result
                else:
                    images[i] = result
    return images, dict(sorted(broken.items()))


def _room(shape):
    try:
        return np.zeros(shape, np.uint8)
    except MemoryError:
        raise ValueError(
            f"All images must fit into memory. Received: {shape[0]:,} of "
            f"{shape[1]} x {shape[2]} x {shape[3]}. Give fewer, or a smaller "
            "image_size."
        ) from None


def _in_threads(function, values):
    """Maps in order; Pillow decodes without Python's lock."""
    threads = process_cores()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        values, waiting = iter(values), collections.deque()
        for value in itertools.islice(values, _AHEAD * threads):
            waiting.append(pool.submit(function, value))
        while waiting:
            result = waiting.popleft().result()
            for value in itertools.islice(values, 1):
                waiting.append(pool.submit(function, value))
            yield result


def _describe_broken(entries, broken, where):
    (first, reason), *others = broken.items()
    more = ", ".join(
        f"{shown(entries[i].name)} ({why})" for i, why in others[: _NAMED - 1]
    )
    if more:
        more = f", nor {more}"
    if len(broken) > _NAMED:
        more += f" and {len(broken) - _NAMED:,} more"
    return (
        f"{shown(entries[first].name)} in {where} cannot be read as an image "
        f"({reason}){more}"
    )


def _describe_empty(layout):
    names = [f"{split or 'other'}: {label}" for split, label in layout.empty]
    if names:
        yield f"Folders without images: {', '.join(map(shown, names[:10]))}."


def _name(path):
    """Of a dataset: the folder's or archive's, however it is spelled."""
    name = path.resolve().name
    return (name.split(".")[0] if path.is_file() else name) or "images"
