"""Which GhostNets fit a device: widths and heads, by files of random ones."""

import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import keras

from gnsmall_keras.config import ExportConfig
from gnsmall_keras.data.dataset import Dataset
from gnsmall_keras.devices.runtime import installed_runtimes
from gnsmall_keras.export.tflite import export_tflite
from gnsmall_keras.models.ghostnet import ghostnetv3_small
from gnsmall_keras.models.spec import make_divisible
from gnsmall_keras.quantization.calibration import calibration_split
from gnsmall_keras.records.jsonl import append_line, scan_lines

WIDTHS = (0.125, 0.25, 0.375, 0.5, 0.75, 1.0, 1.3, 1.6)
HEADS = (80, 160, 320, 640, 1280)
_LAST = 160  # channels before the head, times the width
_CALIBRATION = 20  # images: sizes do not depend on their number
# Bytes of a file, from published ones (docs/log.md): weights, then what each
# channel and the graph need. They only say what to measure first.
_SQUARE, _LINEAR = 134_000, 20_700
_GRAPH, _CHANNELS, _UNIT = 36_000, 54_000, 16
_ARENA_UNIT = 8.65  # bytes of the arena for a unit of the head


def check_micro() -> None:
    """Checks that arenas can be measured.

    Raises:
        ValueError: otherwise, with the cure.
    """
    if "tflite-micro" not in installed_runtimes():
        raise ValueError(
            "`gnsmall fit` measures the arena of each file with TensorFlow "
            "Lite Micro. Received: an environment without tflite-micro, which "
            "there is for Linux on x86-64 alone. There, pip install "
            "'gnsmall-keras[export]'; elsewhere choose a width yourself: "
            "gnsmall train --data DATA --width 0.5, then gnsmall export."
        )


