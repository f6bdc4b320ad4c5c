"""Whom a student learns from: teachers from files, assistants on the way."""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras

from gnsmall_keras.config import DIGEST_LENGTH
from gnsmall_keras.data.dataset import Dataset
from gnsmall_keras.distill.cache import cache_teacher
from gnsmall_keras.distill.checks import load_teacher
from gnsmall_keras.distill.stored_teacher import (
    CachedTeacher,
    images_digest,
    teacher_digest,
)
from gnsmall_keras.distill.teachers import TeacherEnsemble
from gnsmall_keras.lines import say
from gnsmall_keras.models import counting
from gnsmall_keras.models.catalogue import NETWORKS
from gnsmall_keras.models.saving.files import load_model, save_model
from gnsmall_keras.models.saving.pretrained import (
    find_published,
    published_names,
)
from gnsmall_keras.records.folders import (
    CHECKPOINT_FILE,
    STAGE_FILE,
    find_folder,
)
from gnsmall_keras.records.run import MODEL_FILE
from gnsmall_keras.training import checkpoint, evaluation
from gnsmall_keras.training.fit import create_network, learn
from gnsmall_keras.training.fitting import Stage
from gnsmall_keras.training.interruption import TrainingInterrupted
from gnsmall_keras.training.splits import Splits, batches, views_of
from gnsmall_keras.writing import lock, replacing


class Taught(NamedTuple):
    """What a student learns from, and what its record says of it."""

    teacher: keras.Model | TeacherEnsemble | None
    described: dict[str, Any] | None
    cached: CachedTeacher | None = None  # in the teacher's place

    @property
    def digests(self) -> tuple[str, ...]:
        """Of the teachers' weights."""
        teachers = (self.described or {}).get("teachers", ())
        return tuple(teacher["weights_digest"] for teacher in teachers)


def find_teachers(student: Stage, dataset: Dataset, splits: Splits) -> Taught:
    """Loads the teachers, and trains the assistants or reads their files.

    Or opens a cache in their place; a run's is made first.

    Args:
        student: whose teachers.
        dataset: its data.
        splits: of them.

    Raises:
        ValueError: if a file holds no teacher for these data, or an assistant
            of other teachers; or a cache does not belong to the data, or its
            views are others than the student's.
        TrainingInterrupted: if it was stopped, also between two views.
    """
    teaching = student.experiment.teaching
    if teaching is None:
        return Taught(None, None)
    if teaching.cache:
        return _from_cache(teaching.cache, student, dataset, splits.fitting)
    load = functools.partial(
        load_teacher,
        classes=dataset.classes,
        input_shape=dataset.train_images.shape[1:],
        class_names=dataset.class_names,
    )
    runs = student.folder.parent
    chain = [load(find_teacher(name, runs)) for name in teaching.teachers]
    names = list(teaching.teachers)
    stages = []
    for number, name in enumerate(teaching.assistants, start=1):
        assistant = _assistant(name, student, number)
        if assistant is None:
            chain.append(load(find_teacher(name, runs)))
        else:
            digests = tuple(teacher_digest(model) for model in chain)
            model, record = _taught_assistant(
                assistant._replace(teachers=digests),
                _joined(chain, teaching),
                dataset,
                splits,
            )
            chain.append(model)
            stages.append(record)
        names.append(name)
    digests = [teacher_digest(model) for model in chain]
    if teaching.strategy == "assistant":
        _check_chain(names, digests)
    described = {
        "teachers": [
            {"name": name, "weights_digest": digest}
            for name, digest in zip(names, digests, strict=True)
        ],
        "stages": stages,
    }
    return Taught(_joined(chain, teaching), described)


def _place_of(name, runs):
    """A run's folder, a published network's file, or the path of another."""
    return find_folder(name, runs) or find_published(name) or Path(name)


def find_teacher(name: str, runs: Path) -> Path:
    """Returns where a trained model is: a run's folder or a file.

    Args:
        name: of a run or of published weights; or a path.
        runs: folder of all runs.

    Raises:
        ValueError: if there is none.
    """
    place = _place_of(name, runs)
    if not place.exists():
        raise ValueError(
            "A teacher must be a .keras file, a run's folder or its name in "
            f"{runs}, or a published network: {published_names()}. Received: "
            f"{name!r}, which does not exist."
        )
    return place


def trained_before(names: Sequence[str]) -> list[str]:
    """Returns those of teachers and assistants that no run trains itself."""
    return [name for name in names if not _network_of(name)]


def find_changed(
    described: dict[str, Any] | None, runs: Path, since: float = 0.0
) -> list[str]:
    """Returns the teachers whose weights are others than a record says.

    Those that are not there any more, and caches, are left out.

    Args:
        described: what the record says of teachers and stages.
        runs: folder of all runs.
        since: files that are older are not read; seconds, as `st_mtime`.
    """
    changed = []
    for teacher in (described or {}).get("teachers", ()):
        if _network_of(teacher["name"]):  # the run trained it itself
            continue
        place = _place_of(teacher["name"], runs)
        file = place / MODEL_FILE if place.is_dir() else place
        if not file.is_file() or file.stat().st_mtime < since:
            continue
        try:
            digest = teacher_digest(load_model(file))
        except ValueError:
            digest = ""
        if digest != teacher["weights_digest"]:
            changed.append(str(file))
    return changed


