"""One training run, from a config to a record."""

import dataclasses
import os
from pathlib import Path

import keras
import numpy as np

from gnsmall_keras.config import RunConfig
from gnsmall_keras.data.sources import check_source, load_data
from gnsmall_keras.lines import say
from gnsmall_keras.models import counting
from gnsmall_keras.models.deploy import to_deploy
from gnsmall_keras.models.saving.files import save_model
from gnsmall_keras.native.choice import using
from gnsmall_keras.records import predictions, provenance
from gnsmall_keras.records.folders import (
    CHECKPOINT_FILE,
    ENDED_FILE,
    STAGE_FILE,
    begun_name,
)
from gnsmall_keras.records.run import (
    INDEX_FILE,
    MODEL_FILE,
    RECORD_FILE,
    RunRecord,
    append_record,
)
from gnsmall_keras.training import checkpoint, evaluation
from gnsmall_keras.training.advice import find_warnings
from gnsmall_keras.training.callbacks import (
    summary_writer,
    tell_images,
    tell_warnings,
)
from gnsmall_keras.training.devices import describe_machine, on_devices
from gnsmall_keras.training.experiment import images_of, resolve
from gnsmall_keras.training.fit import create_network, learn
from gnsmall_keras.training.fitting import Stage
from gnsmall_keras.training.holding import holding
from gnsmall_keras.training.interruption import StopRequest
from gnsmall_keras.training.splits import (
    batches,
    settled,
    split,
    test_split,
)
from gnsmall_keras.training.strategies import find_changed, find_teachers
from gnsmall_keras.writing import check_writable, replacing


def train(
    config: RunConfig,
    *,
    out: str | os.PathLike = "runs",
    index: str | os.PathLike | None = None,
    progress: bool = True,
    time_budget: float | None = None,
    device: str = "auto",
    tensorboard: bool = False,
    kernels: str = "auto",
    loop: str = "auto",
    again: bool = False,
) -> RunRecord:
    """Trains one network, alone or from teachers; writes what came of it.

    Writes `out/<slug>/model.keras` (the branched student) and
    `out/<slug>/record.json`, and appends the record to `index`. While it
    trains, a checkpoint is there after every epoch, and after the step (on JAX
    with a GPU: the chunk) in which the time was up, SIGTERM came or Ctrl-C
    was pressed: the same call goes on where an interrupted one was, and ends
    with the same weights.

    Args:
        config: what to train, and from which teachers.
        out: folder of all runs.
        index: the JSON-lines file of records; by default `out/index.jsonl`.
        progress: whether to print a line per epoch, live in a terminal.
        time_budget: seconds after which to stop, with a checkpoint; None: as
            long as it takes.
        device: "cpu", "gpu", or "auto": a GPU if there is one.
        tensorboard: whether to write losses, metrics and the learning rate for
            TensorBoard, into `out/<slug>/tensorboard`.
        kernels: what computes GhostNets: "native", this package's own code for
            CPUs, "keras", or "auto": the first where it is possible. A
            training goes on with what it began with.
        loop: "steps", a program for each; "chunks", on JAX one for many steps,
            with the images on the device; or "auto": the second on a GPU. The
            result is the same.
        again: whether a run that is finished is trained anew, with its
            assistants.

    Returns:
        The record that was appended; of a run that `out` has finished, on the
        same images, the one that is there, appended where `index` is without.

    Raises:
        ValueError: if the config does not fit the data, a teacher, the
            devices or the checkpoint of an earlier call, the loss or the
            trained network's logits are NaN or inf, the time budget is below
            one step, what `tensorboard` needs is not installed, or `out` has
            the run finished on another backend.
        TrainingInterrupted: if it was stopped before its end.

    Example:
        >>> config = gns.RunConfig(width=0.25, recipe="finetune", epochs=2)
        >>> record = gns.train(config, out="runs", progress=False)
        >>> record.test_accuracy > 0.9  # of digits
        True
        >>> gns.load_model(f"runs/{record.slug}/model.keras").output_shape
        (None, 10)
    """
    if tensorboard:
        summary_writer()  # which says now if it is not there
    index = Path(out) / INDEX_FILE if index is None else Path(index)
    check_writable(Path(out) / config.slug / RECORD_FILE, "out")
    check_writable(index, "index")
    check_source(config.data)
    if config.ignored:
        say(f"A baseline has no teacher: {config.ignored} is ignored.")
    images = images_of(config)
    dataset = load_data(images.data, **images.options)
    config = settled(config, dataset)
    experiment = resolve(config, begun_name(config, Path(out)))
    _check_loss(experiment)
    folder = Path(out) / experiment.name.slug
    with holding(folder):
        finished = None
        if not again:
            finished = _find_finished(config, dataset.digest, Path(out))
        if finished:
            return _keep_finished(finished, Path(out), index)
        record = _read_ended(folder / ENDED_FILE)
        if record is None:
            with (
                StopRequest(time_budget).listening() as stop,
                on_devices(device, experiment.learning.devices) as devices,
                using(kernels),
            ):
                _forget_assistants(folder)
                if progress:
                    tell_images(dataset)
                record = _train(
                    experiment,
                    dataset,
                    Path(out),
                    stop,
                    devices,
                    progress=progress,
                    tensorboard=tensorboard,
                    loop=loop,
                )
        tell_warnings((record.images or {}).get("warnings", ()))
        append_record(record, index)
        checkpoint.remove(folder / CHECKPOINT_FILE)
        (folder / ENDED_FILE).replace(folder / RECORD_FILE)
    return record


