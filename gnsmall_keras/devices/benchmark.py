"""How long .tflite files take, beside MLPerf Tiny's networks.

All files are measured in turn, in short slices, round after round, so that what
else the machine does meets all of them: their ratios hold where their
milliseconds do not.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gnsmall_keras.devices.checks import read_contents
from gnsmall_keras.devices.engines import read_file
from gnsmall_keras.devices.resnet8 import LARGE, RESNET8, resnet8
from gnsmall_keras.devices.runtime import TFLiteModel, installed_runtimes
from gnsmall_keras.export.operators import count_macs, split
from gnsmall_keras.quiet import LITERT_REMARKS, quiet_stderr
from gnsmall_keras.records.export import (
    LatencyRecord,
    append_latency,
    find_export,
)
from gnsmall_keras.records.provenance import (
    describe_hardware,
    package_versions,
    utc_now,
)

# A turn in a round, of a file and of an operator; at least one call.
_SLICE_SECONDS = 0.02
_OPERATOR_SLICE_SECONDS = 0.001
_MOST = 1024  # threads or rounds
_RECORDED = ("litert", 1)  # runtime and threads of latencies in records


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latency:
    """Of one call, on one runtime, after warm-up.

    Attributes:
        runtime: as `TFLiteModel` names it.
        threads: offered to it.
        median_ms: in milliseconds.
        p90_ms: nine of ten calls are faster.
        calls: that were measured.
        ratios: of the median to a reference network's in the same run.
    """

    runtime: str
    threads: int
    median_ms: float
    p90_ms: float
    calls: int
    ratios: dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OperatorCost:
    """Of all operators of a kind, each alone in a file, by LiteRT."""

    kind: str
    count: int
    macs: int
    milliseconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileBenchmark:
    """What one file is and takes; `arena_bytes` on TensorFlow Lite Micro.

    `macs` are those of the file's operators. They are some more than the fused
    network's, which an `ExportReport` has: the normalisation is a convolution
    there, and kernels of 3 x 3 with their padding are of 4 x 4.
    """

    name: str
    sha256: str
    size_bytes: int
    macs: int
    ops: int
    arena_bytes: int | None
    latencies: list[Latency]
    profile: list[OperatorCost]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkReport:
    """Files, reference networks, and the machine they ran on."""

    files: list[FileBenchmark]
    references: list[FileBenchmark]
    rounds: int
    measured_at: str  # UTC, ISO 8601
    hardware: dict[str, Any]
    versions: dict[str, str]

    def to_json(self) -> str:
        """Returns the report as indented JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True)


def benchmark(
    paths: Sequence[str | os.PathLike],
    *,
    runtimes: Sequence[str] = (),
    threads: Sequence[int] = (1,),
    rounds: int = 30,
    profile: bool = False,
) -> BenchmarkReport:
    """Measures files beside MLPerf Tiny's two image classifiers.

    Args:
        paths: .tflite classifiers of any image size.
        runtimes: names of `TFLiteModel`; by default all that are installed, but
            TensorFlow Lite Micro for the files alone that it takes.
        threads: counts to measure; TensorFlow Lite Micro always has one.
        rounds: turns of each file, of 20 ms or one call.
        profile: measures LiteRT's operators as well, each alone.

    Raises:
        ValueError: if an argument is out of range, or a runtime cannot run a
            file.
    """
    paths = [os.fspath(path) for path in paths]
    _check(paths, threads, rounds)
    with _reference_files() as references:
        everything = [*paths, *references]
        arenas = {path: _arena(path) for path in everything}
        pairs = _pairs(paths, references, tuple(runtimes), arenas)
        seconds = _measure(pairs, threads, rounds)
        described = {
            path: _describe(
                path,
                references,
                seconds,
                arena_bytes=arenas[path],
                profile_rounds=rounds if profile else 0,
            )
            for path in everything
        }
    return BenchmarkReport(
        files=[described[path] for path in paths],
        references=[described[path] for path in references],
        rounds=rounds,
        measured_at=utc_now(),
        hardware=describe_hardware(),
        versions=package_versions(),
    )


def check_recordable(
    paths: Sequence[str | os.PathLike],
    records: str | os.PathLike,
    *,
    runtimes: Sequence[str] = (),
    threads: Sequence[int] = (1,),
) -> None:
    """Checks that `record_latencies` will take what `benchmark` measures.

    Args:
        paths: as `benchmark` has them.
        records: the JSON-lines file of export records.
        runtimes: as `benchmark` has them.
        threads: likewise.

    Raises:
        ValueError: if the latency that records have is not measured, or a file
            has no record.
    """
    runtime, count = _RECORDED
    runtimes = runtimes or installed_runtimes()
    if runtime not in runtimes or count not in threads:
        raise ValueError(
            f"Records have latencies on the runtime {runtime!r} with one "
            f"thread. Received: runtimes={tuple(runtimes)}, "
            f"threads={tuple(threads)}. Add them to `runtimes` and `threads`."
        )
    for path in paths:
        find_export(records, hashlib.sha256(read_file(path)).hexdigest())


def record_latencies(
    report: BenchmarkReport, records: str | os.PathLike
) -> None:
    """Appends the latencies on LiteRT with one thread to export records.

    Args:
        report: of what passed `check_recordable`.
        records: the JSON-lines file of export records.

    Raises:
        ValueError: if a file has no record.
    """
    for file in report.files:
        latency = next(
            each
            for each in file.latencies
            if (each.runtime, each.threads) == _RECORDED
        )
        append_latency(records, file.sha256, _recorded(latency, report))


