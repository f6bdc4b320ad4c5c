"""Teacher logits, computed once and stored by image and view.

A cache is a folder: one file of logits per view, and `cache.json`, which is
written last and says what the logits were computed from.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from gnsmall_keras.data.augment import PADDING, Augmentation, normalize
from gnsmall_keras.data.batches import TrainingBatches
from gnsmall_keras.distill.checks import check_teacher
from gnsmall_keras.native.choice import network_for_inference
from gnsmall_keras.records.jsonl import replacing

SCHEMA = 2  # also changes with what Augmentation.view makes of a seed
CACHE_FILE = "cache.json"
_BEGUN_FILE = "begun.json"  # becomes CACHE_FILE when every view is there
_BATCH_SIZE = 500
_LARGEST = float(np.finfo(np.float16).max)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class CachedTeacher:
    """A teacher's logits for every view of every image.

    Attributes:
        logits: of each view a float16 `(images, classes)`, memory-mapped.
        data_digest: `images_digest` of what the logits are for.
        teacher_digest: `teacher_digest` of what computed them.
        views: how many views of each image.
        seed: names the views.
        augment: whether they are crops; otherwise the plain images.
        flip: whether half of the crops are mirrored.
        alternate: whether it is every other view of an image that is mirrored.
        padding, border: what they are cut from, see `Augmentation`.
        images: how many.
        classes: how many.
    """

    logits: tuple[np.ndarray, ...]
    data_digest: str
    teacher_digest: str
    views: int
    seed: int
    augment: bool
    flip: bool
    alternate: bool
    padding: int
    border: str
    images: int
    classes: int

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        *,
        images: np.ndarray,
        labels: np.ndarray,
        teacher: keras.Model | None = None,
    ) -> "CachedTeacher":
        """Opens a finished cache of these images, labels and teacher.

        Args:
            path: the folder that `cache_teacher` wrote.
            images, labels: the split that is trained on, as it was cached.
            teacher: if given, it must be the one that was cached.

        Raises:
            ValueError: if the cache is unfinished, truncated, of an unknown
                schema, of other data or of another teacher.
        """
        folder = Path(path)
        file = folder / CACHE_FILE
        if not file.is_file():
            raise ValueError(
                f"A cache of teacher logits holds {CACHE_FILE} once all views "
                f"are computed. Received: {os.fspath(path)!r}, without it. "
                "Call cache_teacher with this path; it goes on where it was "
                "interrupted."
            )
        description = _read_description(file)
        _check_data(images, labels, description["data_digest"])
        _check_labels(labels, description["classes"])
        if teacher is not None:
            _check_same_teacher(teacher, description["teacher_digest"])
        return _open(folder, description)

    def batches(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        drop_remainder: bool = False,
    ) -> TrainingBatches:
        """Returns training batches of the cached views, with their logits.

        Args:
            images, labels: those that the cache was loaded for.
            batch_size: images per batch.
            seed: names the order; the views are those of the cache.
            shuffle: whether each epoch has its own order.
            drop_remainder: whether the last, short batch is left out.

        Raises:
            ValueError: if the data are others, or not one batch can be made.
        """
        _check_data(images, labels, self.data_digest)
        return TrainingBatches(
            images,
            labels,
            batch_size=batch_size,
            seed=seed,
            shuffle=shuffle,
            augment=self.augment,
            flip=self.flip,
            alternate=self.alternate,
            padding=self.padding,
            border=self.border,
            drop_remainder=drop_remainder,
            teacher_logits=self.logits,
            view_seed=self.seed,
        )


def cache_teacher(
    teacher: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    path: str | os.PathLike,
    views: int,
    seed: int,
    augment: bool,
    flip: bool,
    alternate: bool = False,
    padding: int = PADDING,
    border: str = "zeros",
    progress: bool = True,
    after_view: Callable[[], None] = lambda: None,
) -> CachedTeacher:
    """Computes a teacher's logits for `views` views of every image.

    Views that an interrupted call has finished stay, and a whole cache of the
    same arguments is opened as it is. One process at a time may write to
    `path`. Logits beyond the range of float16 (65504) are stored as its ends.

    Args:
        teacher: from normalised images to logits.
        images, labels: uint8 `(n, h, w, 3)` and whole numbers `(n,)`: the
            very split that is trained on.
        path: the cache's folder; made if need be.
        views: how many epochs pass until the images repeat.
        seed: names the views.
        augment: whether views are crops; without, there is one view.
        flip: whether half of the crops are mirrored.
        alternate: whether it is every other view of an image that is mirrored.
        padding, border: of `Augmentation`.
        progress: whether to print a line per view, live in a terminal.
        after_view: called when a view is stored; what it raises ends the call.

    Raises:
        ValueError: if the teacher does not fit the data, `views` is no count,
            or the folder holds a cache of something else.
    """
    _check_views(views, augment)
    description = _describe(teacher, images, labels) | {
        "views": int(views),
        "seed": int(seed),
        "augment": bool(augment),
        "flip": bool(flip),
        "alternate": bool(alternate),
        "padding": int(padding),
        "border": border,
    }
    folder = Path(path)
    _begin(folder, description)
    missing = _missing_views(folder, description)
    if missing:
        check_teacher(
            teacher,
            classes=description["classes"],
            input_shape=images.shape[1:],
        )
        _write_views(
            folder,
            teacher,
            images,
            description,
            missing,
            progress=progress,
            after_view=after_view,
        )
    if (folder / _BEGUN_FILE).exists():
        (folder / _BEGUN_FILE).replace(folder / CACHE_FILE)
    return _open(folder, description)


def teacher_digest(model: keras.Model) -> str:
    """First 16 characters of the SHA-256 of all weights.

    Their kinds, shapes and values count. The layers' names do not: Keras
    numbers them anew in every process. Neither do layers without weights.
    """
    sha = hashlib.sha256()
    for weight in model.weights:
        sha.update(weight.name.encode())
        _update(sha, keras.ops.convert_to_numpy(weight.value))
    return sha.hexdigest()[:16]


def images_digest(images: np.ndarray, labels: np.ndarray) -> str:
    """First 16 characters of the SHA-256 of images and labels, in order."""
    sha = hashlib.sha256()
    _update(sha, images)
    _update(sha, labels)
    return sha.hexdigest()[:16]


def _update(sha, array):
    sha.update(f"{array.dtype} {array.shape}".encode())
    sha.update(np.ascontiguousarray(array))


def _describe(teacher, images, labels):
    if not len(images) or len(images) != len(labels):
        raise ValueError(
            "A teacher is cached for images with a label each. Received: "
            f"images={len(images)}, labels={len(labels)}. Take both of one "
            "split."
        )
    classes = teacher.output_shape[-1]
    _check_labels(labels, classes)
    return {
        "schema": SCHEMA,
        "data_digest": images_digest(images, labels),
        "teacher_digest": teacher_digest(teacher),
        "images": len(images),
        "classes": classes,
    }


def _begin(folder, description):
    """Writes down what is computed, or checks that it is the same."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (CACHE_FILE, _BEGUN_FILE):
        if (folder / name).is_file():
            stored = _read_description(folder / name)
            _check_same_cache(folder, stored, description)
            return
    for file in folder.glob("view-*.npy"):  # nothing says what they are of
        file.unlink()
    with replacing(folder / _BEGUN_FILE) as unfinished:
        text = json.dumps(description, indent=2, sort_keys=True)
        unfinished.write_text(text + "\n", encoding="utf-8")


