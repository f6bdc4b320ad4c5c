"""The published networks beside what others publish for CIFAR-10."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from gnsmall_keras.devices.targets import find_budget
from gnsmall_keras.models.spec import HEAD_UNITS
from gnsmall_keras.recipes import DEMONSTRATION_EPOCHS
from gnsmall_keras.records.cited import CitedRecord
from gnsmall_keras.records.export import ExportRecord
from gnsmall_keras.records.run import RunRecord
from gnsmall_keras.report.published import REFERENCE
from gnsmall_keras.report.reading import Reading
from gnsmall_keras.report.tables import Table

_NONE = "-"
_ALIKE = math.log(1.5)  # of files' sizes
_TEST_IMAGES = 10_000
MEASURED, CITED, GIVEN = "measured", "cited", "measured now"


class Network(NamedTuple):
    """A network of ours or of others, with all that is known of it."""

    name: str
    ours: bool
    int8: float | None  # percent
    float: float | None
    size_bytes: int | None
    macs: int | None
    parameters: int | None = None
    arena_bytes: int | None = None
    instructions: int | None = None
    latencies: Mapping[str, float] = MappingProxyType({})  # by processor
    epochs: int | None = None  # of ours
    file: str = ""
    target: str = ""
    # By processor, of latencies of an earlier file: its size.
    older: Mapping[str, str] = MappingProxyType({})
    operators: int | None = None
    evidence: str = ""  # MEASURED, CITED or GIVEN


class Networks(NamedTuple):
    """What is compared, and what is not yet."""

    ours: list[Network]
    demonstrations: list[Network]  # ours, of too few epochs
    peers: list[Network]


def find_networks(
    folder: str | os.PathLike[str],
    reading: Reading,
    cited: Sequence[CitedRecord],
) -> Networks:
    """Finds the published files' records, and those of others' networks.

    Args:
        folder: the published .tflite files with their reports, `NAME.json`;
            other .json files in it are left alone.
        reading: records of runs and of exported files.
        cited: of others, and of what was measured elsewhere.

    Raises:
        ValueError: if there are no reports, a .json file is damaged, or a
            report is of a file or of a run without a record, or of a file
            without an accuracy.
    """
    reports = _find_reports(folder)
    if not reports:
        raise ValueError(
            f"Published files have reports beside them. Received: "
            f"{os.fspath(folder)!r} without a report. Give --published "
            "the folder of exported files."
        )
    found = Networks([], [], [])
    for path, sha256 in reports.items():
        network = _read(path, sha256, reading, cited)
        few = (network.epochs or 0) < DEMONSTRATION_EPOCHS
        (found.demonstrations if few else found.ours).append(network)
    found.peers.extend(
        Network(
            one.name,
            ours=False,
            int8=one.int8_percent,
            float=one.float_percent,
            size_bytes=one.size_bytes,
            macs=one.macs,
            parameters=one.parameters,
            arena_bytes=one.arena_bytes,
            instructions=one.instructions,
            latencies=one.latencies,
            operators=one.operators,
            evidence=CITED,
        )
        for one in cited
        if one.sha256 is None
    )
    return found


def _find_reports(folder):
    """Reports of exports, each with its file's digest."""
    found = {}
    for path in sorted(Path(folder).glob("*.json")):
        try:
            values = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise ValueError(
                f"A published file's report is JSON. Received: {path} ({error})"
                ". Export the file again, or take this one away."
            ) from None
        if isinstance(values, dict) and "sha256" in values:
            found[path] = values["sha256"]
    return found


