"""Writes the published networks' table and figure into a Markdown file."""

import os
from pathlib import Path

from gnsmall_keras.report.figures.drawing import render
from gnsmall_keras.report.figures.networks import THEMES, draw_networks
from gnsmall_keras.report.networks import (
    Networks,
    describe_networks,
    tabulate_networks,
)
from gnsmall_keras.report.pages.markdown import (
    BOARD,
    NETWORKS,
    insert_results,
    write_files,
)

FOLDER = "docs/figures"  # from the Markdown file
_BOARD_FOLDER = "figures"
_WIDTH = 600  # pixels, on a wide screen
_COLUMNS = (
    "Latency: XNNPACK, one thread, relative to IC2 in the same run; the "
    "ResNet-8s had random weights. Arena: measured with TensorFlow Lite Micro "
    "on a PC. Instructions (not cycles): per image, with CMSIS-NN and plain C, "
    "without an interpreter, on an emulated Cortex-M4 (QEMU); the ResNet-8s "
    "ran without softmax. With TensorFlow Lite Micro our files need more "
    "instructions (`tflite/micro/README.md`). "
    "-: not measured or not applicable. Sources: "
    "`papermill_runs/exports.jsonl` and `gnsmall_keras/records/cited.jsonl`."
)


def write_networks(
    networks: Networks, *, page: str | os.PathLike[str], board: bool = False
) -> list[Path]:
    """Writes the part between two comments of a page, and its figures.

    Args:
        networks: ours and the peers.
        page: the Markdown file.
        board: the board instead of README's table.

    Returns:
        The files that were written; each is complete or as it was.

    Raises:
        ValueError: if matplotlib is not installed, or `page` does not have
            the two comments.
    """
    path = Path(page)
    drawings = [draw_networks(networks, theme) for theme in THEMES]
    make = make_board if board else make_networks
    text = insert_results(
        path.read_bytes().decode(),
        make(networks, drawings[0].alt, drawings[0].caption),
        where=path,
        marks=BOARD if board else NETWORKS,
    )
    folder = path.parent / (_BOARD_FOLDER if board else FOLDER)
    files = {folder / f"{one.name}.svg": render(one, "svg") for one in drawings}
    files[path] = text.encode()  # last: it shows the others
    return write_files(files)


def make_board(networks: Networks, alt: str, caption: str) -> str:
    """Returns the board in Markdown: a figure and a row for each int8 file.

    Args:
        networks: ours and the peers.
        alt: what the figure shows, for those who cannot see it.
        caption: the figure's.
    """
    return "\n\n".join(
        [
            f"![{alt}]({_BOARD_FOLDER}/networks-light.svg)",
            caption,
            tabulate_networks(networks, board=True).to_markdown(),
            f"MACs: multiply-accumulates of an image. {_COLUMNS}",
            *describe_networks(networks),
        ]
    )


def make_networks(networks: Networks, alt: str, caption: str) -> str:
    """Returns the table and the figure in Markdown.

    Args:
        networks: ours and the peers.
        alt: what the figure shows, for those who cannot see it.
        caption: the figure's.
    """
    figure = (
        "<picture>\n"
        '  <source media="(prefers-color-scheme: dark)" '
        f'srcset="{FOLDER}/networks-dark.svg">\n'
        f'  <img alt="{alt}" src="{FOLDER}/networks-light.svg" '
        f'width="{_WIDTH}">\n'
        "</picture>"
    )
    return "\n\n".join(
        [
            figure,
            caption,
            tabulate_networks(networks).to_markdown(),
            "Accuracy: CIFAR-10's 10,000 test images, by LiteRT's XNNPACK on "
            'a PC. GN-S 1 is GhostNetV3-Small of width 1; "no gates" is '
            'without its attention gates; "head" is the number of units '
            "before the classifier (1,280 if not given). IC1 and IC2 are the "
            f"small and the large ResNet-8 of MLPerf Tiny. {_COLUMNS}",
            *describe_networks(networks),
        ]
    )
