"""Whom a student learns from: teachers from files, assistants on the way."""

import dataclasses
import functools
import json
import re
from typing import Any, NamedTuple

import keras

from gnsmall_keras.config import DistillConfig, TrainConfig
from gnsmall_keras.data.dataset import Dataset
from gnsmall_keras.distill.cache import teacher_digest
from gnsmall_keras.distill.checks import load_teacher
from gnsmall_keras.distill.teachers import CONFIDENCE, TeacherEnsemble
from gnsmall_keras.models import counting
from gnsmall_keras.models.catalogue import NETWORKS, check_network
from gnsmall_keras.models.files import (
    load_model,
    run_folder,
    save_model,
)
from gnsmall_keras.models.spec import HEAD_UNITS
from gnsmall_keras.records.jsonl import replacing
from gnsmall_keras.records.run import MODEL_FILE
from gnsmall_keras.training import checkpoint, evaluation
from gnsmall_keras.training.fit import Stage, create_network, learn
from gnsmall_keras.training.splits import Splits, batches


class Taught(NamedTuple):
    """What a student learns from, and what its record says of it."""

    teacher: keras.Model | None
    described: dict[str, Any] | None

    @property
    def digests(self) -> tuple[str, ...]:
        """Of the teachers' weights."""
        teachers = (self.described or {}).get("teachers", ())
        return tuple(teacher["weights_digest"] for teacher in teachers)


def find_teachers(
    config: TrainConfig, dataset: Dataset, splits: Splits, student: Stage
) -> Taught:
    """Loads the teachers, and trains the assistants or reads their files.

    Raises:
        ValueError: if a file holds no teacher for these data, or an assistant
            of other teachers.
    """
    if not isinstance(config, DistillConfig) or config.strategy == "baseline":
        return Taught(None, None)
    load = functools.partial(
        load_teacher,
        classes=dataset.classes,
        input_shape=dataset.train_images.shape[1:],
    )
    runs = student.folder.parent
    chain = [load(run_folder(name, runs) or name) for name in config.teachers]
    names = list(config.teachers)
    stages = []
    for number, name in enumerate(config.assistants, start=1):
        assistant = _assistant(name, config, student, number)
        if assistant is None:
            chain.append(load(run_folder(name, runs) or name))
        else:
            digests = tuple(teacher_digest(model) for model in chain)
            model, record = _taught_assistant(
                assistant._replace(teachers=digests),
                _joined(chain, config),
                dataset,
                splits,
            )
            chain.append(model)
            stages.append(record)
        names.append(name)
    digests = [teacher_digest(model) for model in chain]
    if config.strategy == "assistant":
        _check_chain(names, digests)
    described = {
        "teachers": [
            {"name": name, "weights_digest": digest}
            for name, digest in zip(names, digests, strict=True)
        ],
        "stages": stages,
    }
    return Taught(_joined(chain, config), described)


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


def _assistant(name, config, student, number):
    """The stage that trains it, or None if `name` is of a trained model."""
    match = re.fullmatch(r"(\w+?)(?:-w(\d+(?:\.\d+)?))?", name)
    if match is None or match[1] not in NETWORKS:
        return None
    scales = check_network(match[1]).scales
    own = dataclasses.replace(
        config,
        model=match[1],
        width=float(match[2] or 1.0),
        head_units=config.head_units if scales else HEAD_UNITS,
    )
    return student._replace(
        name=f"assistant {number}, {name}",
        config=own,
        folder=student.folder / f"assistant-{number}-{name}",
    )


def _taught_assistant(stage, teachers, dataset, splits):
    """Trains an assistant, or reads the one that an earlier call has trained.

    Returns:
        The model, and a dict for the record.
    """
    described = stage.folder / "stage.json"
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
        return load_model(stage.folder / MODEL_FILE), record
    stage.folder.mkdir(parents=True, exist_ok=True)
    model = create_network(stage.config, dataset)
    done = learn(
        model,
        teachers,
        batches(
            splits.fitting,
            stage.config,
            flip=dataset.flippable,
            classes=dataset.classes,
        ),
        splits.watched,
        stage,
    )
    save_model(model, stage.folder / MODEL_FILE)
    record = {
        "name": stage.name,
        "teachers": list(stage.teachers),
        "parameters": counting.count_parameters(model),
        "validation_accuracy": evaluation.accuracy_on(
            model, *splits.validation
        ),
        "train_seconds": round(done.seconds, 1),
        "history": done.history,
    }
    with replacing(described) as unfinished:
        text = json.dumps({**record, "identity": stage.identity})
        unfinished.write_text(text, encoding="utf-8")
    checkpoint.remove(stage.folder / checkpoint.FILE)
    return model, record


def _joined(chain, config):
    """The last of a chain; or all, in an ensemble or a dense chain."""
    if config.strategy != "ensemble" and not config.dense:
        return chain[-1] if chain else None
    weights = config.teacher_weights or None
    if config.confidence_weights:
        weights = CONFIDENCE
    return TeacherEnsemble(chain, combine=config.combine, weights=weights)