def _forget_assistants(folder):
    """Lets a finished run's assistants be trained anew, as the run is.

    Those that are younger than its record are of the run that takes its place.
    """
    record = folder / RECORD_FILE
    if not record.is_file() or (folder / CHECKPOINT_FILE).is_file():
        return
    finished = record.stat().st_mtime
    for stage in folder.glob(f"assistant-*/{STAGE_FILE}"):
        if stage.stat().st_mtime <= finished:
            stage.unlink()


def _read_ended(path):
    """The record of a call that died after its training, if it is whole."""
    try:
        return _read_record(path) if path.is_file() else None
    except ValueError as error:
        say(f"{error} The training goes on from its checkpoint.")
        return None


def _read_record(path):
    try:
        return RunRecord.read(path)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def _keep_finished(record, out, index):
    """Says that a run is done, and records it where `index` does not."""
    say(f"{out / record.slug} is finished; `again` (--again) trains it anew.")
    if append_record(record, index):
        say(f"Its record was added to {index}.")
    return record


def _find_finished(config, data_digest, out):
    """The record of a run that is done, of data and teachers as now.

    On another backend it is another network, whose place this one would take.
    """
    elsewhere = None
    for name in config.names:
        folder = out / name.slug
        path = folder / RECORD_FILE
        unfinished = (folder / ENDED_FILE, folder / CHECKPOINT_FILE)
        if not path.is_file() or any(file.is_file() for file in unfinished):
            continue
        if not (folder / MODEL_FILE).is_file():
            continue
        try:
            record = _read_record(path)
        except ValueError as error:
            say(f"{error} The run is trained anew.")
            continue
        if (record.digest, record.data_digest) != (name.digest, data_digest):
            continue
        if record.backend != keras.config.backend():
            elsewhere = folder, record.backend
            continue
        others = find_changed(record.distillation, out)
        if not others:
            return record
        say(
            f"{folder} is finished, but since then {', '.join(others)} "
            "changed: it is trained anew."
        )
    if elsewhere:
        raise ValueError(
            "A folder of runs has one network for each config, whatever the "
            f"backend. Received: {keras.config.backend()}, where "
            f"{elsewhere[0]} was finished on {elsewhere[1]}. Give another "
            "`out` (--out) to have both, or `again` (--again) to train it anew "
            "in the place of that one."
        )
    return None


def _check_loss(experiment):
    """DIST compares images with each other; TensorFlow's devices do not."""
    teaching, devices = experiment.teaching, experiment.learning.devices
    apart = devices > 1 and keras.config.backend() == "tensorflow"
    if apart and teaching and teaching.options["loss"] == "dist":
        raise ValueError(
            "loss='dist' correlates the images of the whole batch, of which "
            "TensorFlow gives each device a part. Received: "
            f"devices={devices}. Train on one, or set KERAS_BACKEND=jax."
        )


