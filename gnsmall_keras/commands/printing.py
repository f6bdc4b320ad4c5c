"""What commands print: tables, lines and a live bar."""

import contextlib
import itertools
import math
import shlex
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from gnsmall_keras.config import TRAINED, ExportConfig
from gnsmall_keras.devices.targets import describe_class, is_int8
from gnsmall_keras.lines import percent, say
from gnsmall_keras.models import spec
from gnsmall_keras.models.catalogue import NETWORKS

# What is printed is text: "[old]" in a path is no style.
console = Console(markup=False, emoji=False)


def show(text: str) -> None:
    """Prints text as it is, however long its lines."""
    console.print(text, highlight=False, soft_wrap=True)


def warn(text: str) -> None:
    """Prints one line beside the output, on standard error."""
    say(f"gnsmall: {text}")


def wrote(*paths: Path) -> None:
    """Says which files were written."""
    for path in paths:
        show(f"Wrote {path}")


def command(*words: object) -> str:
    """Returns a command to copy, with what a shell needs around spaces."""
    return shlex.join(["gnsmall", *map(str, words)])


def warn_of_numbers(file: Path, cure: str) -> None:
    """Says that numbers stand for classes whose names are not known."""
    warn(f"note: no class names are known of {file}: numbers. {cure}")


def exporting(config: ExportConfig) -> contextlib.AbstractContextManager:
    """Shows that a file is made, unless a training has its own line."""
    if config.quantization in TRAINED or config.compress:
        return contextlib.nullcontext()
    return console.status("converting, then running the test images")


def print_table(made) -> None:
    """Prints a report's table; names and titles break, values do not."""
    table = Table(*made.header, box=None, padding=(0, 1, 0, 0), pad_edge=False)
    values = itertools.islice(zip(*made.rows, strict=True), 1, None)
    for column, cells in zip(table.columns[1:], values, strict=False):
        words = itertools.chain(cells, str(column.header).split())
        column.min_width = column.max_width = max(map(len, words))
    for row in made.rows:
        table.add_row(*row)
    console.print(table, "")


def ends(names):
    """The first and the last of many names."""
    if len(names) > 4:
        return f"{names[0]}, {names[1]}, ..., {names[-1]}"
    return ", ".join(names) or "-"


def print_networks():
    """Prints the sizes and sources of all networks."""
    sizes = Table(
        "name",
        "width",
        "parameters",
        "deployed",
        "deployed MACs",
        title="GhostNets: any width > 0 builds",
    )
    for (name, width), counts in spec.COUNTS.items():
        numbers = (f"{number:,}" for number in counts)
        sizes.add_row(name, f"{width:g}", *numbers)
    facts = Table(
        "name", "parameters", "MACs", "what, and whose", title="Networks"
    )
    for name, network in NETWORKS.items():
        facts.add_row(
            name,
            f"{network.parameters:,}",
            f"{network.macs:,}",
            f"{network.what}; {network.source}",
        )
    console.print(facts, sizes)
    console.print(
        "For 32 x 32 x 3 images and 10 classes. Parameters are the trainable "
        "ones; deployed: with every sum of branches fused, as are GhostNets' "
        "MACs."
    )


def print_record(record, folder):
    """Prints what came of a training.

    Args:
        record: of the run.
        folder: of its files.
    """
    show(record.slug)  # a table's title breaks at its width
    table = Table("split", "accuracy", "images")
    table.add_row(
        "validation",
        percent(record.validation_accuracy),
        f"{record.validation_images:,}",
    )
    table.add_row(
        "test", percent(record.test_accuracy), f"{record.test_images:,}"
    )
    if record.best_test_accuracy is not None:
        table.add_row(
            "test, best epoch (the paper's way of selecting)",
            percent(record.best_test_accuracy),
            f"{record.test_images:,}",
        )
    console.print(table)
    show(f"{record.train_seconds:,.0f} s on {record.backend}; files: {folder}")


def print_forms(record, report):
    """Prints the accuracy of a network in all its forms, and of its file."""
    show(record.slug)
    table = Table("", "test accuracy", "images")
    for name, accuracy, images in (
        ("float, branched", record.test_accuracy, record.test_images),
        ("float, fused", report.float_accuracy, report.evaluated_images),
        ("int8 on LiteRT", report.accuracy, report.evaluated_images),
        ("int8 on TFLite Micro", report.micro_accuracy, report.compared_images),
    ):
        table.add_row(name, percent(accuracy), f"{images:,}")
    console.print(table)


