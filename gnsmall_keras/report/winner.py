"""The run to deploy."""

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

from gnsmall_keras.records.export import ExportRecord
from gnsmall_keras.records.run import RunRecord
from gnsmall_keras.report.costs import find_files, find_fitting, is_deployable
from gnsmall_keras.report.groups import Group, data_name
from gnsmall_keras.report.reading import Run


def find_winner(
    runs: Iterable[Run],
    *,
    max_parameters: int | None = None,
    max_bytes: int | None = None,
    max_arena_bytes: int | None = None,
    data: str | None = None,
    exports: Sequence[ExportRecord] = (),
) -> RunRecord:
    """Returns the run to deploy: the best one by validation accuracy.

    Of equal ones it is the one with fewer deployed parameters, then with fewer
    multiply-accumulates. Test accuracy is not looked at.

    Args:
        runs: to choose from; those without a validation split are left out.
        max_parameters: at most so many when deployed.
        max_bytes: at most so large as an int8 file; runs of a network of which
            no file is known are left out.
        max_arena_bytes: the same of its working memory on TensorFlow Lite
            Micro.
        data: the name of the data; needed where runs are on several.
        exports: what is known of files.

    Raises:
        ValueError: if none is left, or those left are on different images; or
            if a file's sizes are limited and no export record says any.
    """
    of_files = {"max_bytes": max_bytes, "max_arena_bytes": max_arena_bytes}
    limited = any(most is not None for most in of_files.values())
    if limited:
        check_exports(exports)
    fitting = [
        record
        for record in _choose(runs, max_parameters, data)
        if not limited or find_fitting(record, exports, **of_files)
    ]
    limits = (
        f"max_parameters={max_parameters}, max_bytes={max_bytes}, "
        f"max_arena_bytes={max_arena_bytes}, data={data!r}"
    )
    _check_fitting(fitting, limits)
    return min(
        fitting,
        key=lambda record: (
            -(record.validation_accuracy or 0.0),
            record.deployed_parameters,
            record.deployed_macs,
            record.slug,
        ),
    )


def _choose(runs, max_parameters, data):
    """Those to choose from, whatever is known of their files."""
    return [
        run.record
        for run in runs
        if run.record.validation_accuracy is not None
        and data in (None, run.record.config["data"], data_name(run.record))
        and (
            max_parameters is None
            or run.record.deployed_parameters <= max_parameters
        )
    ]


def check_exports(exports: Sequence[ExportRecord]) -> None:
    """Checks that winners can be limited by what their files need.

    Raises:
        ValueError: if no record is of an int8 file without faults.
    """
    if not any(map(is_deployable, exports)):
        raise ValueError(
            "Limits of a file need the sizes of exported int8 files. Received: "
            "no record of one. Call `gnsmall export runs/<slug>/model.keras`; "
            "its record goes to exports.jsonl beside index.jsonl."
        )


def _check_fitting(fitting, limits):
    if not fitting:
        raise ValueError(
            "A winner has a validation accuracy and fits the limits. Received: "
            f"{limits}; no record does. Raise the limit, or train with "
            "protocol='validation'."
        )
    if len({record.data_digest for record in fitting}) > 1:
        names = sorted({data_name(record) for record in fitting})
        raise ValueError(
            "Accuracies on different images cannot be compared. Received: runs "
            f"on {names}. Choose with --data."
        )


def find_winners(groups: Iterable[Group], **limits: Any) -> list[RunRecord]:
    """Returns the run to deploy of each data, by `find_winner`.

    Data without a run that has a validation accuracy and fits have none.

    Args:
        groups: to choose from.
        **limits: of `find_winner`; those of files need `check_exports`.
    """
    by_data: dict[str, list[Run]] = {}
    for group in groups:
        by_data.setdefault(group.first.data_digest, []).extend(group.runs)
    found = []
    for runs in by_data.values():
        with contextlib.suppress(ValueError):  # none of them fits
            found.append(find_winner(runs, **limits))
    return found


def count_unknown(
    runs: Iterable[Run],
    exports: Sequence[ExportRecord],
    *,
    max_parameters: int | None = None,
    data: str | None = None,
    micro: bool = False,
) -> int:
    """Returns how many runs `find_winner` leaves out for want of a file.

    Args:
        runs: to choose from.
        exports: what is known of files.
        max_parameters: as `find_winner` has it.
        data: likewise.
        micro: whether the arena is limited, which files for microcontrollers
            alone say.
    """
    return sum(
        not find_files(record, exports, micro=micro)
        for record in _choose(runs, max_parameters, data)
    )
