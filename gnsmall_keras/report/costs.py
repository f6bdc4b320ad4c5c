"""What a run's network costs when it is deployed, from records of files."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from gnsmall_keras.devices.targets import is_int8
from gnsmall_keras.records.export import ExportRecord
from gnsmall_keras.records.run import RunRecord


class Cost(NamedTuple):
    """A value, and the file that has it."""

    value: float
    own: bool  # the file is of this run, not of another one's same network
    export: ExportRecord


def _bytes(export: ExportRecord) -> float:
    return export.report["size_bytes"]


def _arena(export: ExportRecord) -> float | None:
    return export.report.get("arena_bytes")


def _latency(export: ExportRecord) -> float | None:
    """As a ratio: milliseconds of two machines are not comparable."""
    return export.latency["ratio"] if export.latency else None


_VALUES: dict[str, Callable[[ExportRecord], float | None]] = {
    "bytes": _bytes,
    "latency": _latency,
}


def find_cost(
    record: RunRecord, exports: Iterable[ExportRecord], what: str
) -> Cost | None:
    """Returns the lowest cost of a run's int8 files that fit their target.

    Where the run has none, it is that of the same network's, from other runs:
    weights change neither operators nor shapes. A file that lacks units of the
    head or gates, which an export can leave out, stands for its run alone.

    Args:
        record: of the run.
        exports: all that are known.
        what: "bytes", or "latency" as a ratio to MLPerf Tiny's large ResNet.
    """
    known = [
        Cost(value, export.run_key == record.key, export)
        for export in exports
        if _is_network(record, export)
        and is_deployable(export)
        and (value := _VALUES[what](export)) is not None
    ]
    return min(known, key=lambda cost: (not cost.own, cost.value), default=None)


def find_files(
    record: RunRecord, exports: Iterable[ExportRecord], *, micro: bool
) -> list[ExportRecord]:
    """Returns the int8 files that say what a run's network needs.

    Files of the run count before those of other runs of the network, as in
    `find_cost`.

    Args:
        record: of the run.
        exports: all that are known.
        micro: whether only those for microcontrollers count, which alone say
            the arena.
    """
    files = [
        export
        for export in exports
        if _is_network(record, export)
        and is_deployable(export)
        and (not micro or export.report["target"] == "micro")
    ]
    own = [export for export in files if export.run_key == record.key]
    return own or files


def find_fitting(
    record: RunRecord,
    exports: Iterable[ExportRecord],
    *,
    max_bytes: int | None,
    max_arena_bytes: int | None,
) -> Cost | None:
    """Returns the smallest of a run's `find_files` that is within all limits.

    With its bytes; None where there is none.
    """
    fitting = [
        Cost(_bytes(export), export.run_key == record.key, export)
        for export in find_files(
            record, exports, micro=max_arena_bytes is not None
        )
        if all(
            most is None or (value is not None and value <= most)
            for value, most in (
                (_bytes(export), max_bytes),
                (_arena(export), max_arena_bytes),
            )
        )
    ]
    return min(fitting, key=lambda cost: cost.value, default=None)


def find_group_cost(
    records: Sequence[RunRecord], exports: Sequence[ExportRecord], what: str
) -> Cost | None:
    """Returns the lowest cost of some runs of one network, as `find_cost`."""
    found = (find_cost(record, exports, what) for record in records)
    known = [cost for cost in found if cost]
    return min(known, key=lambda cost: (not cost.own, cost.value), default=None)


def is_deployable(export: ExportRecord) -> bool:
    """Whether it is an int8 file without faults: what is compared by cost."""
    report = export.report
    return is_int8(report["quantization"]) and not report["faults"]


def _is_network(record, export):
    """Whether a file is of a run's network; its size tells the classes.

    Of another run it is whole, and for images of the same size, which decide
    arena and latency: then it has as many multiply-accumulates.
    """
    source = export.source
    same = all(
        source[name] == record.config.get(name)
        for name in ("model", "width", "head_units")
    ) and (source["deployed_parameters"] == record.deployed_parameters)
    if not same or export.run_key == record.key:
        return same
    return export.is_whole and export.report.get("macs") == record.deployed_macs
