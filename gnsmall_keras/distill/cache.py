"""Teacher logits, computed once and stored by image and view.

A cache is a folder: one file of logits per view, and `cache.json`, which is
written last and says what the logits were computed from.
"""

import contextlib
import functools
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

from gnsmall_keras.data.augment import (
    Augmentation,
    check_pixels,
    normalize,
)
from gnsmall_keras.distill.checks import check_teacher, shapes_of
from gnsmall_keras.distill.labels import check_kind
from gnsmall_keras.distill.stored_teacher import (
    CACHE_FILE,
    SCHEMA,
    CachedTeacher,
    check_classes_known,
    images_digest,
    open_view,
    open_views,
    read_description,
    seen_in,
    teacher_digest,
    view_file,
)
from gnsmall_keras.native.choice import network_for_inference
from gnsmall_keras.writing import replacing

_BEGUN_FILE = "begun.json"  # becomes CACHE_FILE when every view is there
_BATCH_SIZE = 500
_LARGEST = float(np.finfo(np.float16).max)


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
    padding: int = 4,
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
        augment, flip, alternate, padding, border: of `Views`; without
            `augment` there is one view.
        progress: whether to print a line per view, live in a terminal.
        after_view: called when a view is stored; what it raises ends the call.

    Raises:
        ValueError: if the teacher does not fit the data, images are not
            uint8, labels no array, `views` is no count, or the folder holds a
            cache of something else.

    Example:
        >>> layers = [keras.layers.Flatten(), keras.layers.Dense(10)]
        >>> cached = gns.cache_teacher(
        ...     keras.Sequential([keras.Input((32, 32, 3)), *layers]),
        ...     np.zeros((4, 32, 32, 3), "uint8"),
        ...     np.arange(4),
        ...     path="views",
        ...     views=2,
        ...     seed=0,
        ...     augment=True,
        ...     flip=True,
        ...     progress=False,
        ... )
        >>> [view.shape for view in cached.logits]
        [(4, 10), (4, 10)]
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
    return open_views(folder, description)


def _describe(teacher, images, labels):
    check_kind(labels)
    if not len(images) or len(images) != len(labels):
        raise ValueError(
            "A teacher is cached for images with a label each. Received: "
            f"images={len(images)}, labels={len(labels)}. Take both of one "
            "split."
        )
    check_pixels(images)
    if not isinstance(teacher, keras.Model):
        raise ValueError(
            "The teacher of a cache must be a keras.Model. Received: "
            f"{type(teacher).__name__}. Give the model of a FrozenTeacher; "
            "what prepares its images goes before it: keras.Sequential(["
            "keras.Input(shape), preprocess, model])."
        )
    _, classes = shapes_of(teacher, "teacher")
    check_classes_known(labels, classes)
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
            stored = read_description(folder / name)
            _check_same_cache(folder, stored, description)
            return
    for file in folder.glob("view-*.npy"):  # nothing says what they are of
        file.unlink()
    with replacing(folder / _BEGUN_FILE) as unfinished:
        text = json.dumps(description, indent=2, sort_keys=True)
        unfinished.write_text(text + "\n", encoding="utf-8")


def _missing_views(folder, description):
    def is_missing(view):
        try:
            open_view(folder, view, description)
        except ValueError:
            return True
        return False

    return [view for view in range(description["views"]) if is_missing(view)]


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
            with replacing(view_file(folder, view)) as unfinished:
                np.save(unfinished, logits)
            rate = len(images) / (time.perf_counter() - began)
            report(
                f"teacher, view {view + 1}/{description['views']}  "
                f"{rate:,.0f} images/s"
            )
            after_view()


def _cutter(images, description):
    """Returns what cuts `indices` of a `view`, as TrainingBatches does."""
    seen = seen_in(description)
    if not seen.augment:
        return lambda indices, view: images[indices]
    augmentation = Augmentation(images, seen)
    return functools.partial(augmentation.view, seed=description["seed"])


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
    console = Console(quiet=not shown, markup=False, emoji=False)
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