def _train(experiment, dataset, out, stop, devices, *, progress, **options):
    splits = split(dataset, experiment.partition)
    teaching = experiment.teaching
    student = Stage(
        "student" if teaching and teaching.assistants else "",
        experiment,
        out / experiment.name.slug,
        stop,
        progress,
        dataset.digest,
        describe_machine(devices),
        provenance.describe_session(),
        **options,
    )
    student.folder.mkdir(parents=True, exist_ok=True)
    taught = find_teachers(student, dataset, splits)
    model = create_network(experiment.network, dataset)
    done = learn(
        model,
        taught.teacher,
        batches(
            splits.fitting,
            experiment.learning,
            dataset,
            cached=taught.cached,
        ),
        splits.monitored,
        student._replace(teachers=taught.digests),
    )
    record = _record(
        experiment,
        dataset,
        splits,
        model,
        done,
        distillation=_with_agreement(taught, model, splits.validation),
        **student.session,
        hardware={
            **_describe_machines(student.machine, done.machines),
            "kernels": done.kernels,
            "loop": "; then ".join(done.loops) or "steps",
        },
    )
    save_model(model, student.folder / MODEL_FILE, dataset.class_names)
    with replacing(student.folder / ENDED_FILE) as unfinished:
        unfinished.write_text(record.to_json() + "\n", encoding="utf-8")
    return record


def _record(experiment, dataset, splits, model, done, **circumstances):
    """What the run was and what came of it."""
    for weight in model.get_weights():
        _check_finite(weight)
    deployed = to_deploy(model)
    test_accuracy, test_predictions = _measure_test(model, dataset)
    validated = evaluation.accuracy_on(model, *splits.validation)
    warnings = find_warnings(
        experiment.learning,
        images=len(splits.fitting.images),
        classes=dataset.classes,
        labels=splits.validation.labels,
        accuracy=validated,
        losses=done.history.get("val_loss", ()),
        absent=splits.absent_from_validation(dataset.class_names),
    )
    return RunRecord(
        **experiment.name._asdict(),
        config=experiment.values,
        recipe=dataclasses.asdict(experiment.learning.recipe),
        data_digest=dataset.digest,
        backend=keras.config.backend(),
        parameters=counting.count_parameters(model),
        deployed_parameters=counting.count_parameters(deployed),
        deployed_macs=counting.count_macs(deployed),
        train_images=len(splits.fitting.images),
        validation_images=len(splits.validation.images),
        test_images=len(dataset.test_images),
        train_loss=done.history["loss"][-1],
        validation_accuracy=validated,
        test_accuracy=test_accuracy,
        best_test_accuracy=(
            max(done.history["val_accuracy"])
            if experiment.partition.protocol == "paper"
            and "val_accuracy" in done.history
            else None
        ),
        history=done.history,
        train_seconds=round(done.seconds, 1),
        test_predictions=test_predictions,
        images={**dataset.describe(), "warnings": warnings},
        **circumstances,
    )


def _with_agreement(taught, model, held_out):
    """What the record says of teachers, with how far the student agrees.

    For each that taught it, and not an assistant: the part of the images held
    out for which it has the same class. Caches have no teacher to ask.
    """
    if taught.teacher is None or not len(held_out.images):
        return taught.described
    models = getattr(taught.teacher, "models", [taught.teacher])
    logits = evaluation.predict_logits(model, held_out.images)
    found = [
        evaluation.agreement(
            logits, evaluation.predict_logits(teacher, held_out.images)
        )
        for teacher in models
    ]
    last = [one["name"] for one in taught.described["teachers"][-len(found) :]]
    return {
        **taught.described,
        "agreement": dict(zip(last, found, strict=True)),
    }


def _check_finite(values):
    """Refuses what came of a training that diverged in its last step."""
    if not np.isfinite(values).all():
        raise ValueError(
            "The trained network's weights or logits are NaN or inf: the "
            "training diverged. Lower `peak_learning_rate` or take more "
            "warm-up; no record was written, the last checkpoint is kept."
        )


def _describe_machines(machine, machines):
    """The one that ended the training, with the sessions before it."""
    before = list(machines[:-1])
    return {**machine, "before": before} if before else machine


def _measure_test(model, dataset):
    """Reads the test split, once: the accuracy, and what was predicted."""
    images, labels = test_split(dataset)
    if not len(images):
        return None, None
    logits = evaluation.predict_logits(model, images)
    _check_finite(logits)
    return (
        evaluation.accuracy(logits, labels),
        predictions.describe(logits, labels, dataset.class_names),
    )
