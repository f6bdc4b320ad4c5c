"""The tables of a report as rows of text, for a page or for Markdown."""

import html
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gnsmall_keras.recipes import DEMONSTRATION_EPOCHS
from gnsmall_keras.records.export import ExportRecord
from gnsmall_keras.records.run import RunRecord
from gnsmall_keras.report.estimates import Difference, Estimate
from gnsmall_keras.report.groups import Comparison, Group, data_name
from gnsmall_keras.report.published import (
    PAPER,
    PAPER_EPOCHS,
    PAPER_RUNS,
    REFERENCE,
    find_peers,
)
from gnsmall_keras.report.significance import (
    compare_predictions,
    correct_differences,
)
from gnsmall_keras.report.study import Study

_NONE = "-"
_SETTING = ("data", "network", "recipe", "epochs", "protocol", "strategy")
_VALIDATION, _TEST = "validation, %", "test, %"
_BEST = "best epoch on test, %"
_MEASURES = {
    _VALIDATION: "validation_accuracy",
    _TEST: "test_accuracy",
    _BEST: "best_test_accuracy",
}
_AGREEMENT = "agreement with teacher, held out, %"
_HOLM = "p (t-test, Holm)"
_PRIMARY = "p (t-test, Holm), if primary"
_MCNEMAR = "images gained and lost (McNemar)"
_SIZES = ("deployed parameters", "deployed MACs")


class Table(NamedTuple):
    """Rows of plain text; nothing in it is escaped."""

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def without(self, *names: str) -> "Table":
        """Returns the table without some columns."""
        kept = [i for i, name in enumerate(self.header) if name not in names]
        return Table(
            tuple(self.header[i] for i in kept),
            [tuple(row[i] for i in kept) for row in self.rows],
        )

    def to_markdown(self) -> str:
        """Returns the table in GitHub's Markdown."""
        lines = [self.header, ("---",) * len(self.header), *self.rows]
        return "\n".join(
            "| " + " | ".join(map(escape_markdown, line)) + " |"
            for line in lines
        )

    def to_html(self) -> str:
        """Returns the table in HTML."""
        head = "".join(
            f'<th scope="col">{html.escape(name)}</th>' for name in self.header
        )
        body = "\n".join(
            "<tr>"
            + "".join(f"<td>{html.escape(text)}</td>" for text in row)
            + "</tr>"
            for row in self.rows
        )
        return (
            f"<table>\n<thead><tr>{head}</tr></thead>\n"
            f"<tbody>\n{body}\n</tbody>\n</table>"
        )

    def _repr_html_(self):
        """How a notebook shows it."""
        return self.to_html() if self.rows else "<p>None.</p>"


def tabulate_groups(groups: Iterable[Group]) -> Table:
    """One row for each group: means over its seeds."""
    return Table(
        (*_SETTING, *_MEASURES, *_SIZES, "group"),
        [
            (
                *_setting(group),
                *(
                    show_estimate(group.estimate(measure))
                    for measure in _MEASURES.values()
                ),
                f"{group.first.deployed_parameters:,}",
                f"{group.first.deployed_macs:,}",
                group.digest,
            )
            for group in groups
        ],
    )


def tabulate_differences(comparisons: Iterable[Comparison]) -> Table:
    """One row for each strategy: what it is above or below its baseline."""
    comparisons = list(comparisons)
    corrected = correct_differences([found.test for found in comparisons])
    return Table(
        (
            *(*_SETTING, "test, points", _HOLM, "validation, points"),
            *(_MCNEMAR, "group", "baseline"),
        ),
        [
            (
                *_setting(found.group),
                show_difference(found.test),
                _NONE if p is None else _show_p(p),
                show_difference(found.validation),
                _show_predictions(found),
                found.group.digest,
                found.baseline.digest
                if found.baseline
                else "none of the same recipe, epochs, protocol and images",
            )
            for found, p in zip(comparisons, corrected, strict=True)
        ],
    )


def _show_predictions(found):
    """McNemar's test for each seed that both have, of its first runs."""
    if found.baseline is None:
        return _NONE
    ours, theirs = (
        {run.record.config["seed"]: run.record for run in reversed(group.runs)}
        for group in (found.group, found.baseline)
    )
    shown = []
    for seed in sorted((ours.keys() & theirs.keys()).difference(found.shared)):
        test = compare_predictions(ours[seed], theirs[seed])
        if test:
            shown.append(
                f"seed {seed}: +{test.gained:,} -{test.lost:,}, "
                f"p {_show_p(test.p)}"
            )
    return "; ".join(shown) or _NONE