def _read(path, sha256, reading, cited):
    exports = [one for one in reading.exports if one.sha256 == sha256]
    runs = [
        run.record
        for run in reading.runs
        for one in exports
        if run.record.key == one.run_key
    ]
    if not runs:
        raise ValueError(
            "A published file is of a run, and both have records. Received: "
            f"{path.name}, whose file has none. Add its lines: gnsmall "
            "records merge, and merge-exports."
        )
    export, run = exports[0], runs[0]
    known = [one for one in cited if one.sha256 == sha256]
    report = export.report
    if report.get("accuracy") is None:
        raise ValueError(
            "A published file is shown with its accuracy. Received: "
            f"{path.name}, whose file was measured on no test images. Export "
            "it with --data that has a test split."
        )
    latencies, older = _latencies(export, reading.timed, known)
    return Network(
        _name(run, export),
        ours=True,
        int8=100 * report["accuracy"],
        float=100 * report["float_accuracy"],
        size_bytes=report["size_bytes"],
        macs=report["macs"],
        parameters=report["parameters"],
        arena_bytes=report["arena_bytes"],
        instructions=next(
            (one.instructions for one in known if one.instructions), None
        ),
        latencies=latencies,
        older=older,
        epochs=run.recipe["epochs"],
        file=report["path"],
        target=report["target"],
        operators=sum(report["ops"].values()),
        evidence=MEASURED,
    )


def _name(run: RunRecord, export: ExportRecord) -> str:
    head = export.head_units
    narrow = "" if head == HEAD_UNITS else f", head {head}"
    phone = ", for Android" if export.report["target"] == "android" else ""
    gates = ", no gates" if run.config["model"] == "gns_nogate" else ""
    return f"GN-S {run.config['width']:g}{gates}{narrow}{phone}"


def _latencies(export, exports: Sequence[ExportRecord], cited):
    """Of the file where known, else of its network's files from other runs.

    Those of fewer operators or units are left out, as faster than it. And by
    processor, where it is another file's, how many it had.
    """
    same = ("model", "width", "head_units", "deployed_parameters")
    operators, head = _size(export)
    kin = [
        one
        for one in exports
        if one.latency
        and one.report["target"] == export.report["target"]
        and all(one.source[name] == export.source[name] for name in same)
        and _size(one)[0] >= operators
        and _size(one)[1] >= head
    ]
    found: dict[str, float] = {}
    sizes: dict[str, tuple[int, int]] = {}  # by processor, of other files
    for one in (*kin, *(one for one in kin if one.sha256 == export.sha256)):
        processor = one.latency["hardware"]["processor"]
        found[processor] = one.latency["ratio"]
        sizes[processor] = _size(one)
        if one.sha256 == export.sha256:
            sizes.pop(processor)
    for one in cited:
        found.update(one.latencies)
        for processor in one.latencies:
            sizes.pop(processor, None)
    older: dict[str, str] = {}
    for processor, (count, units) in sizes.items():
        more = [f"{count} operators, now {operators}"] * (count > operators)
        more += [f"a head of {units:,}, now {head:,}"] * (units > head)
        older[processor] = "; ".join(more) or "of the same operators"
    return found, older


def _size(export):
    """Of its file: operators, and units of the head."""
    return sum(export.report["ops"].values()), export.head_units


def tabulate_networks(networks: Networks, *, board: bool = False) -> Table:
    """One row for each int8 file, smallest first.

    Args:
        networks: ours and the peers.
        board: all peers with an int8 file, and more columns; else those whose
            instructions are known.
    """
    peers = [
        one
        for one in networks.peers
        if (one.int8 if board else one.instructions) is not None
    ]
    shown = [*networks.ours, *peers]
    shown.sort(key=lambda one: (one.size_bytes or math.inf, one.name))
    processors = sorted({name for one in shown for name in one.latencies})
    columns = [
        ("network", _full_name),
        ("int8 accuracy, %", lambda one: _show(one.int8, ".2f")),
        ("file, bytes", lambda one: _show(one.size_bytes, ",")),
        ("operators", lambda one: _show(one.operators, "d")),
        ("arena, bytes", _arena),
        ("MACs", lambda one: _millions(one.macs)),
        ("Cortex-M4 instructions", lambda one: _millions(one.instructions)),
        *(
            (f"latency relative to IC2, {_short(name)}", _latency_on(name))
            for name in processors
        ),
        ("evidence", lambda one: one.evidence),
    ]
    table = Table(
        tuple(name for name, _ in columns),
        [tuple(tell(one) for _, tell in columns) for one in shown],
    )
    return table if board else table.without("operators", "MACs", "evidence")


