"""A sweep: what is left to do of it, and doing that."""

import contextlib
import dataclasses
import datetime
import itertools
import json
from collections.abc import Collection, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gnsmall_keras.config import KNOWN_DATA, RunConfig
from gnsmall_keras.records.folders import begun_name, find_folder
from gnsmall_keras.records.jsonl import append_line
from gnsmall_keras.records.provenance import utc_now
from gnsmall_keras.records.run import (
    FAILED_FILE,
    MODEL_FILE,
    RECORD_FILE,
    RunRecord,
    scan_records,
)
from gnsmall_keras.sweeps.jobs import Ended, Engine, Job, Queue, sorter
from gnsmall_keras.sweeps.notebook import (
    check_notebook,
    find_notebook,
    parameters_of,
)
from gnsmall_keras.sweeps.plan import SweepConfig
from gnsmall_keras.writing import lock

EXECUTED = "train.ipynb"  # in a run's folder
LOCK_FILE = "sweep.lock"  # in the folder of all runs


class Todo(NamedTuple):
    """What a sweep has to do."""

    pending: tuple[RunConfig, ...]  # teachers before their students
    finished: tuple[RunConfig, ...]  # have a record already
    repeated: int  # left out, for the file has them already
    faults: tuple[str, ...]  # lines of the index that are no records


class Outcome(NamedTuple):
    """What came of one run: a record or an error."""

    config: RunConfig
    record: RunRecord | None
    error: str | None
    notebook: Path | None  # executed, with its outputs or its error
    lost: int = 0  # how often its machine or process went before that


def with_images(sweep: SweepConfig) -> SweepConfig:
    """Returns a sweep whose runs on images of one's own are named by these.

    The images are read; those that have changed make other runs.
    """
    found: dict[tuple[Any, ...], Any] = {}

    def settle(config: RunConfig) -> RunConfig:
        if config.data in KNOWN_DATA:
            return config
        # A sweep of known data needs none of them.
        from gnsmall_keras.data.sources import check_source, load_data
        from gnsmall_keras.training.experiment import images_of
        from gnsmall_keras.training.splits import settled

        images = images_of(config)
        if images not in found:
            check_source(images.data)
            # Only the last is kept in memory: runs of one data set follow.
            found.clear()
            found[images] = load_data(images.data, **images.options)
        return settled(config, found[images])

    return dataclasses.replace(sweep, settle=settle)


def list_todo(
    sweep: SweepConfig, index: Path, seeds: Collection[int] = ()
) -> Todo:
    """Returns which runs of a sweep have no record in `index`, each once.

    Args:
        sweep: whose runs.
        index: the file of records.
        seeds: of the runs to do, beside their teachers; empty: all.

    Raises:
        ValueError: if there is no run of one of the seeds.
    """
    known, faults = set[str](), list[str]()
    for _, line in scan_records(index) if index.exists() else ():
        if isinstance(line, RunRecord):
            known.add(line.slug)
        else:
            faults.append(str(line))
    wanted = _of_seeds(sweep.configs, seeds)
    asked = {config.slug: config for config in wanted}
    teachers = _needed(wanted, sweep.teacher_configs)
    unique = {c.slug: c for c in teachers} | asked
    done = [
        config
        for config in unique.values()
        if not known.isdisjoint(name.slug for name in config.names)
    ]
    pending = [config for config in unique.values() if config not in done]
    return Todo(
        tuple(itertools.chain.from_iterable(stages(pending))),
        tuple(done),
        len(wanted) - len(asked),
        tuple(faults),
    )


def _of_seeds(
    configs: Sequence[RunConfig], seeds: Collection[int]
) -> list[RunConfig]:
    there = {config.seed for config in configs}
    missing = sorted(set(seeds) - there)
    if missing:
        raise ValueError(
            "`seeds` must be of the sweep's runs. Received: "
            f"{missing}, where the runs have {sorted(there)}."
        )
    return [c for c in configs if not seeds or c.seed in seeds]


def _needed(
    configs: Sequence[RunConfig], teachers: Sequence[RunConfig]
) -> list[RunConfig]:
    """Those of the teachers that the runs learn from, in their order."""
    names = {name for config in configs for name in config.sources}
    needed: list[RunConfig] = []
    for teacher in reversed(teachers):  # after those that it learns from
        if teacher.slug in names:
            needed.insert(0, teacher)
            names.update(teacher.sources)
    return needed


def stages(configs: Sequence[RunConfig]) -> list[list[RunConfig]]:
    """Returns the runs in stages: each learns from those of earlier ones."""
    by_slug = {config.slug: config for config in configs}
    order = sorter(by_slug)
    found: list[list[RunConfig]] = []
    while ready := order.get_ready():
        found.append([c for slug, c in by_slug.items() if slug in ready])
        order.done(*ready)
    return found


