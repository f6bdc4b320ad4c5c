"""A stored teacher: what its folder must hold, and batches of its logits."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from gnsmall_keras.data.augment import Views, check_pixels
from gnsmall_keras.data.batches import (
    IMAGES,
    TEACHER_LOGITS,
    TrainingBatches,
)
from gnsmall_keras.distill.labels import check_kind, shape_of
from gnsmall_keras.distill.teachers import WEIGHTS
from gnsmall_keras.lines import one_line

SCHEMA = 2  # also changes with what Augmentation.view makes of a seed
CACHE_FILE = "cache.json"


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class CachedTeacher:
    """A teacher's logits for every view of every image.

    Attributes:
        logits: of each view a float16 `(images, classes)`, memory-mapped.
        data_digest: `images_digest` of what the logits are for.
        teacher_digest: `teacher_digest` of what computed them.
        views: how many views of each image.
        seed: names the views.
        augment, flip, alternate, padding, border: of `Views`.
        images: how many.
        classes: how many.

    Example:
        >>> layers = [keras.layers.Flatten(), keras.layers.Dense(10)]
        >>> teacher = keras.Sequential([keras.Input((32, 32, 3)), *layers])
        >>> cached = gns.cache_teacher(
        ...     teacher,
        ...     np.zeros((4, 32, 32, 3), "uint8"),
        ...     np.arange(4),
        ...     path="cached",
        ...     views=1,
        ...     seed=0,
        ...     augment=False,
        ...     flip=False,
        ...     progress=False,
        ... )
        >>> cached.images, cached.classes, cached.logits[0].dtype
        (4, 10, dtype('float16'))
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

    @property
    def seen(self) -> Views:
        """How each view is cut."""
        return seen_in(vars(self))

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
                schema, of other data (or not of uint8 images) or of another
                teacher.
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
        description = read_description(file)
        _check_data(images, labels, description["data_digest"])
        check_classes_known(labels, description["classes"])
        if teacher is not None:
            _check_same_teacher(teacher, description["teacher_digest"])
        return open_views(folder, description)

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
            views=self.seen,
            drop_remainder=drop_remainder,
            teacher_logits=self.logits,
            view_seed=self.seed,
        )


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


def read_description(file: Path) -> dict[str, Any]:
    """Returns what a cache or an unfinished one says of itself.

    Raises:
        ValueError: if it is no JSON, or of another schema.
    """
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


def seen_in(values: Mapping[str, Any]) -> Views:
    """Returns how views are cut, from a cache's description."""
    names = [field.name for field in dataclasses.fields(Views)]
    return Views(**{name: values[name] for name in names})


def view_file(folder: Path, view: int) -> Path:
    """Returns the file of a view's logits."""
    return folder / f"view-{view:04}.npy"


def open_view(
    folder: Path, view: int, description: dict[str, Any]
) -> np.ndarray:
    """Opens the logits of a view, float16 `(images, classes)`.

    Raises:
        ValueError: if the file is missing or not whole.
    """
    shape = (description["images"], description["classes"])
    file = view_file(folder, view)
    try:
        logits = np.lib.format.open_memmap(file, mode="r")
        found = f"{logits.dtype} {logits.shape}"
    except Exception as error:  # not there, or damaged, which raises all kinds
        found = one_line(error)
    if found != f"float16 {shape}":
        raise ValueError(
            f"{file} must hold float16 logits {shape}. Received: {found}. "
            "It may be missing or truncated; call cache_teacher with the same "
            "arguments, which computes what is not whole."
        )
    return logits


def open_views(folder: Path, description: dict[str, Any]) -> CachedTeacher:
    """Opens a cache whose description was checked."""
    logits = tuple(
        open_view(folder, view, description)
        for view in range(description["views"])
    )
    fields = {k: v for k, v in description.items() if k != "schema"}
    return CachedTeacher(logits=logits, **fields)


def check_classes_known(labels: np.ndarray, classes: int) -> None:
    """Checks that labels are within the classes.

    Raises:
        ValueError: if one is not.
    """
    if np.min(labels) < 0 or np.max(labels) >= classes:
        raise ValueError(
            f"The teacher has {classes} classes, so labels must be in "
            f"[0, {classes}). Received: labels in [{np.min(labels)}, "
            f"{np.max(labels)}]. Take a teacher of the same data."
        )


def _check_data(images, labels, expected):
    check_pixels(images)
    check_kind(labels)
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


def has_targets(x):
    """Whether a teacher's logits are in a batch, beside the images."""
    return isinstance(x, dict) and TEACHER_LOGITS in x


def check_dict(batch, student):
    """Checks a batch's first part that is a dict: what it has, its classes.

    Args:
        batch: the dict, which may also be the inputs of such a student.
        student: the student.

    Raises:
        ValueError: if images or a teacher's logits are missing, or these are of
            other classes than the student's.
    """
    inputs = getattr(student, "inputs", None) or ()
    own = {tensor.name for tensor in inputs if len(inputs) == 1}
    alone = (IMAGES in batch) != (TEACHER_LOGITS in batch)
    if alone and len(inputs) < 2 and not own & set(batch):
        raise ValueError(
            f"A batch with cached targets must have {IMAGES!r} and "
            f"{TEACHER_LOGITS!r}. Received: {[*batch]}. Name its parts so, or "
            "pass the images alone."
        )
    if not has_targets(batch):
        return
    shape = shape_of(batch[TEACHER_LOGITS])
    rank = 3 if WEIGHTS in batch else 2
    classes = student.output_shape[-1]
    if shape and (len(shape) != rank or shape[-1] not in (None, classes)):
        raise ValueError(
            f"{TEACHER_LOGITS!r} must be (batch, classes), of the student's "
            f"{classes} classes. Received: {shape}. Take a cache of the same "
            "data, or a student of as many classes."
        )