def _read_description(file):
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # neither UTF-8 nor JSON
        raise ValueError(
            f"{file} must be JSON as cache_teacher writes it: {error}. Remove "
            "the folder and compute it again."
        ) from None
    found = description.get("schema") if isinstance(description, dict) else None
    if found != SCHEMA:
        raise ValueError(
            f"{file} must be of schema {SCHEMA}. Received: schema={found!r}. "
            "Remove the folder and compute it again, or take the version of "
            "gnsmall_keras that wrote it."
        )
    names = {field.name for field in dataclasses.fields(CachedTeacher)}
    expected = names - {"logits"} | {"schema"}
    if set(description) != expected:
        raise ValueError(
            f"{file} must have the fields of schema {SCHEMA}. Missing: "
            f"{sorted(expected - set(description))}; unknown: "
            f"{sorted(set(description) - expected)}. Remove the folder and "
            "compute it again."
        )
    return description


def _view_file(folder, view):
    return folder / f"view-{view:04}.npy"


def _missing_views(folder, description):
    def is_missing(view):
        try:
            _open_view(folder, view, description)
        except ValueError:
            return True
        return False

    return [view for view in range(description["views"]) if is_missing(view)]


def _open_view(folder, view, description):
    shape = (description["images"], description["classes"])
    file = _view_file(folder, view)
    try:
        logits = np.lib.format.open_memmap(file, mode="r")
        found = f"{logits.dtype} {logits.shape}"
    except (OSError, ValueError) as error:  # not there, or cut short
        found = str(error)
    if found != f"float16 {shape}":
        raise ValueError(
            f"{file} must hold float16 logits {shape}. Received: {found}. "
            "It may be missing or truncated; call cache_teacher with the same "
            "arguments, which computes what is not whole."
        )
    return logits