def _recorded(latency, report):
    return LatencyRecord(
        runtime=latency.runtime,
        threads=latency.threads,
        median_ms=latency.median_ms,
        p90_ms=latency.p90_ms,
        ratio=latency.ratios[LARGE],
        hardware=report.hardware,
        measured_at=report.measured_at,
    )


def _check(paths, threads, rounds):
    if not paths or len(set(paths)) < len(paths):
        raise ValueError(
            "A benchmark needs one file or more, each once. Received: "
            f"{', '.join(paths) or 'none'}."
        )
    check_counts(threads=tuple(threads), rounds=(rounds,))


def check_counts(**counts: tuple[int, ...]) -> None:
    """Checks counts of threads or rounds.

    Raises:
        ValueError: if one is out of range, or there is none.
    """
    for name, values in counts.items():
        if not values or min(values) < 1 or max(values) > _MOST:
            raise ValueError(
                f"`{name}` must be >= 1 and <= {_MOST}. Received: {values}."
            )


@contextlib.contextmanager
def _reference_files() -> Iterator[dict[str, str]]:
    """Writes the reference networks; yields path -> name."""
    with tempfile.TemporaryDirectory(prefix="gnsmall-") as folder:
        files = {}
        for name, channels in RESNET8.items():
            path = Path(folder) / f"{name}.tflite"
            path.write_bytes(resnet8(channels))
            files[str(path)] = name
        yield files


def _pairs(paths, references, runtimes, arenas):
    """Returns (path, runtime) of what is measured."""
    everything = [*paths, *references]
    chosen = runtimes or installed_runtimes()
    pairs = [(path, runtime) for runtime in chosen for path in everything]
    if runtimes or len(chosen) == 1:
        return pairs
    takes = [path for path in paths if arenas[path] is not None]
    micro = [*takes, *references] if takes else []
    return [
        (path, runtime)
        for path, runtime in pairs
        if runtime != "tflite-micro" or path in micro
    ]


def _measure(pairs, threads, rounds):
    """Returns (path, runtime, threads) -> seconds of each call."""
    runners = {}
    for path, runtime in pairs:
        # The others have one thread, whatever they are offered.
        counts = threads if runtime in ("litert", "tflite-runtime") else (1,)
        for count in counts:
            runner = TFLiteModel(path, runtime=runtime, num_threads=count)
            runner.set_image(_image(runner.input_shape))
            runners[path, runtime, count] = runner
    seconds = {key: [] for key in runners}
    for number in range(rounds + 1):
        for key, runner in runners.items():
            calls = _take_turn(runner.invoke, _SLICE_SECONDS)
            if number:  # the first round warms up
                seconds[key] += calls
    return seconds


def _take_turn(invoke, slice_seconds):
    """Seconds of each call of one slice, the first left out if there are more.

    It has the caches as another file left them.
    """
    calls = []
    began = ended = time.perf_counter()
    while ended - began < slice_seconds:
        started = time.perf_counter()
        invoke()
        ended = time.perf_counter()
        calls.append(ended - started)
    return calls[1:] or calls


def _image(shape):
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, shape[1:], dtype=np.uint8)


def _describe(path, references, seconds, *, arena_bytes, profile_rounds):
    data = Path(path).read_bytes()
    return FileBenchmark(
        name=references.get(path, path),
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        macs=count_macs(data),
        ops=sum(read_contents(data).ops.values()),
        arena_bytes=arena_bytes,
        latencies=[
            _latency(key, references, seconds)
            for key in seconds
            if key[0] == path
        ],
        profile=_profile(data, profile_rounds) if profile_rounds else [],
    )


def _latency(key, references, seconds):
    _, runtime, threads = key
    median = statistics.median(seconds[key])
    return Latency(
        runtime=runtime,
        threads=threads,
        median_ms=1e3 * median,
        p90_ms=1e3 * float(np.quantile(seconds[key], 0.9)),
        calls=len(seconds[key]),
        ratios={
            name: median / statistics.median(seconds[path, runtime, threads])
            for path, name in references.items()
        },
    )


def _arena(path):
    """Bytes on TensorFlow Lite Micro; None where it does not run the file."""
    try:
        return TFLiteModel(path, runtime="tflite-micro").arena_bytes
    except ValueError:
        return None


def _profile(data, rounds):
    """Costs by kind, the largest first."""
    from ai_edge_litert.interpreter import Interpreter

    operators = split(data)
    runners = [Interpreter(model_content=each.file) for each in operators]
    seconds = [[] for _ in runners]
    with quiet_stderr(LITERT_REMARKS):
        for runner in runners:
            runner.allocate_tensors()
    for _ in range(rounds):
        for calls, runner in zip(seconds, runners, strict=True):
            calls += _take_turn(runner.invoke, _OPERATOR_SLICE_SECONDS)
    medians = [1e3 * statistics.median(calls) for calls in seconds]
    costs = {}
    for operator, milliseconds in zip(operators, medians, strict=True):
        count, macs, total = costs.get(operator.kind, (0, 0, 0.0))
        costs[operator.kind] = (
            count + 1,
            macs + operator.macs,
            total + milliseconds,
        )
    profile = [
        OperatorCost(kind=kind, count=count, macs=macs, milliseconds=total)
        for kind, (count, macs, total) in costs.items()
    ]
    return sorted(profile, key=lambda cost: -cost.milliseconds)
