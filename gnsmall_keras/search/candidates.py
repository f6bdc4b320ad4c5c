"""Which GhostNets fit a device: widths and heads, by files of random ones."""

import collections
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
from gnsmall_keras.export.graph import Graph
from gnsmall_keras.export.tflite import export_tflite
from gnsmall_keras.models.catalogue import Size
from gnsmall_keras.models.registry import create_model
from gnsmall_keras.models.spec import HEAD_UNITS, make_divisible
from gnsmall_keras.quantization.calibration import calibration_split
from gnsmall_keras.records.jsonl import append_line, scan_lines

_WIDTHS = (0.125, 0.25, 0.375, 0.5, 0.75, 1.0, 1.3, 1.6)
SIZES = tuple(
    Size(model, width) for model in ("gns", "gns_nogate") for width in _WIDTHS
)
HEADS = (80, 160, 320, 640, HEAD_UNITS)
_LAST = 160  # channels before the head, times the width
_CALIBRATION = 20  # images: sizes do not depend on their number
# Bytes for a unit of the head, of a file and of the arena.
_UNIT, _ARENA_UNIT = 16, 8.65

_NEARLY = 1.02  # by an estimate: it may fit, and is measured


class _Bytes(NamedTuple):
    """What a network needs, from measured files (docs/log.md).

    It only says what to measure first.
    """

    square: int  # of a file: times the width squared,
    linear: int  # times the width,
    graph: int  # and whatever the width
    arena: int  # whatever the width and the images
    few: int  # of 32 x 32 images, whatever the width
    maps: int  # of 32 x 32 images, times the width


_NEEDS = {
    "gns": _Bytes(134_000, 74_700, 36_000, 30_000, 7_000, 100_000),
    "gns_nogate": _Bytes(95_000, 43_000, 19_000, 26_700, 0, 76_000),
}


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
    """A size of a network, and what its file needs, measured."""

    size: Size
    head_units: int
    macs: int
    size_bytes: int
    arena_bytes: int | None
    misses: str
    """Why it does not fit; empty if it does."""


_MEASURED = ("most_bytes", "arena", "macs")  # of a line of what was measured
_BUFFER = 16  # bytes around a constant of a file


class _Prober:
    """Measures files of networks with random weights, each once."""

    def __init__(self, dataset: Dataset, limits: Limits, path: Path):
        self._dataset = dataset
        self._limits = limits
        self._path = path
        self._images = calibration_split(dataset, _CALIBRATION)
        shape = (*dataset.train_images.shape[1:], dataset.classes)
        self._shape = list(map(int, shape))
        self._known = {}
        if path.is_file():
            for _, line in scan_lines(path, json.loads):
                if isinstance(line, dict) and self._is_of_these(line):
                    key = line["model"], line["width"], line["head_units"]
                    self._known[key] = tuple(map(line.get, _MEASURED))

    def _is_of_these(self, line):
        known = {"model", *_MEASURED} <= set(line)  # older ones lack some
        return known and line["shape"] == self._shape

    def __call__(self, size: Size, head: int) -> Candidate:
        key = (*size, head)
        if key not in self._known:
            self._known[key] = self._measure(size, head)
        size_bytes, arena, macs = self._known[key]
        return Candidate(
            size=size,
            head_units=head,
            macs=macs,
            size_bytes=size_bytes,
            arena_bytes=arena,
            misses=self._limits.misses(size_bytes, arena),
        )

    def _measure(self, size, head):
        keras.utils.set_random_seed(0)
        model = create_model(
            size.model,
            width=size.width,
            classes=self._dataset.classes,
            input_shape=self._dataset.train_images.shape[1:],
            head_units=head,
        )
        with tempfile.TemporaryDirectory(prefix="gnsmall-") as folder:
            path = Path(folder) / "probe.tflite"
            report = export_tflite(
                model,
                path,
                ExportConfig(calibration_size=len(self._images)),
                calibration_images=self._images,
            )
            most_bytes = report.size_bytes + count_shared(path.read_bytes())
        found = {
            "shape": self._shape,
            "model": size.model,
            "width": size.width,
            "head_units": head,
            "most_bytes": most_bytes,
            "arena": report.arena_bytes,
            "macs": report.macs,
        }
        append_line(json.dumps(found), self._path)
        return tuple(map(found.get, _MEASURED))


def count_shared(data: bytes) -> int:
    """Returns the bytes that a file saves as equal constants are stored once.

    The biases of a network that was not trained are all zero. A trained one has
    others, and a file larger by this.
    """
    graph = Graph(data)
    sizes = {
        entry.buffer: len(found)
        for entry in graph.tensors
        if (found := graph.model.buffers[entry.buffer].data) is not None
    }
    readers = collections.Counter(entry.buffer for entry in graph.tensors)
    return sum(
        (readers[buffer] - 1) * (size + _BUFFER)
        for buffer, size in sizes.items()
        if size
    )