def _open(folder, description):
    logits = tuple(
        _open_view(folder, view, description)
        for view in range(description["views"])
    )
    fields = {k: v for k, v in description.items() if k != "schema"}
    return CachedTeacher(logits=logits, **fields)


def _write_views(
    folder, teacher, images, description, views, *, progress, after_view
):
    cut = _cutter(images, description)
    batches = len(views) * -(-len(images) // _BATCH_SIZE)
    with _progress_line(batches, shown=progress) as (advance, report):
        for view in views:
            began = time.perf_counter()
            logits = _predict(
                teacher, functools.partial(cut, view=view), description, advance
            )
            with replacing(_view_file(folder, view)) as unfinished:
                np.save(unfinished, logits)
            rate = len(images) / (time.perf_counter() - began)
            report(
                f"teacher, view {view + 1}/{description['views']}  "
                f"{rate:,.0f} images/s"
            )
            after_view()


def _cutter(images, description):
    """Returns what cuts `indices` of a `view`, as TrainingBatches does."""
    if not description["augment"]:
        return lambda indices, view: images[indices]
    augmentation = Augmentation(
        images,
        flip=description["flip"],
        padding=description["padding"],
        border=description["border"],
    )
    return functools.partial(
        augmentation.view,
        seed=description["seed"],
        alternate=description["alternate"],
    )


def _predict(teacher, cut, description, advance):
    """Returns float16 logits `(images, classes)` of the images `cut` cuts."""
    count = description["images"]
    size = min(_BATCH_SIZE, count)
    logits = np.empty((count, description["classes"]), np.float16)
    native = network_for_inference(teacher)
    predict = native.predict if native else teacher.predict_on_batch
    for start in range(0, count, size):
        # The last batch is filled up, so that one shape is compiled.
        indices = np.arange(start, start + size) % count
        found = predict(normalize(cut(indices)))
        logits[start : start + size] = _to_float16(found)[: count - start]
        advance()
    return logits


def _to_float16(logits):
    logits = np.asarray(logits, np.float32)
    if not np.isfinite(logits).all():
        raise ValueError(
            "A teacher's logits must be finite. Received: "
            f"{logits[~np.isfinite(logits)][0]}. Check its weights, and that "
            "it takes normalised images."
        )
    return np.clip(logits, -_LARGEST, _LARGEST).astype(np.float16)


@contextlib.contextmanager
def _progress_line(batches, *, shown):
    """Yields what moves the bar by a batch, and what prints a line."""
    console = Console(quiet=not shown)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("batches, left"),
        TimeRemainingColumn(),
        console=console,
        disable=not (shown and console.is_terminal),
        transient=True,
    )
    with bar:
        task = bar.add_task("teacher", total=batches)
        yield (
            lambda: bar.advance(task),
            lambda line: console.print(line, highlight=False, soft_wrap=True),
        )


def _check_views(views, augment):
    is_count = isinstance(views, int | np.integer) and views >= 1
    if not is_count or (views != 1 and not augment):
        raise ValueError(
            "`views` must be a whole number of at least 1, and 1 where "
            f"nothing is augmented. Received: views={views!r}, "
            f"augment={augment}. Change one of them."
        )


def _check_labels(labels, classes):
    if np.min(labels) < 0 or np.max(labels) >= classes:
        raise ValueError(
            f"The teacher tells {classes} classes apart, so labels must be in "
            f"[0, {classes}). Received: labels in [{np.min(labels)}, "
            f"{np.max(labels)}]. Take a teacher of the same data."
        )


def _check_data(images, labels, expected):
    found = images_digest(images, labels)
    if found != expected:
        raise ValueError(
            "The cached logits must be of these very images and labels, in "
            f"this order. Received: data {found}, logits of data {expected}. "
            "Take the data, split and seed the cache was made of, or call "
            "cache_teacher with another path."
        )


def _check_same_teacher(teacher, expected):
    found = teacher_digest(teacher)
    if found != expected:
        raise ValueError(
            "The cached logits must be of this very teacher. Received: "
            f"teacher {found}, logits of teacher {expected}. Take the teacher "
            "they were computed with, or call cache_teacher with another path."
        )


def _check_same_cache(folder, stored, wanted):
    changed = [name for name in wanted if stored[name] != wanted[name]]
    if changed:
        received = ", ".join(
            f"{name}={wanted[name]!r} (there: {stored[name]!r})"
            for name in changed
        )
        raise ValueError(
            f"{folder} holds a cache of something else. Received: {received}. "
            "Take another path, or remove the folder."
        )
