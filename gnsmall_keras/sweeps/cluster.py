"""Executes notebooks on a Ray cluster, each in a process of its own."""

import contextlib
import functools
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gnsmall_keras.config import KERNELS_VARIABLE, LOOP_VARIABLE
from gnsmall_keras.lines import one_line
from gnsmall_keras.records.folders import find_folder
from gnsmall_keras.records.run import (
    INDEX_FILE,
    MODEL_FILE,
    RECORD_FILE,
    RunRecord,
    append_record,
    scan_records,
)
from gnsmall_keras.sweeps import process
from gnsmall_keras.sweeps.connection import (
    check_address,
    connect,
    count_places,
    has_token,
    ray_package,
)
from gnsmall_keras.sweeps.jobs import (
    Ended,
    Engine,
    Job,
    Queue,
    check_workers,
)
from gnsmall_keras.sweeps.process import SHARING, Ending
from gnsmall_keras.sweeps.worker import LOCK_FILE
from gnsmall_keras.writing import replacing

_STARTS = 3  # of one run, where its machine or process is lost
_POLL_SECONDS = 1
# In which an interrupted run writes a checkpoint and that comes home.
_STOP_SECONDS = 60
# What decides a result: a machine of the cluster has them from the sweep. Ray
# would set the threads itself, to one.
_FROM_SWEEP = (
    KERNELS_VARIABLE,
    LOOP_VARIABLE,
    "KERAS_BACKEND",
    "OMP_NUM_THREADS",
    "TF_ENABLE_ONEDNN_OPTS",
)
_FROM_NODE = ("GNSMALL_DATA",)  # and from the sweep where there is none


class _Task(NamedTuple):
    """What goes to a machine of the cluster."""

    job: Job  # with paths as the sweep's machine has them
    notebook: str  # its text
    token: str  # of the lock file, by which the same folder is known
    files: dict[str, bytes]  # of the run's folder, by their names in it
    models: dict[str, bytes]  # of the runs that it learns from, by their slugs
    folder: str  # in which the sweep works
    variables: dict[str, str]


class _Result(NamedTuple):
    """What comes back."""

    ending: Ending
    files: dict[str, bytes] | None  # None: they are where they belong


class _Attempt(NamedTuple):
    """A job and how often it was lost before."""

    job: Job
    lost: int = 0


def ray_engine(
    workers: int | None = None, address: str | None = None
) -> Engine:
    """Returns what executes jobs as tasks of a Ray cluster.

    Args:
        workers: tasks at a time; None: one for each GPU, else for each machine.
        address: host:port of a cluster that this machine belongs to, or
            "auto"; None: RAY_ADDRESS, else Ray is started on this machine, and
            ended with the jobs.

    Raises:
        ValueError: if there is no worker, Ray is not installed or nothing
            listens at the address; when it is called, if what listens is no
            cluster, or it has no machine for one of the jobs.
    """
    check_workers(workers)
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    # Ray reads these when it is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address != "local" and has_token():
        # As `ray start --head` does since Ray 2.60; clusters without tokens
        # take no notice of one.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        ray_package()
    except ImportError:
        raise ValueError(
            "The engine 'ray' needs the extra `cluster`. "
            "Run: pip install 'gnsmall-keras[cluster]'"
        ) from None
    if address not in ("auto", "local"):
        check_address(address)
    return functools.partial(_run, workers=workers, address=address)


def _run(queue: Queue, *, workers: int | None, address: str) -> Iterator[Ended]:
    if not queue:
        return
    connect(address)
    try:
        gpus, machines = count_places(queue.all)
        places = workers or gpus or machines
        yield from _run_on(queue, places, gpus)
    finally:
        ray_package().shutdown()


def _run_on(queue: Queue, places: int, gpus: int) -> Iterator[Ended]:
    ray = ray_package()
    again: list[_Attempt] = []  # lost with their machines
    started: dict[Any, _Attempt] = {}
    try:
        while queue or again or started:
            while len(started) < places:
                if again:
                    attempt = again.pop()
                elif job := queue.take():
                    attempt = _Attempt(job)
                else:
                    break
                share = gpu_share(attempt.job.config.devices, places, gpus)
                started[_submit(attempt.job, share)] = attempt
            done, _ = ray.wait(list(started), timeout=_POLL_SECONDS)
            for task in done:
                attempt = started.pop(task)
                ended = _ended(task, attempt)
                if ended:
                    yield ended
                else:
                    again.append(attempt._replace(lost=attempt.lost + 1))
    finally:
        _stop(started)


