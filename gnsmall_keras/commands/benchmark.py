"""The command that measures files, and shows the published ones in a table."""

from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from gnsmall_keras.commands import printing
from gnsmall_keras.commands.arguments import OUR_FILES, OUR_INDEX
from gnsmall_keras.devices.runtime import Runtime, installed_runtimes
from gnsmall_keras.lines import percent
from gnsmall_keras.writing import check_writable, replacing

_FILE = (
    *("int8 accuracy, %", "file, bytes", "operators", "arena, bytes"),
    "evidence",
)


def benchmark(
    files: Annotated[tuple[Path, ...], tyro.conf.Positional] = (),
    runtimes: tuple[Runtime, ...] = (),
    threads: tuple[int, ...] = (1,),
    rounds: int = 30,
    profile: bool = False,
    out: Path | None = None,
    exports: Path | None = None,
    adb: Path | None = None,
    board: bool = False,
    index: Path | None = None,
    published: Path | None = None,
) -> None:
    """Prints the latency of .tflite files and of MLPerf Tiny's ResNet-8.

    Args:
        files: classifiers, as `gnsmall export` writes them.
        runtimes: by default all that are installed, but TensorFlow Lite Micro
            for the files alone that it takes.
        threads: counts to measure.
        rounds: turns of each file, of 20 ms or one call; with `adb` of 50
            calls.
        profile: prints what the operators take as well.
        out: a JSON file for the report; of `board` a Markdown file, where it
            comes between two comments.
        exports: JSON-lines file of export records that get the latencies.
        adb: LiteRT's benchmark_model for Android; measures on the phone that
            is connected, instead of here.
        board: prints the published files beside others' int8 files on CIFAR-10,
            from records; `files`, such as MLPerf Tiny's, are measured on the
            test images.
        index: of `board`, the JSON-lines file of run records, by default
            papermill_runs/index.jsonl.
        published: of `board`, the folder of our files and their reports, by
            default tflite.
    """
    from gnsmall_keras.devices.benchmark import (
        benchmark,
        check_recordable,
        record_latencies,
    )

    for name, file in (("out", out), ("exports", exports)):
        if file is not None:
            check_writable(file, name)
    if not board and (index or published):
        raise ValueError(
            "--index and --published are of the board. Received: one without "
            "it. Add --board."
        )
    of_a_pc = bool(runtimes or profile or exports)
    if adb is not None:
        _check_phone(of_a_pc or board, threads)
        _benchmark_on_phone(files, adb, threads[0], rounds, out)
        return
    if board:
        if of_a_pc or threads != (1,):
            raise ValueError(
                "--board is of LiteRT with one thread. Leave --runtimes, "
                "--threads, --profile and --exports out."
            )
        _show_board(
            files, rounds, index or OUR_INDEX, published or OUR_FILES, out
        )
        return
    if exports is not None:
        check_recordable(files, exports, runtimes=runtimes, threads=threads)
    report = benchmark(
        files,
        runtimes=runtimes,
        threads=threads,
        rounds=rounds,
        profile=profile,
    )
    _print_benchmark(report)
    if not runtimes:
        _tell_what_micro_refuses(report)
    _write(report, out)
    if exports is not None:
        record_latencies(report, exports)


def _check_phone(others, threads):
    if others or len(threads) != 1:
        raise ValueError(
            "--adb goes with --threads of one number, --rounds and --out "
            "alone. Leave --runtimes, --profile, --exports and --board out."
        )


def _benchmark_on_phone(files, binary, threads, rounds, out):
    from gnsmall_keras.devices.phone import benchmark_on_phone

    report = benchmark_on_phone(files, binary, threads=threads, rounds=rounds)
    _print_phone(report)
    _write(report, out)


