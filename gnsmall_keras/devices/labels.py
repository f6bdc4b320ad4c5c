"""The names of a .tflite file's classes: in the file, or beside it."""

import hashlib
import json
import os
from pathlib import Path

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
    data = path.read_bytes()
    return (
        read_labels(data)
        or _reported(path.with_suffix(".json"), data)
        or _beside(path.with_name(LABELS_FILE))
    )


def _reported(report: Path, data: bytes) -> list[str]:
    """The classes in a report, if it is of the file; else none."""
    if not report.is_file():
        return []
    found = json.loads(report.read_text(encoding="utf-8"))
    if found["sha256"] != hashlib.sha256(data).hexdigest():
        return []
    return found.get("class_names", [])


def _beside(labels: Path) -> list[str]:
    if not labels.is_file():
        return []
    return labels.read_text(encoding="utf-8").splitlines()