def _show_p(p):
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _show_agreements(found):
    shown = [
        show_estimate(share) + f" ({name or 'own'})" * (len(found) > 1)
        for name, share in found
    ]
    return "; ".join(shown) or _NONE


def tabulate_arms(study: Study) -> Table:
    """One row for each arm, and for each teacher of a study.

    Of a selection no test accuracy is looked at; the best epoch's is shown
    where a run has one.
    """
    measures = (_VALIDATION,) if study.selection else tuple(_MEASURES)
    header = ("arm", "runs", "network", "epochs", *measures, _AGREEMENT)
    named = [(arm.name, arm) for arm in study.arms]
    named += [(f"teacher {arm.name}", arm) for arm in study.teachers]
    chosen = study.chosen if study.selection else None
    rows = []
    for name, arm in named:
        row = [name, f"{arm.done} of {arm.asked}"]
        if arm.group:
            row += [arm.group.network, _show_epochs(arm.group)]
            row += [
                show_estimate(arm.group.estimate(_MEASURES[measure]))
                for measure in measures
            ]
            row.append(_show_agreements(arm.agreements()))
        row += [_NONE] * (len(header) - len(row))
        if arm is chosen:
            row[header.index(measures[-1])] += ", chosen"
        rows.append(tuple(row))
    table = Table(header, rows)
    for name in (_BEST, _AGREEMENT):
        if name in header and all(
            row[header.index(name)] == _NONE for row in rows
        ):
            table = table.without(name)
    return table


def tabulate_contrasts(study: Study) -> Table:
    """One row for each contrast of a study."""
    rows = []
    for contrast, found, corrected in study.rows:
        rows.append(
            (
                contrast.hypothesis or _NONE,
                contrast.treated,
                contrast.control,
                show_difference(found.test if found else None),
                _NONE if corrected is None else _show_p(corrected),
                _show_predictions(found) if found else _NONE,
            )
        )
    header = ("for", "arm", "minus", "test, points", _PRIMARY, _MCNEMAR)
    return Table(header, rows)


def tabulate_runs(groups: Iterable[Group]) -> Table:
    """One row for each record."""
    rows = []
    for group in groups:
        for line, record in group.runs:
            values = (getattr(record, name) for name in _MEASURES.values())
            rows.append(
                (
                    record.slug,
                    *_setting(group),
                    str(record.config["seed"]),
                    *(_NONE if v is None else f"{100 * v:.2f}" for v in values),
                    f"{record.deployed_parameters:,}",
                    f"{record.deployed_macs:,}",
                    f"{record.train_seconds:,.0f}",
                    record.backend,
                    record.started_at[:16].replace("T", " "),
                    str(record.commit)[:8],
                    group.digest,
                    str(line),
                )
            )
    columns = ("seconds", "backend", "started", "commit", "group", "line")
    header = ("run", *_SETTING, "seed", *_MEASURES, *_SIZES, *columns)
    return Table(header, rows)


def tabulate_paper() -> Table:
    """The paper's own numbers."""
    return Table(
        ("network", "epochs", "protocol", _BEST, "last epoch, %", "source"),
        [
            (
                f"{network} w{width:g}",
                str(PAPER_EPOCHS),
                "paper",
                f"{run.best:.2f} (n=1)",
                f"{run.last:.2f} (n=1)",
                PAPER,
            )
            for (network, width), run in PAPER_RUNS.items()
        ],
    )


def tabulate_peers() -> Table:
    """Others' networks, as their sources have them."""
    rows = []
    for name, peer in find_peers().items():
        accuracies = (peer.float_percent, peer.int8_percent)
        sizes = (peer.parameters, peer.macs, peer.size_bytes)
        rows.append(
            (
                name,
                *(
                    _NONE if v is None else f"{v:.2f} (n={peer.runs})"
                    for v in accuracies
                ),
                *(_NONE if v is None else f"{v:,}" for v in sizes),
                peer.source,
            )
        )
    header = ("network", "float, %", "int8, %", "parameters", "MACs")
    return Table((*header, "int8 bytes", "source"), rows)