def check_teachers(todo: Todo, out: Path) -> None:
    """Checks that trained models that runs are to learn from are there.

    Recorded runs must be in `out`. Those of the sweep that come first are not
    looked for.

    Raises:
        ValueError: if one is not.
    """
    recorded = {config.slug for config in todo.finished}
    for config in todo.pending:
        for name in recorded.intersection(config.sources):
            if not find_folder(name, out):
                model = out / name / MODEL_FILE
                raise ValueError(
                    f"A recorded teacher needs its model. Received: {name}, "
                    f"for {config.slug}, without {model}. Copy that folder "
                    "from where it was trained, or take its line out of the "
                    "index to train it here."
                )
    ours = recorded | {config.slug for config in todo.pending}
    others = {
        name
        for config in todo.pending
        for name in (*config.teachers, *config.assistants)
        if name not in ours
    }
    if others:
        from gnsmall_keras.training.strategies import (
            find_teacher,
            trained_before,
        )

        for name in trained_before(sorted(others)):
            find_teacher(name, out)


def changed_teachers(
    todo: Todo, out: Path, index: Path
) -> dict[str, list[str]]:
    """Returns recorded runs of a sweep whose teachers have other weights now.

    Only files that are younger than a run are read.

    Args:
        todo: of the sweep.
        out: folder of all runs.
        index: the file of records.

    Returns:
        The teachers' files, by the run's slug.
    """
    slugs = {name.slug for run in todo.finished for name in run.names}
    found: dict[str, list[str]] = {}
    for _, record in scan_records(index) if index.exists() else ():
        if not isinstance(record, RunRecord) or record.slug not in slugs:
            continue
        if not record.distillation:
            continue
        from gnsmall_keras.training.strategies import find_changed

        began = datetime.datetime.fromisoformat(record.started_at).timestamp()
        changed = find_changed(record.distillation, out, since=began)
        if changed:
            found[record.slug] = changed
    return found


@contextlib.contextmanager
def locked(out: Path, index: Path) -> Generator[None]:
    """Keeps other sweeps from a folder and an index.

    Locks are held on `sweep.lock` in the folder and on `<index>.lock`.

    Raises:
        ValueError: if another sweep has one of them.
    """
    locks = {
        out: out / LOCK_FILE,
        index: index.with_name(f"{index.name}.lock"),
    }
    with contextlib.ExitStack() as held:
        for place, path in locks.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock(held.enter_context(path.open("ab")), wait=False)
            except BlockingIOError:
                raise ValueError(
                    f"Another sweep works on {place}. Wait for its end, or "
                    "give another folder and index, and merge the records "
                    "afterwards."
                ) from None
        yield


def check_unbegun(todo: Todo, out: Path) -> None:
    """Checks that nothing of a sweep was done or begun before.

    Raises:
        ValueError: if there is a record or a folder of one of its runs.
    """
    begun = [
        config
        for config in todo.pending
        if any((out / name.slug).exists() for name in config.names)
    ]
    if todo.finished or begun:
        raise ValueError(
            "Without `resume` no run may have a record or a folder. Received: "
            f"{len(todo.finished)} with a record, {len(begun)} with a folder. "
            "Give another `out`, or leave --no-resume out to go on."
        )


def check_sweep(out: Path) -> None:
    """Checks what every sweep needs, before anything is written.

    Raises:
        ValueError: if papermill, its kernel or the notebook is missing.
        OSError: if nothing can be written to `out`.
    """
    names = [field.name for field in dataclasses.fields(RunConfig)]
    check_notebook(find_notebook(), [*names, "out", "index"])
    out.mkdir(parents=True, exist_ok=True)
    probe = out / "unfinished-sweep"
    probe.touch()
    probe.unlink()


def run_all(
    configs: Sequence[RunConfig],
    *,
    out: Path,
    index: Path,
    engine: Engine,
    notebook: Path | None = None,
) -> Iterator[Outcome]:
    """Does runs; yields each as it ends, and goes on after one that failed.

    A run begins once those that it learns from have ended; if one of them
    fails, so does it. A failure is a line of `failed.jsonl` beside the index.

    Args:
        configs: the runs.
        out: folder of all runs.
        index: file that the notebook appends the run's record to.
        engine: what executes notebooks.
        notebook: what to execute; None: the training notebook.
    """
    notebook = notebook or find_notebook()
    queue = Queue(
        Job(
            config,
            notebook,
            out / begun_name(config, out).slug / EXECUTED,
            parameters_of(config, out, index),
        )
        for config in configs
    )
    for ended in engine(queue):
        outcomes = [_outcome(ended)]
        slug = ended.job.config.slug
        queue.end(slug)
        if outcomes[0].error is not None:
            outcomes += [
                Outcome(job.config, None, f"Its teacher {name} failed.", None)
                for job, name in queue.lose(slug)
            ]
        for outcome in outcomes:
            if outcome.error is not None:
                append_line(_failure(outcome), index.with_name(FAILED_FILE))
            yield outcome


def _outcome(ended: Ended) -> Outcome:
    job, error, lost = ended
    record = None
    if error is None:
        try:
            record = RunRecord.read(job.executed.with_name(RECORD_FILE))
        except (OSError, ValueError) as fault:
            error = f"The notebook left no record: {fault}"
    return Outcome(job.config, record, error, job.executed, lost)


def _failure(outcome: Outcome) -> str:
    values = {
        "slug": outcome.config.slug,
        "digest": outcome.config.digest,
        "config": dataclasses.asdict(outcome.config),
        "error": outcome.error,
        "notebook": outcome.notebook and str(outcome.notebook),
        "ended_at": utc_now(),
    }
    return json.dumps(values, sort_keys=True)