def print_summary(report, file, index=None):
    """Prints six lines: what a .tflite file is worth, and what to do next.

    Args:
        report: of the export.
        file: its path.
        index: of the records of runs, where it came of one.
    """
    arena = _arena(report)
    if report.arena_bytes is not None and report.target == "micro":
        arena += f" on TFLite Micro; fits {describe_class(report)}"
    is_micro = (  # c-array needs int8 and an arena
        report.target == "micro"
        and is_int8(report.quantization)
        and report.arena_bytes is not None
    )
    after = [
        command("c-array", file, "--out", "cpp")
        if is_micro
        else command("benchmark", file)
    ]
    if index:
        here = Path.cwd()
        near = index.relative_to(here) if here in index.parents else index
        after.append(command("report", "--index", near))
    lines = {
        "accuracy": f"{percent(report.accuracy)} {report.quantization}, "
        f"{percent(report.float_accuracy)} float32; test images: "
        f"{report.evaluated_images:,}",
        "bytes": f"{report.size_bytes:,}",
        "arena": arena,
        "file": f"{file}",
        "try it": command("classify", file, "IMAGE"),
        "then": "; ".join(after),
    }
    for name, value in lines.items():
        show(f"{name + ':':<10}{value}")


def print_export(report):
    """Prints the report of a .tflite file."""
    show(f"{report.path} for {report.target}")
    table = Table("property", "value")
    rows = {
        "parameters": f"{report.parameters:,}",
        "multiply-accumulates": f"{report.macs:,}",
        "size": f"{report.size_bytes:,} bytes, {report.gzip_bytes:,} by gzip",
        "arena on TFLite Micro": _arena(report),
        "smallest microcontroller": describe_class(report),
        "XNNPACK partitions": f"{report.xnnpack_partitions}",
        **_edge_tpu_row(report.edge_tpu),
        **{each.accelerator: str(each) for each in report.ethos_u or []},
        "float accuracy": percent(report.float_accuracy),
        f"{report.quantization} accuracy": percent(report.accuracy),
        "argmax agreement with float": percent(report.agreement),
        "test images": f"{report.evaluated_images:,}",
        "TFLite Micro - reference": _steps(report.micro_difference_lsb),
        "XNNPACK - reference": _steps(report.xnnpack_difference_lsb),
        "same class there": percent(report.xnnpack_agreement),
        "images compared": f"{report.compared_images:,}",
        "element types": _counts(report.dtypes),
        "operators": _counts(report.ops),
        "violations": "; ".join(report.faults) or "none",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)


def _arena(report):
    if report.arena_bytes is not None:
        return f"{report.arena_bytes:,} bytes"
    if report.knows_micro:
        return "does not run"
    return "unknown: tflite-micro not installed"


def _edge_tpu_row(mapping):
    if not mapping:
        return {}
    total = len(mapping.operators)
    mapped = total if mapping.cut_point is None else mapping.cut_point
    return {
        "on the Edge TPU": f"{mapped} of {total} operators, "
        f"{mapping.parameter_bytes:,} bytes of parameters (predicted)"
    }


def _steps(difference):
    return "-" if difference is None else f"{difference} LSB"


def print_layer_errors(layers):
    """Prints the operators of an int8 file, those with most noise first."""
    table = Table(
        "layer",
        "operator",
        "output",
        "noise, dB",
        "error, steps",
        "clipped",
        title="noise of int8 against the float network",
    )
    worst = sorted(
        layers,
        key=lambda one: math.inf if one.sqnr_db is None else one.sqnr_db,
    )
    for entry in worst:
        steps = entry.error_steps
        table.add_row(
            entry.layer,
            entry.op,
            "x".join(map(str, entry.shape[1:])),
            "-" if entry.sqnr_db is None else f"{-entry.sqnr_db:.1f}",
            "-" if steps is None else f"{steps:.2f}",
            percent(entry.clipped),
        )
    console.print(table)


def print_todo(todo):
    """Prints how much a sweep has to do; returns that."""
    for fault in todo.faults:
        warn(f"no record: {fault}")
    show(
        f"runs: {len(todo.pending)} to do, {len(todo.finished)} already "
        f"recorded, {todo.repeated} duplicates left out"
    )
    return todo


def print_outcomes(outcomes, total):
    """Prints a line for each run that ends; returns how many failed."""
    failed = 0
    with Progress(
        TextColumn("runs"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not sys.stdout.isatty(),
        transient=True,
    ) as live:
        bar = live.add_task("", total=total)
        for number, outcome in enumerate(outcomes, start=1):
            live.advance(bar)
            if outcome.record:
                told = _accuracies(outcome.record)
            else:
                failed += 1
                told = f"failed: {outcome.error}"
                if outcome.notebook:
                    told += f" (see {outcome.notebook})"
            if outcome.lost:
                told += f" (workers lost before: {outcome.lost})"
            show(f"{number}/{total} {outcome.config.slug}: {told}")
    show(f"runs: {total - failed} finished, {failed} failed")
    return failed


def _accuracies(record):
    return (
        f"validation {percent(record.validation_accuracy)}, test "
        f"{percent(record.test_accuracy)}, {record.train_seconds:,.0f} s"
    )


def _counts(counts):
    return ", ".join(f"{count} {name}" for name, count in counts.items())
