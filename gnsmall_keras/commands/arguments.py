"""Kinds of arguments that several commands have."""

import dataclasses
import re
from pathlib import Path
from typing import Annotated

import tyro

from gnsmall_keras.config import Aspect, Device, Kernels, Loop

PositionalPath = Annotated[Path, tyro.conf.Positional]
Flat = tyro.conf.OmitArgPrefixes
# Of a checkout: the records of runs, and the published files.
OUR_INDEX = Path("papermill_runs/index.jsonl")
OUR_FILES = Path("tflite")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a training runs, whatever it is."""

    out: Path = Path("runs")
    """Folder of all runs."""
    index: Path | None = None
    """JSON-lines file of records; by default index.jsonl in `out`."""
    time_budget: str | None = None
    """Time limit, after which a checkpoint is saved and the exit status is 75:
    "540", "540s", "9m" or "1.5h"."""
    device: Device = "auto"
    """"cpu", "gpu", or "auto": a GPU if there is one."""
    tensorboard: bool = False
    """Writes files for TensorBoard into the run's folder."""
    kernels: Kernels = "auto"
    """What computes GhostNets: "native", this package's own code for CPUs,
    "keras", or "auto": the first where it is possible."""
    loop: Loop = "auto"
    """"steps": a program for each; "chunks": on JAX, one for many of them, with
    the images on the device; "auto": the second on a GPU."""
    again: bool = False
    """Trains a finished run anew."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """How images of your own are read, beside what a model says of them."""

    aspect: Aspect | None = None
    """Of images that are not square: "crop" (the middle), "pad" (black borders)
    or "squash"; by default as in the model's run, or "crop"."""
    skip_broken: bool = False
    """Whether to go on without images that cannot be read."""


IMAGE_OPTIONS = ImageOptions()


def seconds(text: str | None, name: str = "time_budget") -> float | None:
    """Returns the seconds that "540", "540s", "9m" or "1.5h" stand for.

    Raises:
        ValueError: if the text stands for none.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if match is None:
        raise ValueError(
            f"`{name}` must be a number of seconds, or end in s, m or h. "
            f"Received: {text!r}. Write 9m, for example."
        )
    return float(match[1]) * {"m": 60, "h": 3600}.get(match[2], 1)