def _check_chain(names, digests):
    """One model may have two names."""
    for name, digest in zip(names, digests, strict=True):
        first = names[digests.index(digest)]
        if first != name:
            raise ValueError(
                "A chain must not come back to where it was. Received: "
                f"{first!r} and {name!r}, which have the same weights. Leave "
                "one of them out."
            )


def _network_of(name):
    """The parts of a name that is of a network, and of no trained model."""
    match = re.fullmatch(r"(\w+?)(?:-w(\d+(?:\.\d+)?))?", name)
    return match if match and match[1] in NETWORKS else None


def _assistant(name, student, number):
    """The stage that trains it, or None if `name` is of a trained model."""
    match = _network_of(name)
    if match is None:
        return None
    return student._replace(
        name=f"assistant {number}, {name}",
        experiment=student.experiment.of_network(
            match[1], float(match[2] or 1.0)
        ),
        folder=student.folder / f"assistant-{number}-{name}",
    )


def _taught_assistant(stage, teachers, dataset, splits):
    """Trains an assistant, or reads the one that an earlier call has trained.

    Returns:
        The model, and a dict for the record.
    """
    described = stage.folder / STAGE_FILE
    if described.is_file():
        record = json.loads(described.read_text(encoding="utf-8"))
        if record["teachers"] != list(stage.teachers):
            raise ValueError(
                f"{stage.folder} holds an assistant of other teachers: "
                f"{record['teachers']}, now {list(stage.teachers)}. Delete the "
                "folder to train it anew."
            )
        before = record.pop("identity", None)  # older files have none
        if before is not None:
            checkpoint.check_identity(described, before, stage.identity)
        say(f"{stage.name}: taken from {stage.folder}, trained before.")
        return load_model(stage.folder / MODEL_FILE), record
    stage.folder.mkdir(parents=True, exist_ok=True)
    model = create_network(stage.experiment.network, dataset)
    done = learn(
        model,
        teachers,
        batches(splits.fitting, stage.experiment.learning, dataset),
        splits.monitored,
        stage,
    )
    save_model(model, stage.folder / MODEL_FILE, dataset.class_names)
    record = {
        "name": stage.name,
        "teachers": list(stage.teachers),
        "parameters": counting.count_parameters(model),
        "validation_accuracy": evaluation.accuracy_on(
            model, *splits.validation
        ),
        "train_seconds": round(done.seconds, 1),
        "history": done.history,
        "sessions": [*done.machines],
    }
    with replacing(described) as unfinished:
        text = json.dumps({**record, "identity": stage.identity})
        unfinished.write_text(text, encoding="utf-8")
    checkpoint.remove(stage.folder / CHECKPOINT_FILE)
    return model, record


def _joined(chain, teaching):
    """The last of a chain; or all, in an ensemble or a dense chain."""
    if not teaching.joined:
        return chain[-1] if chain else None
    return TeacherEnsemble(
        chain, combine=teaching.combine, weights=teaching.weights
    )


def _from_cache(name, student, dataset, fitting):
    folder = find_folder(name, student.folder.parent)
    if folder:
        cached = _cache_run(folder, student, dataset, fitting)
    else:
        cached = CachedTeacher.load(
            name, images=fitting.images, labels=fitting.labels
        )
        _check_views(name, cached, student.experiment, dataset)
    described = {"name": name, "weights_digest": cached.teacher_digest}
    return Taught(None, {"teachers": [described], "stages": []}, cached)


def _check_views(path, cached, experiment, dataset):
    wanted = dataclasses.asdict(views_of(experiment.learning, dataset))
    names = wanted if wanted["augment"] else ["augment"]
    other = {
        name: getattr(cached, name)
        for name in names
        if getattr(cached, name) != wanted[name]
    }
    if other:
        options = f"--recipe {experiment.values['recipe']}"
        if "flip" in other:
            options += " --flip" if wanted["flip"] else " --no-flip"
        raise ValueError(
            f"The cache {path} was made with {other}. Received: "
            f"{ {name: wanted[name] for name in other} }. Make another with "
            f"`gnsmall cache-teacher {options}`, or train with the cache's."
        )


def _cache_run(folder, student, dataset, fitting):
    """Caches a run for what a student fits on, unless that is done.

    Others that want the same wait. Views are named by the seed of the split.
    """
    experiment = student.experiment
    views = views_of(experiment.learning, dataset)
    options = {
        **dataclasses.asdict(views),
        "views": experiment.learning.recipe.epochs if views.augment else 1,
        "seed": experiment.partition.seed,
    }
    text = json.dumps([options, images_digest(*fitting)], sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]
    path = folder / f"cache-{key}"
    with path.with_suffix(".lock").open("ab") as file:
        lock(file)
        teacher = load_teacher(
            folder,
            classes=dataset.classes,
            input_shape=fitting.images.shape[1:],
            class_names=dataset.class_names,
        )
        return cache_teacher(
            teacher,
            *fitting,
            path=path,
            progress=student.progress,
            after_view=functools.partial(_after_view, path, student.stop),
            **options,
        )


def _after_view(path, stop):
    stop.steps += 1  # for the time was enough for something
    if stop.reason:
        raise TrainingInterrupted(
            f"{stop.reason}. {path} holds the views so far: the same command "
            "goes on there."
        )