def gpu_share(devices: int, places: int, gpus: int) -> float:
    """Returns how many GPUs a job takes, a part of one where they share it."""
    if not gpus:
        return 0
    together = -(-places // gpus)
    if devices > 1 or together == 1:
        return devices
    return 10_000 // together / 10_000  # Ray counts in such parts


def _submit(job: Job, gpus: float) -> Any:
    home = job.executed.parent.resolve()
    home.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex
    (home / LOCK_FILE).write_text(token)
    parameters = {
        **job.parameters,
        **{
            name: str(Path(job.parameters[name]).resolve())
            for name in ("out", "index")
        },
    }
    names = (*_FROM_SWEEP, *_FROM_NODE)
    variables = {n: os.environ[n] for n in names if n in os.environ}
    task = _Task(
        job._replace(executed=home / job.executed.name, parameters=parameters),
        job.notebook.read_text("utf-8"),
        token,
        _read_files(home),
        _read_models(job, home.parent),
        str(Path.cwd()),
        {**variables, **(SHARING if 0 < gpus < 1 else {})},
    )
    return (
        ray_package()
        .remote(_perform)
        .options(
            num_cpus=1,
            num_gpus=gpus,
            max_retries=0,  # an attempt has the checkpoint of the one before
            scheduling_strategy="SPREAD",
        )
        .remote(task)
    )


def _perform(task: _Task) -> _Result:
    """Executes a job on a machine of the cluster.

    In the run's folder, where the machine has that; else in a folder of its
    own, whose files go back.
    """
    with tempfile.TemporaryDirectory(
        prefix="gnsmall-", ignore_cleanup_errors=True
    ) as name:
        own = Path(name)
        notebook = own / task.job.notebook.name
        notebook.write_text(task.notebook, "utf-8")
        job = task.job._replace(notebook=notebook)
        shared = _sees(task)
        if not shared:
            job = _moved(job, own / "runs")
            _write_files(task.files, job.executed.parent)
            for slug, model in task.models.items():
                _write_files({MODEL_FILE: model}, own / "runs" / slug)
        run = process.start(
            job,
            _environment(task.variables),
            folder=Path(task.folder) if Path(task.folder).is_dir() else own,
        )
        with contextlib.suppress(KeyboardInterrupt):  # Ray's; files go back
            process.wait(run)
        return _Result(
            process.ending_of(run),
            None if shared else _read_files(job.executed.parent),
        )


def _sees(task: _Task) -> bool:
    path = task.job.executed.with_name(LOCK_FILE)
    try:
        return path.read_text() == task.token
    except OSError:
        return False


def _moved(job: Job, out: Path) -> Job:
    home = job.executed.parent
    return job._replace(
        executed=out / home.name / job.executed.name,
        parameters={
            **job.parameters,
            "out": str(out),
            "index": str(out / INDEX_FILE),
        },
    )


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    own = {n: v for n, v in os.environ.items() if n not in _FROM_SWEEP}
    kept = {n: own[n] for n in _FROM_NODE if n in own}
    return {**own, **variables, **kept}


def _read_files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != LOCK_FILE
    }


def _read_models(job: Job, runs: Path) -> dict[str, bytes]:
    places = {
        name: find_folder(name, runs)
        for name in job.config.sources
        if Path(name).name == name  # no path, but a run
    }
    return {
        name: (place / MODEL_FILE).read_bytes()
        for name, place in places.items()
        if place
    }


def _write_files(files: Mapping[str, bytes], folder: Path) -> None:
    """Makes a folder hold these files alone, each complete or not there."""
    for name in set(_read_files(folder)) - set(files):
        (folder / name).unlink()
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as unfinished:
            unfinished.write_bytes(content)


def _ended(task: Any, attempt: _Attempt) -> Ended | None:
    """Returns how an attempt ended; None if it is to be made again."""
    from ray.exceptions import RayError, RayTaskError

    job, lost = attempt
    try:
        result: _Result = ray_package().get(task)
    except RayTaskError as error:  # the package is not there, for example
        told: Any = error  # with the error of the task as its cause
        text = one_line(told.cause)
        return Ended(job, f"Ray could not do the task: {text}", lost)
    except RayError as error:
        result = _Result(Ending(type(error).__name__, killed=True), None)
    _bring_home(result, job)
    if not result.ending.killed or _recorded(job):
        error = None if result.ending.killed else result.ending.error
        return Ended(job, error, lost)
    if lost + 1 < _STARTS:
        return None
    text = f"The worker was lost {lost + 1} times: {result.ending.error}"
    return Ended(job, text, lost + 1)


def _bring_home(result: _Result, job: Job) -> None:
    """Writes files and the record; a shared folder has both already."""
    if result.files is None:
        return
    _write_files(result.files, job.executed.parent)
    if result.ending.error is None and RECORD_FILE in result.files:
        with contextlib.suppress(ValueError):  # the sweep tells of it
            record = RunRecord.from_json(result.files[RECORD_FILE].decode())
            append_record(record, job.parameters["index"])


def _recorded(job: Job) -> bool:
    """Whether a worker finished the run before it was lost."""
    index = Path(job.parameters["index"])
    slugs = {name.slug for name in job.config.names}
    return index.exists() and any(
        isinstance(record, RunRecord) and record.slug in slugs
        for _, record in scan_records(index)
    )


def _stop(started: Mapping[Any, _Attempt]) -> None:
    """Ends what still runs, and brings its checkpoints home."""
    from ray.exceptions import RayError

    ray = ray_package()
    if not started:
        return
    for task in started:
        ray.cancel(task)
    done, _ = ray.wait(
        list(started), num_returns=len(started), timeout=_STOP_SECONDS
    )
    for task in done:
        try:
            _bring_home(ray.get(task), started[task].job)
        except RayError:  # it had not begun, or is lost
            continue
