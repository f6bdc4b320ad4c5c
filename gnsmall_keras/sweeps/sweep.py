"""A sweep: what is left to do of it, and doing that."""

import contextlib
import dataclasses
import datetime
import json
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from gnsmall_keras.config import DistillConfig
from gnsmall_keras.records import (
    RECORD_FILE,
    RunRecord,
    append_line,
    lock,
    scan_records,
)
from gnsmall_keras.sweeps.jobs import Ended, Engine, Job
from gnsmall_keras.sweeps.notebook import (
    check_notebook,
    find_notebook,
    parameters_of,
)
from gnsmall_keras.sweeps.plan import SweepConfig

EXECUTED = "train.ipynb"  # in a run's folder
FAILED_FILE = "failed.jsonl"  # beside the index
LOCK_FILE = "sweep.lock"  # in the folder of all runs


class Todo(NamedTuple):
    """What a sweep has to do."""

    pending: tuple[DistillConfig, ...]
    finished: tuple[DistillConfig, ...]  # have a record already
    repeated: int  # left out, for the file has them already
    faults: tuple[str, ...]  # lines of the index that are no records


class Outcome(NamedTuple):
    """What came of one run: a record or an error."""

    config: DistillConfig
    record: RunRecord | None
    error: str | None
    notebook: Path  # executed, with its outputs or its error
    lost: int = 0  # how often its machine or process went before that


def list_todo(sweep: SweepConfig, index: Path) -> Todo:
    """Returns which runs of a sweep have no record in `index`, each once."""
    scanned = [f for _, f in scan_records(index)] if index.exists() else []
    known = {line.digest for line in scanned if isinstance(line, RunRecord)}
    unique = {config.digest: config for config in sweep.configs}
    return Todo(
        tuple(c for digest, c in unique.items() if digest not in known),
        tuple(c for digest, c in unique.items() if digest in known),
        len(sweep.configs) - len(unique),
        tuple(str(line) for line in scanned if isinstance(line, ValueError)),
    )


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
    begun = [c for c in todo.pending if (out / c.slug).exists()]
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
    names = [field.name for field in dataclasses.fields(DistillConfig)]
    check_notebook(find_notebook(), [*names, "out", "index"])
    out.mkdir(parents=True, exist_ok=True)
    probe = out / "unfinished-sweep"
    probe.touch()
    probe.unlink()


def run_all(
    configs: Sequence[DistillConfig],
    *,
    out: Path,
    index: Path,
    engine: Engine,
    notebook: Path | None = None,
) -> Iterator[Outcome]:
    """Does runs; yields each as it ends, and goes on after one that failed.

    A failure is a line of `failed.jsonl` beside the index.

    Args:
        configs: the runs.
        out: folder of all runs.
        index: file that the notebook appends the run's record to.
        engine: what executes notebooks.
        notebook: what to execute; None: the training notebook.
    """
    jobs = [
        Job(
            config,
            notebook or find_notebook(),
            out / config.slug / EXECUTED,
            parameters_of(config, out, index),
        )
        for config in configs
    ]
    for ended in engine(jobs):
        outcome = _outcome(ended)
        if outcome.error is not None:
            append_line(_failure(outcome), index.with_name(FAILED_FILE))
        yield outcome


def _outcome(ended: Ended) -> Outcome:
    job, error, lost = ended
    record = None
    if error is None:
        try:
            text = job.executed.with_name(RECORD_FILE).read_text("utf-8")
            record = RunRecord.from_json(text)
        except (OSError, ValueError) as fault:
            error = f"The notebook left no record: {fault}"
    return Outcome(job.config, record, error, job.executed, lost)


def _failure(outcome: Outcome) -> str:
    now = datetime.datetime.now(datetime.UTC)
    values = {
        "slug": outcome.config.slug,
        "digest": outcome.config.digest,
        "config": dataclasses.asdict(outcome.config),
        "error": outcome.error,
        "notebook": str(outcome.notebook),
        "ended_at": now.isoformat(timespec="seconds"),
    }
    return json.dumps(values, sort_keys=True)
