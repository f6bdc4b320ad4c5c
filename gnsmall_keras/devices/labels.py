"""What else is known of a .tflite file: its classes' names, its report."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from gnsmall_keras.data.decoding import ASPECTS
from gnsmall_keras.export.metadata import LABELS_FILE, read_labels


def find_labels(path: str | os.PathLike[str]) -> list[str]:
    """Returns the names of a file's classes, wherever they stand.

    Args:
        path: of the .tflite file.

    Returns:
        Those of its metadata, else those in the report of its export beside
        it, else the lines of `labels.txt` there; none where there are none.
    """
    path = Path(path)
    return (
        read_labels(path.read_bytes())
        or read_report_beside(path).get("class_names", [])
        or _beside(path.with_name(LABELS_FILE))
    )


def find_aspect(path: str | os.PathLike[str]) -> str | None:
    """Returns how a file's images become square, by its report; else None.

    Args:
        path: of the .tflite file.

    Raises:
        ValueError: if the report says what is none of `ASPECTS`.
    """
    path = Path(path)
    aspect = read_report_beside(path).get("aspect")
    if aspect not in (None, *ASPECTS):
        raise ValueError(
            f"The `aspect` of a report must be one of {ASPECTS}. Received: "
            f"{aspect!r} in {path.with_suffix('.json')}. Export {path.name} "
            "again, or remove the report."
        )
    return aspect


def read_report_beside(path: Path) -> dict[str, Any]:
    """Returns the report of a file's export, if it is of the file; else {}.

    Raises:
        ValueError: if it is no JSON.
    """
    report = path.with_suffix(".json")
    if not report.is_file():
        return {}
    try:
        found = json.loads(report.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{report} is not the report of an export: {error}. Export "
            f"{path.name} again, or remove the report."
        ) from None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if not isinstance(found, dict) or found.get("sha256") != digest:
        return {}
    return found


def read_lines(labels: Path) -> list[str]:
    """Returns the lines of a file of labels, without a byte order mark."""
    return labels.read_text(encoding="utf-8-sig").splitlines()


def _beside(labels: Path) -> list[str]:
    if not labels.is_file():
        return []
    return read_lines(labels)
