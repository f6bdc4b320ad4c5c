"""From images of your own to a file for a device."""

from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.table import Table

from gnsmall_keras.commands import printing
from gnsmall_keras.commands.arguments import seconds
from gnsmall_keras.commands.images import check_data
from gnsmall_keras.config import Aspect
from gnsmall_keras.config.fit import BudgetName
from gnsmall_keras.lines import percent


def fit(
    data: Annotated[str, tyro.conf.Positional],
    budget: BudgetName | None = None,
    max_bytes: int | None = None,
    max_arena: int | None = None,
    time: str = "30m",
    sizes: int = 3,
    image_size: int = 32,
    channels: Literal[3, 1] = 3,
    aspect: Aspect = "crop",
    flip: bool | None = None,
    skip_broken: bool = False,
    seed: int = 0,
    out: Path = Path("runs"),
) -> None:
    """Finds the best network for your images that fits a device.

    Exports and checks the .tflite files, and ranks the networks tried.

    After an interruption, the same command resumes.

    Args:
        data: a folder, tar or zip of images, or an .npz.
        budget: memory of the microcontroller: 256 KB of flash and 64 KB of
            arena, 512 and 128 KB, or 1 MB and 256 KB; 72 KB of the flash are
            reserved for code. The default is 1m, of which a limit below
            replaces one part.
        max_bytes: largest .tflite file, instead of the budget's.
        max_arena: largest arena in bytes, instead of the budget's.
        time: time limit: "20m" or "1.5h".
        sizes: how many sizes of the network are tried, the largest that fit.
        image_size: image side in pixels, a multiple of 8 from 32 to 128.
        channels: 3 for RGB, 1 for grey.
        aspect: how images become square: "crop", "pad" or "squash".
        flip: whether mirroring preserves the class (--flip, --no-flip).
        skip_broken: goes on without images that cannot be read.
        seed: of the split, the initial weights, the order and the augmentation.
        out: folder of all runs.
    """
    check_data(data)
    from gnsmall_keras.search.search import fit as search

    found = search(
        data,
        out=str(out),
        tell=printing.show,
        budget=budget,
        max_bytes=max_bytes,
        max_arena=max_arena,
        seconds=seconds(time, "time"),
        sizes=sizes,
        image_size=image_size,
        channels=channels,
        aspect=aspect,
        flip=flip,
        skip_broken=skip_broken,
        seed=seed,
    )
    print_fitted(found)


def print_fitted(found) -> None:
    """Prints the ranked table, what nearly fitted, and what to do next."""
    table = Table(
        "", "network, head", "how", "validation", "int8, test", "bytes"
    )
    table.add_column("arena")
    table.add_column("not taken, for")
    for rank, one in enumerate(found.entries, start=1):
        record, report = one.record, one.report
        measured = percent(report and report.accuracy)
        count = report.evaluated_images if report else 0
        table.add_row(
            f"{rank}",
            f"{one.size}, {one.head_units}",
            one.how if one.how == "alone" else "distilled",
            f"{percent(record.validation_accuracy)} of "
            f"{record.validation_images:,}",
            f"{measured} of {count:,}",
            f"{report.size_bytes:,}" if report else "-",
            f"{report.arena_bytes:,}" if report and report.arena_bytes else "-",
            one.misses or "-",
        )
    printing.console.print(table)
    for rank, one in enumerate(found.entries, start=1):
        if one.path:
            printing.show(f"{rank}: {one.path}")
    for one in found.missed:
        printing.show(
            f"did not fit: {one.size}, head {one.head_units}: {one.misses}"
        )
    if found.page:
        printing.show(f"confusion matrix and worst mistakes: {found.page}")
    best = found.best
    for line in (best.record.images or {}).get("warnings", ()):
        printing.warn(f"warning: {line}")
    printing.show(f"{found.seconds:,.0f} s. The file to take: {best.path}")
    cpp = found.folder / "cpp"
    printing.show(
        f"next: {printing.command('c-array', best.path, '--out', cpp)}"
    )