def find_candidates(
    dataset: Dataset,
    limits: Limits,
    known: Path,
    tell: Callable[[str], None],
    *,
    most: int = 3,
    late: Callable[[], bool] = lambda: False,
    sizes: Sequence[Size] = SIZES,
) -> tuple[list[Candidate], list[Candidate]]:
    """Returns sizes that fit, the largest first, and those that nearly did.

    Files of random weights have the arena of trained ones, and their bytes
    but for what `count_shared` adds.

    Args:
        dataset: says the images and the classes.
        limits: of the file.
        known: JSON lines of what was measured before.
        tell: shows a line of progress.
        most: that are returned.
        late: whether one that fits has to do.
        sizes: to choose from; if none of them fits, from all.

    Raises:
        ValueError: if none fits, with what came nearest.
    """
    probe = _Prober(dataset, limits, known)
    fitting: list[Candidate] = []
    missed: list[Candidate] = []
    todo = _ordered(sizes, limits, dataset)
    while todo and len(fitting) < most and not (fitting and late()):
        size = todo.pop(0)
        head = _head(size, dataset, limits)
        tell(f"measuring {size}, head {head} (random weights)")
        found = probe(size, head)
        (missed if found.misses else fitting).append(found)
        smaller = _smaller_head(found, dataset.classes, limits)
        if smaller:
            tell(f"measuring {size}, head {smaller}")
            found = probe(size, smaller)
            (missed if found.misses else fitting).append(found)
        if fitting and not missed:
            todo = _with_wider(todo, fitting, sizes)
        if not todo and not fitting and sizes != SIZES:
            sizes = SIZES
            tried = {one.size for one in missed}
            todo = [
                size
                for size in _ordered(sizes, limits, dataset)
                if size not in tried
            ]
    if not fitting:
        nearest = min(missed, key=lambda one: _excess(one, limits))
        raise ValueError(
            f"No network of ours fits. The nearest, {nearest.size} with a "
            f"head of {nearest.head_units}, needs "
            f"{nearest.misses}. Give a larger budget, or a smaller "
            "--image-size."
        )
    fitting.sort(key=lambda one: -one.macs)
    return fitting, missed


def _excess(one: Candidate, limits: Limits) -> float:
    arena = one.arena_bytes or 2**40
    return max(one.size_bytes / limits.file_bytes, arena / limits.arena_bytes)


def _rank(size: Size) -> tuple[float, bool]:
    """Of two of one width that with gates is better (docs/log.md)."""
    return size.width, size.model == "gns"


def _may_fit(size: Size, head: int, limits: Limits, dataset: Dataset) -> bool:
    return (
        _bytes(size, head, dataset.classes) <= _NEARLY * limits.file_bytes
        and _arena(size, head, dataset.image_size)
        <= _NEARLY * limits.arena_bytes
    )


def _ordered(
    sizes: Sequence[Size], limits: Limits, dataset: Dataset
) -> list[Size]:
    """Sizes from the best that may fit downwards."""
    may = [size for size in sizes if _may_fit(size, HEADS[0], limits, dataset)]
    return sorted(may or [min(sizes, key=_rank)], key=_rank, reverse=True)


def _with_wider(
    todo: list[Size], fitting: Iterable[Candidate], sizes: Sequence[Size]
) -> list[Size]:
    """The network's next wider size comes first, while none has missed."""
    best = max((one.size for one in fitting), key=_rank)
    wider = [
        each
        for each in sizes
        if each.model == best.model and each.width > best.width
    ]
    following = sorted(wider, key=_rank)[:1]
    return [*following, *(size for size in todo if size not in following)]


def _head(size: Size, dataset: Dataset, limits: Limits) -> int:
    """The largest that may fit, else the smallest."""
    fits = [head for head in HEADS if _may_fit(size, head, limits, dataset)]
    return fits[-1] if fits else HEADS[0]


def _smaller_head(one: Candidate, classes: int, limits: Limits) -> int | None:
    """The largest head that a file which misses would fit with."""
    if not one.misses or one.arena_bytes is None:
        return None
    unit = make_divisible(_LAST * one.size.width) + classes + 1 + _UNIT
    for head in reversed(HEADS):
        less = one.head_units - head
        if (
            less > 0
            and one.size_bytes - unit * less <= limits.file_bytes
            and one.arena_bytes - _ARENA_UNIT * less <= limits.arena_bytes
        ):
            return head
    return None


def _bytes(size: Size, head: int, classes: int) -> float:
    needs, width = _NEEDS[size.model], size.width
    body = needs.square * width**2 + needs.linear * width + needs.graph
    last = make_divisible(_LAST * width)
    return body + head * (last + classes + 1 + _UNIT) + 20 * classes


def _arena(size: Size, head: int, side: int) -> float:
    needs = _NEEDS[size.model]
    maps = (needs.few + needs.maps * size.width) * (side / 32) ** 2
    return needs.arena + maps + _ARENA_UNIT * head
