"""The run to deploy, as `gnsmall report --winner` prints it."""

import hashlib
from pathlib import Path

from gnsmall_keras.commands import printing
from gnsmall_keras.lines import percent


def show_winner(reading, limits, runs):
    """Prints the run to deploy, and what is known of its int8 file.

    Args:
        reading: the records, a `Reading`.
        limits: of `find_winner`, with the name of a "budget".
        runs: folder of all runs, in which the file is looked for.
    """
    from gnsmall_keras.devices.targets import BUDGETS
    from gnsmall_keras.report.costs import find_cost, find_fitting
    from gnsmall_keras.report.winner import count_unknown, find_winner

    budget = BUDGETS.get(limits["budget"])
    of_run = {name: limits[name] for name in ("max_parameters", "data")}
    of_file = {"max_bytes": limits["max_bytes"], "max_arena_bytes": None}
    if budget:
        given = limits["max_bytes"]
        of_file = {
            "max_bytes": min(
                budget.file_bytes if given is None else given, budget.file_bytes
            ),
            "max_arena_bytes": budget.arena_bytes,
        }
    exports = reading.exports
    best = find_winner(reading.runs, exports=exports, **of_run, **of_file)
    if of_file["max_bytes"] is None:
        _print(best, find_cost(best, exports, "bytes"), runs)
        return
    unknown = count_unknown(
        reading.runs, exports, **of_run, micro=budget is not None
    )
    if unknown:
        kind = " for microcontrollers" if budget else ""
        printing.warn(
            f"warning: runs left out, as no file{kind} of their network has a "
            f"record: {unknown}"
        )
    _print(best, find_fitting(best, exports, **of_file), runs)


def _print(record, cost, runs):
    rows = {
        "validation accuracy": percent(record.validation_accuracy),
        "validation images": f"{record.validation_images:,}",
        "test accuracy (not chosen by)": percent(record.test_accuracy),
        "deployed parameters": f"{record.deployed_parameters:,}",
        "deployed multiply-accumulates": f"{record.deployed_macs:,}",
        "data": record.config["data"],
        "epochs": f"{record.recipe['epochs']:,}",
        "seed": f"{record.config['seed']}",
    }
    if cost:
        rows |= _describe_file(cost, runs)
    printing.show(record.slug)
    for name, value in rows.items():
        printing.show(f"  {name}: {value}")


def _describe_file(cost, runs):
    """Rows of an int8 file; of another run's, what the network decides."""
    report = cost.export.report
    whose = "" if cost.own else f", of {cost.export.source['slug']}'s"
    rows = {"int8 file": f"{cost.value:,} bytes{whose}"}
    if report.get("arena_bytes") is not None:
        rows["arena on TFLite Micro"] = f"{report['arena_bytes']:,} bytes"
    if not cost.own:
        return rows
    if report.get("accuracy") is not None:
        rows["int8 accuracy"] = (
            f"{percent(report['accuracy'])} of {report['evaluated_images']:,} "
            "test images"
        )
    path = _find_file(cost.export, runs)
    if path:
        rows["path"] = str(path)
    return rows


def _find_file(export, runs: Path):
    """The file in the folder of its run, if those bytes are still there."""
    path = runs / export.source["slug"] / Path(export.report["path"]).name
    if not path.is_file():
        return None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return path if digest == export.sha256 else None