def _full_name(network):
    return f"{network.name} (this package)" if network.ours else network.name


def _arena(network):
    # The phone's runtime has no arena.
    if network.target == "android":
        return _NONE
    return _show(network.arena_bytes, ",")


def _latency_on(processor):
    return lambda network: _show(_find(network, processor), ".2f")


def _find(network, processor):
    if network.name == REFERENCE:  # takes as long as itself everywhere
        return 1.0
    return network.latencies.get(processor)


def _show(value, form):
    return _NONE if value is None else format(value, form)


def _millions(value):
    return _NONE if value is None else f"{value / 1e6:.1f} M"


def _short(processor: str) -> str:
    """A processor's name without what is on every box."""
    return processor.replace("(R)", "").removesuffix(" Processor")


def describe_networks(networks: Networks) -> list[str]:
    """Where ours win and lose, and what is not shown.

    The most accurate is compared with the reference; of the others the most
    accurate that has about the size of a peer's file, with this one.
    """
    told = []
    reference = next(
        (one for one in networks.peers if one.name == REFERENCE), None
    )
    micro = [one for one in networks.ours if one.target == "micro"]
    if reference and micro:
        best = max(micro, key=_accuracy)
        told.append(_compare(best, reference))
        for peer in networks.peers:
            alike = [
                one
                for one in micro
                if one is not best and _are_alike(one, peer)
            ]
            if alike:
                told.append(_compare(max(alike, key=_accuracy), peer))
    older = [_tell_older(one) for one in networks.ours if one.older]
    if older:
        told.append(f"Latencies of earlier files: {'; '.join(older)}.")
    if networks.demonstrations:
        names = ", ".join(
            f"{one.name} ({_class_of(one)})" for one in networks.demonstrations
        )
        told.append(
            f"In training: {names}. Their files in `tflite/` are trained for "
            f"fewer than {DEMONSTRATION_EPOCHS} epochs, to try a device with, "
            "and are not compared here."
        )
    return told


def _tell_older(network: Network) -> str:
    places = (f"{_short(one)} ({size})" for one, size in network.older.items())
    return f"{network.name} on {'; '.join(places)}"


def _class_of(network: Network) -> str:
    budget = find_budget(network.size_bytes or 0, network.arena_bytes)
    if budget is None:
        return "none of the classes of microcontrollers"
    return f"for {budget.flash_bytes // 1024} KB of flash"


def _accuracy(network: Network) -> float:
    return network.int8 or 0


def _are_alike(ours: Network, theirs: Network) -> bool:
    """Whether files are of about one size, and theirs was measured."""
    if not (theirs.instructions and ours.size_bytes and theirs.size_bytes):
        return False
    return abs(math.log(ours.size_bytes / theirs.size_bytes)) < _ALIKE


def _compare(ours: Network, theirs: Network) -> str:
    """Two files by everything that both have."""
    parts = []
    if ours.int8 and theirs.int8:
        share = ours.int8 / 100
        error = 100 * math.sqrt(share * (1 - share) / _TEST_IMAGES)
        parts.append(
            f"{ours.int8 - theirs.int8:+.2f} points of accuracy (one training "
            f"each; standard error of one accuracy: {error:.2f})"
        )
    for name, what in (
        ("macs", "multiply-accumulates"),
        ("instructions", "instructions"),
        ("size_bytes", "file size"),
        ("arena_bytes", "arena"),
    ):
        mine, other = getattr(ours, name), getattr(theirs, name)
        if mine and other:
            parts.append(f"{mine / other:.2f}x the {what}")
    parts += [
        f"{ratio / other:.2f}x the latency on {_short(name)}"
        for name, ratio in sorted(ours.latencies.items())
        if (other := _find(theirs, name))
    ]
    return f"{ours.name} compared with {theirs.name}: {'; '.join(parts)}."