def _show_board(files, rounds, index, published, out):
    from gnsmall_keras.data.sources import load_data
    from gnsmall_keras.records.cited import read_cited
    from gnsmall_keras.report.board import measure_networks
    from gnsmall_keras.report.networks import (
        describe_networks,
        find_networks,
        tabulate_networks,
    )
    from gnsmall_keras.report.pages.networks import write_networks
    from gnsmall_keras.report.reading import read_runs

    reading = read_runs(index)
    for fault in reading.faults:
        printing.warn(f"warning: {fault}")
    networks = find_networks(published, reading, read_cited())
    if files:
        networks = measure_networks(
            networks,
            files,
            load_data("cifar10"),
            published=published,
            rounds=rounds,
        )
    table = tabulate_networks(networks, board=True)
    costs = [name for name in table.header if name not in ("network", *_FILE)]
    for left_out in (costs, _FILE):  # in two, which 80 columns hold
        printing.print_table(table.without(*left_out))
    for line in describe_networks(networks):
        printing.show(line)
    if out is not None:
        printing.wrote(*write_networks(networks, page=out, board=True))


def _write(report, out):
    if out is not None:
        with replacing(out) as unfinished:
            unfinished.write_text(report.to_json() + "\n", encoding="utf-8")
        printing.wrote(out)


def _print_benchmark(report):
    """Prints sizes, latencies and their ratios to the references'."""
    measured = [*report.files, *report.references]
    names = _names([file.name for file in measured])
    sizes = Table("file", "bytes", "arena", "file's MACs", "operators")
    sizes.columns[0].overflow = "fold"
    for file in measured:
        arena = "-" if file.arena_bytes is None else f"{file.arena_bytes:,}"
        sizes.add_row(
            names[file.name],
            f"{file.size_bytes:,}",
            arena,
            f"{file.macs:,}",
            f"{file.ops:,}",
        )
    references = [file.name for file in report.references]
    times = Table("", "runtime, threads", "median", "90 %", "calls")
    times.columns[0].overflow = "fold"
    for name in references:
        times.add_column(f"of {name.partition('-')[2]}")
    for file in measured:
        for latency in file.latencies:
            times.add_row(
                names[file.name],
                f"{latency.runtime}, {latency.threads}",
                f"{latency.median_ms:.3f} ms",
                f"{latency.p90_ms:.3f} ms",
                f"{latency.calls:,}",
                *(f"{latency.ratios[name]:.2f}" for name in references),
            )
    printing.console.print(sizes, times)
    for file in measured:
        _print_profile(file, names[file.name])
    printing.show(
        f"{report.hardware['processor']}, {report.hardware['cores']} cores; "
        "the last columns are medians over MLPerf Tiny's ResNet-8's; a file's "
        "MACs have its normalisation and padded kernels too, which those of "
        "reports and records leave out"
    )


def _tell_what_micro_refuses(report):
    files = [file for file in report.files if file.arena_bytes is None]
    if files and "tflite-micro" in installed_runtimes():
        names = ", ".join(file.name for file in files)
        printing.warn(f"note: TensorFlow Lite Micro does not run {names}.")


def _print_phone(report):
    """Prints what files take on a phone, and their ratios."""
    times = Table("", "mean of a call", "of MLPerf Tiny's large ResNet-8")
    times.columns[0].overflow = "fold"
    names = _names([each.name for each in report.latencies])
    for each in report.latencies:
        milliseconds = f"{each.milliseconds:.3f} ms"
        times.add_row(names[each.name], milliseconds, f"{each.ratio:.2f}")
    printing.console.print(times)
    printing.show(f"{report.phone}, {report.threads} thread(s), XNNPACK")


def _names(paths):
    """Of each path the file's name, or the whole where others have that."""
    short = [Path(path).name for path in paths]
    return {
        path: name if short.count(name) == 1 else path
        for path, name in zip(paths, short, strict=True)
    }


def _print_profile(file, name):
    if not file.profile:
        return
    total = sum(cost.milliseconds for cost in file.profile)
    printing.show(f"{name}: operators alone on LiteRT, one thread")
    table = Table("operator", "count", "MACs", "ms", "share")
    for cost in file.profile:
        table.add_row(
            cost.kind,
            f"{cost.count:,}",
            f"{cost.macs:,}",
            f"{cost.milliseconds:.3f}",
            percent(cost.milliseconds / total),
        )
    printing.console.print(table)
