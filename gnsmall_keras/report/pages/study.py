"""Writes what studies came to into a Markdown file, with their figures."""

import os
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

from gnsmall_keras.report import tables
from gnsmall_keras.report.figures.drawing import Drawing, render
from gnsmall_keras.report.figures.study import draw_study
from gnsmall_keras.report.groups import Group, mixed_seeds
from gnsmall_keras.report.pages.markdown import insert_results, write_files
from gnsmall_keras.report.study import Study


def write_study(
    studies: Sequence[Study],
    *,
    name: str,
    readme: str | os.PathLike[str],
) -> list[Path]:
    """Writes what studies came to between the two comments of a file.

    Its figures go into a folder beside it, of its name.

    Args:
        studies: in order.
        name: what to call the file of records.
        readme: the Markdown file.

    Returns:
        The files that were written; each is complete or as it was.

    Raises:
        ValueError: if matplotlib is not installed, `readme` does not have the
            two comments, or the folder's name is a file's; or two studies have
            one name.
    """
    names = [study.name for study in studies]
    if len(set(names)) < len(names):
        raise ValueError(
            f"Studies of one page have names of their own. Received: {names}. "
            "Rename a file, or leave the repeated one out."
        )
    path = Path(readme)
    folder = path.with_suffix("")
    if folder == path or folder.is_file():
        raise ValueError(
            "A page's figures go into a folder of its name, without the "
            f"ending. Received: {path}, where {folder} is a file. Give the "
            "page another name, such as STUDY.md."
        )
    files: dict[Path, bytes] = {}
    parts = []
    for study in studies:
        drawings = draw_study(study)
        parts.append(make_study(study, drawings, name, folder.name))
        for drawing in drawings:
            file = folder / f"{drawing.name}.svg"
            files[file] = render(drawing, "svg")
    text = path.read_bytes().decode()
    results = insert_results(text, "\n\n".join(parts), where=path)
    files[path] = results.encode()  # last: it shows the others
    return write_files(files)


def make_study(
    study: Study, drawings: Sequence[Drawing], name: str, folder: str
) -> str:
    """Returns what a study came to in Markdown.

    Args:
        study: its arms and contrasts.
        drawings: its figures.
        name: what to call the file of records.
        folder: where the figures are, from the Markdown file.
    """
    done = sum(arm.done for arm in study.arms)
    asked = sum(arm.asked for arm in study.arms)
    paragraphs = [
        f"### {study.name}",
        f"Completed runs: {done} of {asked} (records in `{name}`)."
        f"{_say_where(study.groups)} Accuracies in percent, mean ± sample "
        "standard deviation over n seeds.",
        tables.tabulate_arms(study).to_markdown(),
    ]
    if study.rows:
        paragraphs += [
            "Differences in percentage points, paired by seed, with the 95 % "
            "interval by Student's t. Intervals, and the p of McNemar's exact "
            "test of each seed's two networks, are not corrected for multiple "
            "comparisons; the t-test of primary contrasts is two-sided.",
            tables.tabulate_contrasts(study).to_markdown(),
            *_tell_shared(study),
            *_tell_withheld(study),
            *_warn_of_machines(study.groups),
        ]
    for drawing in drawings:
        paragraphs += [
            f"![{tables.escape_markdown(drawing.alt)}]"
            f"({urllib.parse.quote(f'{folder}/{drawing.name}.svg')})",
            f"{drawing.title}. {drawing.caption}",
        ]
    return "\n\n".join(paragraphs)


def _tell_shared(study: Study) -> list[str]:
    """Which pairs would be of a run with itself."""
    told = [
        f"{row.contrast.treated} minus {row.contrast.control} (seed "
        f"{', '.join(map(str, row.found.shared))})"
        for row in study.rows
        if row.found and row.found.shared
    ]
    if not told:
        return []
    return [
        "Runs that are in both arms of a contrast make no pair: "
        f"{tables.escape_markdown('; '.join(told))}."
    ]


def _tell_withheld(study: Study) -> list[str]:
    """Why no primary contrast has a p, where runs are missing."""
    deciding = {
        name
        for row in study.rows
        if row.contrast.primary
        for name in (row.contrast.treated, row.contrast.control)
    }
    missing = [
        f"{arm.name} ({arm.done} of {arm.asked})"
        for arm in study.arms
        if arm.name in deciding and arm.done < arm.asked
    ]
    if not missing:
        return []
    return [
        "Primary contrasts have no p before all of their runs are recorded. "
        f"Missing: {'; '.join(missing)}."
    ]


def _say_where(groups: Sequence[Group]) -> str:
    """On what the runs were done, and by which commits."""
    records = [run.record for group in groups for run in group.runs]
    if not records:
        return ""
    found = [
        {
            f"{record.backend} {record.versions.get(record.backend)}"
            for record in records
        },
        {name for record in records for name in record.machine_names},
        {
            f"commit {str(one)[:8]}"
            for record in records
            for one in record.commits
        },
    ]
    return f" On {'; '.join(', '.join(sorted(some)) for some in found)}."


def _warn_of_machines(groups: Sequence[Group]) -> list[str]:
    """Names the seeds whose runs differ in more than their arm."""
    mixed = mixed_seeds(groups)
    if not mixed:
        return []
    return [
        "Runs of the same seed were on several backends or machines, and "
        "differ by these too: those of seed "
        f"{', '.join(map(str, mixed))}."
    ]