def tabulate_exports(exports: Iterable[ExportRecord]) -> Table:
    """One row for each exported file."""
    rows = []
    for export in exports:
        source, report, latency = export.source, export.report, export.latency
        accuracies = (report.get(n) for n in ("float_accuracy", "accuracy"))
        arena = report.get("arena_bytes")
        rows.append(
            (
                report["path"],
                source["slug"],
                f"{source['model']} w{source['width']:g}",
                f"{export.head_units:g}",
                report["target"],
                report["quantization"],
                "; ".join(map(str, report["faults"])) or "none",
                *(_NONE if v is None else f"{100 * v:.2f}" for v in accuracies),
                str(report.get("evaluated_images", _NONE)),
                f"{report['size_bytes']:,}",
                f"{arena:,}" if isinstance(arena, int) else _NONE,
                *_latency(latency),
                report["sha256"][:12],
            )
        )
    return Table(
        (
            *("file", "run", "network", "head", "target", "quantization"),
            *("violations", "float, %", "file, %", "test images", "bytes"),
            *("arena, bytes", "latency, ms", f"latency / {REFERENCE}'s"),
            *("runtime, threads, processor", "sha256"),
        ),
        rows,
    )


def _latency(latency):
    if latency is None:
        return (_NONE,) * 3
    where = (
        f"{latency['runtime']}, {latency['threads']}, "
        f"{latency['hardware']['processor']}"
    )
    return f"{latency['median_ms']:.3f}", f"{latency['ratio']:.2f}", where


def tabulate_mistakes(record: RunRecord) -> Table:
    """One row for each of a run's mistakes that were surest."""
    kept = record.test_predictions or {"class_names": [], "worst": []}
    names = kept["class_names"]
    return Table(
        ("test image", "true class", "predicted", "probability, %"),
        [
            (
                str(one["index"]),
                names[one["label"]],
                names[one["predicted"]],
                f"{100 * one['probability']:.2f}",
            )
            for one in kept["worst"]
        ],
    )


def tabulate_for_readme(
    groups: Sequence[Group], comparisons: Sequence[Comparison]
) -> tuple[Table, Table]:
    """What a README needs: strategies, and all that is beside a difference."""
    comparisons = [found for found in comparisons if found.test]
    compared = {found.group.digest for found in comparisons}
    alone = [group for group in groups if group.digest not in compared]
    unused = () if any(group.protocol == "paper" for group in groups) else _BEST
    return (
        tabulate_groups(alone).without("group", unused),
        tabulate_differences(comparisons).without(
            *(_HOLM, _MCNEMAR, "group", "baseline")
        ),
    )


def show_estimate(found: Estimate | None) -> str:
    """Such as "61.56 ± 0.30 (n=3)" or "61.56 (n=1)"."""
    if found is None:
        return _NONE
    deviation = "" if found.deviation is None else f" ± {found.deviation:.2f}"
    return f"{found.mean:.2f}{deviation} (n={found.n})"


def show_difference(found: Difference | None) -> str:
    """Such as "+0.50 ± 0.30, 95 %: -0.24 to +1.25 (n=3)"."""
    if found is None:
        return _NONE
    if found.deviation is None or found.half_width is None:
        return f"{found.mean:+.2f} (n={found.n}, no interval)"
    low, high = found.mean - found.half_width, found.mean + found.half_width
    return (
        f"{found.mean:+.2f} ± {found.deviation:.2f}, 95 %: {low:+.2f} to "
        f"{high:+.2f} (n={found.n})"
    )


def _show_epochs(group):
    few = group.epochs < DEMONSTRATION_EPOCHS
    return f"{group.epochs} (demonstration)" if few else str(group.epochs)


def _setting(group):
    return (
        data_name(group.first),
        group.network,
        group.first.config["recipe"],
        _show_epochs(group),
        group.protocol,
        group.how,
    )


def escape_markdown(text: str) -> str:
    """Returns text that Markdown shows as it is, on one line."""
    text = html.escape(" ".join(text.split()), quote=False)
    # A single underscore is left: names of fields have them.
    return re.sub(r"[|*`\[\]\\~]|(?<=_)_|_(?=_)", r"\\\g<0>", text)
