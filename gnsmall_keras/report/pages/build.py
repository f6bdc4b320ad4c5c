"""Writes a page, figures and the README's results from a file of records."""

import base64
import html
import os
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gnsmall_keras.lines import percent
from gnsmall_keras.recipes import DEMONSTRATION_EPOCHS
from gnsmall_keras.records.run import RunRecord
from gnsmall_keras.report import tables
from gnsmall_keras.report.costs import find_cost
from gnsmall_keras.report.figures.drawing import Drawing, render
from gnsmall_keras.report.figures.overview import draw_all
from gnsmall_keras.report.groups import (
    Comparison,
    Group,
    compare,
    data_name,
    group_runs,
    mixed_seeds,
)
from gnsmall_keras.report.pages.markdown import insert_results, write_files
from gnsmall_keras.report.reading import Reading
from gnsmall_keras.report.winner import find_winners

_TEMPLATE = Path(__file__).with_name("page.html")


def write_report(
    reading: Reading,
    *,
    name: str,
    out: str | os.PathLike[str] | None = None,
    figures: str | os.PathLike[str] | None = None,
    readme: str | os.PathLike[str] | None = None,
    dataset: Any = None,
) -> list[Path]:
    """Writes what is asked for; each file is complete or as it was.

    Args:
        reading: the records.
        name: what to call their file.
        out: the page, one HTML file that needs no other.
        figures: a folder, for each figure as .png and as .svg.
        readme: a Markdown file; the part between two comments is rewritten.
        dataset: a `data.dataset.Dataset`: its images are shown where the run
            to deploy was wrong, on the page and in `figures`.

    Returns:
        The files that were written.

    Raises:
        ValueError: if matplotlib is needed and not there, `readme` does not
            have the two comments, or no winner was on `dataset`.
    """
    groups = group_runs(reading.runs, reading.hidden)
    if dataset is not None:
        _check_images(dataset, find_winners(groups))
    files: dict[Path, bytes] = {}
    if readme is not None:
        path = Path(readme)
        text = path.read_bytes().decode()
        results = make_results(groups, len(reading.runs), name)
        files[path] = insert_results(text, results, where=path).encode()
    if out is not None or figures is not None:
        drawn = draw_all(groups, reading.exports, dataset)
        if out is not None:
            files[Path(out)] = _make_page(reading, groups, drawn, name).encode()
        if figures is not None:
            for drawing in (one for _, drawings in drawn for one in drawings):
                for form in ("png", "svg"):
                    path = Path(figures) / f"{drawing.name}.{form}"
                    files[path] = render(drawing, form)
    return write_files(files)


def make_results(groups: Sequence[Group], runs: int, name: str) -> str:
    """Returns the results in Markdown, with what they are worth."""
    if not groups:
        return f"`{name}` has no records."
    seeds = {seed for group in groups for seed in group.values("test_accuracy")}
    protocols = " and ".join(f'"{p}"' for p in sorted(_protocols(groups)))
    epochs = sorted({group.epochs for group in groups})
    paragraphs = [
        f"From `{name}` alone (runs: {runs}; seeds: {len(seeds)}; protocol: "
        f"{protocols}; epochs: {_span(epochs)}): accuracies in percent, mean ± "
        "sample standard deviation over n seeds; parameters and "
        "multiply-accumulates (MACs) of the fused network."
    ]
    if epochs[0] < DEMONSTRATION_EPOCHS:
        paragraphs.append(
            f"Fewer than {DEMONSTRATION_EPOCHS} epochs are a demonstration, "
            "not a result; the paper trains for 200. No row mixes protocols "
            "or numbers of epochs."
        )
    comparisons = compare(groups)
    means, differences = tables.tabulate_for_readme(groups, comparisons)
    if means.rows:
        paragraphs.append(means.to_markdown())
    if differences.rows:
        paragraphs += [
            "Strategies minus the baseline with the same student, recipe, "
            "epochs, protocol and images, in percentage points, paired by "
            "seed, with the 95 % interval by Student's t where n > 1:",
            differences.to_markdown(),
        ]
    told = (_tell_mixed(comparisons), _tell_replaced(groups))
    paragraphs += filter(None, told)
    return "\n\n".join(paragraphs)


def _tell_mixed(comparisons: Sequence[Comparison]) -> str:
    """Names strategies that differ from their baseline in more than that."""
    told = [
        f"{found.group.short} (seed {', '.join(map(str, mixed))})"
        for found in comparisons
        if found.baseline
        and (mixed := mixed_seeds((found.group, found.baseline)))
    ]
    if not told:
        return ""
    return (
        "Runs of these and of their baseline were on several backends or "
        f"machines, and differ by these too: {'; '.join(told)}."
    )


def _tell_replaced(groups: Sequence[Group]) -> str:
    """Names groups whose teachers have one name and several weights."""
    told = [
        f"{group.short} (teacher {', '.join(group.mixed_teachers)})"
        for group in groups
        if group.mixed_teachers
    ]
    if not told:
        return ""
    return (
        "Runs of these learned from teachers of one name and different "
        f"weights, and differ by these too: {'; '.join(told)}."
    )