class Limits(NamedTuple):
    """What a file may need, in bytes."""

    file_bytes: int
    arena_bytes: int

    def misses(self, size: int, arena: int | None) -> str:
        """Returns why a file does not fit; an empty text if it does."""
        found: list[str] = []
        if size > self.file_bytes:
            found.append(f"{size:,} of {self.file_bytes:,} bytes")
        if arena is None:
            found.append("TensorFlow Lite Micro does not run it")
        elif arena > self.arena_bytes:
            found.append(f"an arena of {arena:,} of {self.arena_bytes:,} bytes")
        return ", ".join(found)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A size of GhostNetV3-Small, and what its file needs, measured."""

    width: float
    head_units: int
    size_bytes: int
    arena_bytes: int | None
    misses: str
    """Why it does not fit; empty if it does."""


class _Prober:
    """Measures files of networks with random weights, each once."""

    def __init__(self, dataset: Dataset, limits: Limits, path: Path):
        self._dataset = dataset
        self._limits = limits
        self._path = path
        self._images = calibration_split(
            dataset, min(_CALIBRATION, len(dataset.train_images))
        )
        shape = (*dataset.train_images.shape[1:], dataset.classes)
        self._shape = list(map(int, shape))
        self._known = {}
        if path.is_file():
            for _, line in scan_lines(path, json.loads):
                if isinstance(line, dict) and line["shape"] == self._shape:
                    key = line["width"], line["head_units"]
                    self._known[key] = line["bytes"], line["arena"]

    def __call__(self, width: float, head: int) -> Candidate:
        if (width, head) not in self._known:
            self._known[width, head] = self._measure(width, head)
        size, arena = self._known[width, head]
        return Candidate(
            width=width,
            head_units=head,
            size_bytes=size,
            arena_bytes=arena,
            misses=self._limits.misses(size, arena),
        )

    def _measure(self, width, head):
        keras.utils.set_random_seed(0)
        model = ghostnetv3_small(
            width,
            classes=self._dataset.classes,
            input_shape=self._dataset.train_images.shape[1:],
            head_units=head,
        )
        with tempfile.TemporaryDirectory(prefix="gnsmall-") as folder:
            report = export_tflite(
                model,
                Path(folder) / "probe.tflite",
                ExportConfig(calibration_size=len(self._images)),
                calibration_images=self._images,
            )
        found = {
            "shape": self._shape,
            "width": width,
            "head_units": head,
            "bytes": report.size_bytes,
            "arena": report.arena_bytes,
        }
        append_line(json.dumps(found), self._path)
        return report.size_bytes, report.arena_bytes


def find_candidates(
    dataset: Dataset,
    limits: Limits,
    known: Path,
    tell: Callable[[str], None],
    *,
    most: int = 3,
    late: Callable[[], bool] = lambda: False,
    widths: Sequence[float] = WIDTHS,
) -> tuple[list[Candidate], list[Candidate]]:
    """Returns sizes that fit, the widest first, and those that nearly did.

    Files of random weights have the bytes and the arena of trained ones.

    Args:
        dataset: says the images and the classes.
        limits: of the file.
        known: JSON lines of what was measured before.
        tell: shows a line of progress.
        most: that are returned.
        late: whether one that fits has to do.
        widths: to choose from; if none of them fits, from all.

    Raises:
        ValueError: if none fits, with what came nearest.
    """
    probe = _Prober(dataset, limits, known)
    fitting: list[Candidate] = []
    missed: list[Candidate] = []
    todo = _ordered(widths, limits, dataset)
    while todo and len(fitting) < most and not (fitting and late()):
        width = todo.pop(0)
        head = _head(width, dataset, limits)
        tell(f"measuring width {width:g}, head {head} (random weights)")
        found = probe(width, head)
        (missed if found.misses else fitting).append(found)
        smaller = _smaller_head(found, dataset.classes, limits)
        if smaller:
            tell(f"measuring width {width:g}, head {smaller}")
            found = probe(width, smaller)
            (missed if found.misses else fitting).append(found)
        if fitting and not missed:
            todo = _with_wider(todo, fitting, widths)
        if not todo and not fitting and widths != WIDTHS:
            widths = WIDTHS
            tried = {one.width for one in missed}
            todo = [
                width
                for width in _ordered(widths, limits, dataset)
                if width not in tried
            ]
    if not fitting:
        nearest = min(missed, key=lambda one: _excess(one, limits))
        raise ValueError(
            "No network of ours fits. The nearest, width "
            f"{nearest.width:g} with a head of {nearest.head_units}, needs "
            f"{nearest.misses}. Give a larger budget, or a smaller "
            "--image-size."
        )
    fitting.sort(key=lambda one: -one.width)
    return fitting, missed


def _excess(one: Candidate, limits: Limits) -> float:
    arena = one.arena_bytes or 2**40
    return max(one.size_bytes / limits.file_bytes, arena / limits.arena_bytes)


def _ordered(
    widths: Sequence[float], limits: Limits, dataset: Dataset
) -> list[float]:
    """Widths from the largest that may fit downwards."""
    may = [
        width
        for width in widths
        if _bytes(width, HEADS[0], dataset.classes) <= limits.file_bytes
        and _arena(width, HEADS[0], dataset.image_size) <= limits.arena_bytes
    ]
    return sorted(may or widths[:1], reverse=True)


def _with_wider(
    todo: list[float], fitting: Iterable[Candidate], widths: Sequence[float]
) -> list[float]:
    """The next wider one comes first, while none has missed."""
    widest = max(one.width for one in fitting)
    wider = [width for width in widths if width > widest][:1]
    return [*wider, *(width for width in todo if width not in wider)]


def _head(width: float, dataset: Dataset, limits: Limits) -> int:
    """The largest that may fit, else the smallest."""
    fits = [
        head
        for head in HEADS
        if _bytes(width, head, dataset.classes) <= limits.file_bytes
        and _arena(width, head, dataset.image_size) <= limits.arena_bytes
    ]
    return fits[-1] if fits else HEADS[0]


def _smaller_head(one: Candidate, classes: int, limits: Limits) -> int | None:
    """The largest head that a file which misses would fit with."""
    if not one.misses or one.arena_bytes is None:
        return None
    unit = make_divisible(_LAST * one.width) + classes + 1 + _UNIT
    for head in reversed(HEADS):
        less = one.head_units - head
        if (
            less > 0
            and one.size_bytes - unit * less <= limits.file_bytes
            and one.arena_bytes - _ARENA_UNIT * less <= limits.arena_bytes
        ):
            return head
    return None


def _bytes(width: float, head: int, classes: int) -> float:
    body = _SQUARE * width**2 + (_LINEAR + _CHANNELS) * width + _GRAPH
    last = make_divisible(_LAST * width)
    return body + head * (last + classes + 1 + _UNIT) + 20 * classes


def _arena(width: float, head: int, size: int) -> float:
    """From those of published files: it only says where to begin."""
    maps = (7_000 + 100_000 * width) * (size / 32) ** 2
    return 30_000 + maps + _ARENA_UNIT * head
