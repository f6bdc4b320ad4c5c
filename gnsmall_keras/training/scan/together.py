"""Several runs alike as one program, each with its own checkpoint."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gnsmall_keras.config import RunConfig, check_together
from gnsmall_keras.data.dataset import Dataset
from gnsmall_keras.data.sources import load_data
from gnsmall_keras.lines import say
from gnsmall_keras.native.choice import using
from gnsmall_keras.records import provenance
from gnsmall_keras.records.folders import CHECKPOINT_FILE, begun_name
from gnsmall_keras.records.run import RECORD_FILE
from gnsmall_keras.training import checkpoint
from gnsmall_keras.training.devices import describe_machine, on_devices
from gnsmall_keras.training.experiment import (
    Experiment,
    images_of,
    resolve,
)
from gnsmall_keras.training.fit import create_network, make_distiller
from gnsmall_keras.training.fitting import Fitting, Stage, prepare
from gnsmall_keras.training.holding import holding
from gnsmall_keras.training.interruption import (
    StopRequest,
    TrainingInterrupted,
)
from gnsmall_keras.training.scan.choice import why_no_chunks
from gnsmall_keras.training.scan.loop import ScanLoop
from gnsmall_keras.training.scan.single import (
    plain_errors,
    run_of,
    training_part,
    validation_part,
)
from gnsmall_keras.training.splits import batches, places, settled, split
from gnsmall_keras.training.strategies import Taught, find_teachers

_TUNED = ("peak_learning_rate", "label_smoothing")


class _Group(NamedTuple):
    """What runs of one call have in common."""

    dataset: Dataset
    out: Path
    stop: StopRequest
    machine: dict[str, Any]
    session: dict[str, Any]
    progress: bool
    taught: dict[tuple[str, ...], Taught]  # by the teachers' names


def train_together(
    configs: Sequence[RunConfig],
    *,
    out: str | os.PathLike = "runs",
    progress: bool = True,
    time_budget: float | None = None,
    device: str = "auto",
) -> dict[str, str]:
    """Trains runs as one program, up to the last checkpoint of each.

    `train` then finds each trained, and measures and records it. A run that
    diverges is left at its last checkpoint, and does not stop the others.

    Args:
        configs: differ in seed, rate, smoothing, label weight, temperature and
            whose logits they learn from.
        out: folder of all runs.
        progress: whether to print a line per run and epoch.
        time_budget: seconds after which to stop, with checkpoints.
        device: "cpu", "gpu" or "auto".

    Returns:
        Why runs stopped before their end, by their slugs.

    Raises:
        ValueError: if they do not fit together, or it is not possible here.
        TrainingInterrupted: if they were stopped before their end.
    """
    check_together(configs)
    images = images_of(configs[0])
    dataset = load_data(images.data, **images.options)
    experiments = []
    for config in configs:
        config = settled(config, dataset)
        experiments.append(resolve(config, begun_name(config, Path(out))))
    errors: dict[str, str] = {}
    with contextlib.ExitStack() as held:
        for experiment in experiments:
            held.enter_context(holding(Path(out) / experiment.name.slug))
        stop = held.enter_context(StopRequest(time_budget).listening())
        devices = held.enter_context(on_devices(device, 1))
        held.enter_context(using("keras"))
        machine = describe_machine(devices)
        session = provenance.describe_session()
        group = _Group(dataset, Path(out), stop, machine, session, progress, {})
        held.enter_context(plain_errors())
        for part in _alike_in_progress(experiments, Path(out)):
            _train(part, group, errors)
    return errors


def _alike_in_progress(
    experiments: Sequence[Experiment], out: Path
) -> list[list[Experiment]]:
    """Runs in groups that are equally far; those that are done are left out."""
    found: dict[tuple[int, int], list[Experiment]] = {}
    for experiment in experiments:
        folder = out / experiment.name.slug
        path = folder / CHECKPOINT_FILE
        if (folder / RECORD_FILE).is_file() and not path.is_file():
            continue
        far = checkpoint.how_far(path)
        if far[0] < experiment.learning.recipe.epochs:
            found.setdefault(far, []).append(experiment)
    return [*found.values()]


def _train(
    experiments: list[Experiment], group: _Group, errors: dict[str, str]
) -> None:
    """Trains them together; half as many at a time where memory is short."""
    from jax.errors import JaxRuntimeError

    try:
        _train_all(experiments, group, errors)
    except JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) or len(experiments) == 1:
            raise
        half = len(experiments) // 2
        say(
            f"{len(experiments)} runs together are too many for the memory: "
            f"{half} and {len(experiments) - half} are taken instead."
        )
        for part in (experiments[:half], experiments[half:]):
            _train(part, group, errors)


def _train_all(experiments, group, errors):
    fittings = [_prepare(e, group, len(experiments)) for e in experiments]
    first = fittings[0]
    reason = why_no_chunks(first.distiller, 1)
    if reason:
        raise ValueError(f"Runs cannot train together here: {reason}.")
    try:
        loop = _loop_of(fittings, experiments, group)
        with contextlib.ExitStack() as caring:
            for fitting in fittings:
                labels = fitting.batches.labels
                caring.enter_context(
                    fitting.distiller.fitting(labels, fitting.validation)
                )
            loop.train(first.before.epochs, first.before.steps, first.epochs)
    except (ValueError, OSError) as error:
        if len(fittings) > 1:
            raise
        errors[experiments[0].name.slug] = str(error)
        return
    finally:
        for fitting in fittings:
            fitting.close()
    for number, error in loop.errors.items():
        if isinstance(error, TrainingInterrupted):
            raise error
        errors[experiments[number].name.slug] = str(error)


def _prepare(experiment: Experiment, group: _Group, count: int) -> Fitting:
    """Makes one of `count` runs ready."""
    dataset, slug = group.dataset, experiment.name.slug
    splits = split(dataset, experiment.partition)
    stage = Stage(
        slug,
        experiment,
        group.out / slug,
        group.stop,
        group.progress,
        dataset.digest,
        group.machine,
        group.session,
    )
    names = experiment.teaching.teachers if experiment.teaching else ()
    taught = group.taught.get(names) if names else None
    if taught is None:
        taught = find_teachers(stage, dataset, splits)
        group.taught[names] = taught
    stage = stage._replace(teachers=taught.digests)
    own = batches(
        splits.fitting,
        experiment.learning,
        dataset,
        cached=taught.cached,
    )
    model = create_network(experiment.network, dataset)
    distiller = make_distiller(model, taught.teacher, len(own), stage)
    loop = f"chunks, {count} runs" if count > 1 else "chunks"
    return prepare(
        distiller, own, splits.monitored, stage, loop=loop, together=count
    )


def _loop_of(fittings, experiments, group) -> ScanLoop:
    """One loop over images that all runs share."""
    dataset, first = group.dataset, fittings[0]
    of_each = [places(dataset, e.partition) for e in experiments]
    recipes = [e.learning.recipe for e in experiments]
    differ = [
        name for name in _TUNED if len({getattr(r, name) for r in recipes}) > 1
    ]
    runs = []
    for fitting, recipe, (fitted, held) in zip(
        fittings, recipes, of_each, strict=True
    ):
        numbers: dict[str, Any] = {
            n: np.float32(getattr(recipe, n)) for n in differ
        }
        own = {"rows": fitted.astype(np.int32), **numbers}
        validated = {**numbers}
        if len(held):
            validated["rows"] = held.astype(np.int32)
        runs.append(run_of(fitting, own=own, validated=validated))
    validation = validation_part(first.validation, first.distiller)
    training = training_part(
        first.batches, dataset.train_images, dataset.train_labels
    )
    if validation and len(of_each[0][1]):
        shared = {
            "images": dataset.train_images,
            "labels": np.asarray(dataset.train_labels, np.int32),
        }
        validation = validation._replace(data={**validation.data, **shared})
    return ScanLoop(runs, training, validation, group.stop)