def _make_page(reading, groups, drawn, name):
    protocols = " and ".join(sorted(_protocols(groups))) or "none"
    epochs = _span(sorted({group.epochs for group in groups})) or "none"
    summary = (
        f"Made from {name} alone. Runs: {len(reading.runs)}; groups: "
        f"{len(groups)}; protocol: {protocols}; epochs: {epochs}."
    )
    comparisons = compare(groups)
    sections = "\n".join(
        f'<h2>Figures: {html.escape(data)}</h2>\n<div class="figures">\n'
        + "\n".join(map(_embed, drawings))
        + "\n</div>"
        for data, drawings in drawn
    )
    return string.Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        headline=_headline(groups, reading.exports),
        summary=html.escape(summary),
        faults=_tell(
            "Lines that could not be read and are skipped", reading.faults
        )
        + _tell(
            "Runs of sweeps that failed and count nowhere below",
            reading.failed,
        ),
        few=DEMONSTRATION_EPOCHS,
        sections=sections,
        differences=_box(tables.tabulate_differences(comparisons))
        + f"<p>{html.escape(_tell_mixed(comparisons))}</p>"
        + f"<p>{html.escape(_tell_replaced(groups))}</p>",
        winners="\n".join(map(_tell_winner, find_winners(groups)))
        or "<p>None: no run has a validation accuracy.</p>",
        exports=_box(tables.tabulate_exports(reading.exports)),
        groups=_box(tables.tabulate_groups(groups), "groups"),
        runs=_box(tables.tabulate_runs(groups), "runs"),
        paper=_box(tables.tabulate_paper()),
        peers=_box(tables.tabulate_peers()),
    )


def _headline(groups, exports):
    """The run to deploy of each data, in large numbers."""
    found = find_winners(groups)
    if not found:
        return (
            '<p class="headline">No run has a validation accuracy, so none '
            "is named to be deployed.</p>"
        )
    return "\n".join(_tell_headline(run, exports) for run in found)


def _tell_headline(winner: RunRecord, exports) -> str:
    size = find_cost(winner, exports, "bytes")
    facts = [
        (
            percent(winner.test_accuracy),
            f"test accuracy of {winner.test_images:,} images (n=1)",
        ),
        (percent(winner.validation_accuracy), "validation accuracy"),
        (f"{winner.deployed_parameters:,}", "parameters, deployed"),
        (f"{winner.deployed_macs / 1e6:.1f} M", "multiply-accumulates"),
    ]
    if size:
        own = "int8 file" if size.own else "int8 file of such a network"
        facts.append((f"{size.value:,.0f} bytes", own))
    shown = "\n".join(
        f"<div><dt>{html.escape(what)}</dt><dd>{html.escape(value)}</dd></div>"
        for value, what in facts
    )
    epochs = winner.recipe["epochs"]
    few = ", a demonstration" if epochs < DEMONSTRATION_EPOCHS else ""
    return (
        f"<p>Best on {html.escape(data_name(winner))} by validation accuracy: "
        f"<strong>{html.escape(winner.slug)}</strong> ({epochs} epochs{few})."
        f'</p>\n<dl class="headline">\n{shown}\n</dl>'
    )


def _check_images(dataset, winners):
    """Images say something of a run that was tested on them only."""
    digests = [winner.data_digest for winner in winners]
    if dataset.digest not in digests:
        raise ValueError(
            "`images` must be those that a winner was tested on, with the "
            f"digest {' or '.join(digests) or '(there is none)'}. Received: "
            f"{dataset.name}, {dataset.digest}. Give the data of the run."
        )


def _tell_winner(winner: RunRecord) -> str:
    """The run to deploy, and a table of its worst mistakes."""
    title = (
        f"<h3>{html.escape(data_name(winner))}: {html.escape(winner.slug)}</h3>"
    )
    if winner.test_predictions is None:
        return (
            f"{title}\n<p>Its record is older than schema 3, or there was no "
            "test split: it does not say what was predicted.</p>"
        )
    return f"{title}\n{_box(tables.tabulate_mistakes(winner))}"


def _embed(drawing: Drawing) -> str:
    """The figure as an image: its ids meet no other figure's."""
    data = base64.b64encode(render(drawing, "svg")).decode()
    return (
        f'<figure><img alt="{html.escape(drawing.alt)}" '
        f'src="data:image/svg+xml;base64,{data}">\n'
        f"<figcaption><strong>{html.escape(drawing.title)}.</strong> "
        f"{html.escape(drawing.caption)}</figcaption></figure>"
    )


def _box(table, what=""):
    """A table that scrolls by itself; with `what` it can be filtered."""
    if not table.rows:
        return "<p>None.</p>"
    search = what and (
        f'<label>Only {what} with all these words: <input type="search"> '
        "<output></output></label>\n"
    )
    return (
        f'<section>\n{search}<div class="table" tabindex="0">\n'
        f"{table.to_html()}\n</div>\n</section>"
    )


def _tell(what, faults):
    if not faults:
        return ""
    lines = "\n".join(f"<li>{html.escape(fault)}</li>" for fault in faults)
    return (
        f'<div class="faults"><p>{what}: {len(faults)}</p>\n<ul>\n{lines}\n'
        "</ul></div>"
    )


def _protocols(groups):
    return {group.protocol for group in groups}


def _span(epochs):
    return " to ".join(str(n) for n in sorted({*epochs[:1], *epochs[-1:]}))
