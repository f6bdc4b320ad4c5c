"""Executes the notebooks with small parameters: `make gallery [NAME ...]`.

Copies with their outputs go to gallery/, with a manifest of what they were made
of; tests/notebooks/test_gallery.py holds the manifest to the notebooks.
"""

import hashlib
import json
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
import papermill

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "notebooks"
GALLERY = Path(__file__).with_name("gallery")
MANIFEST = GALLERY / "manifest.json"
MOST_BYTES = 500_000
LOG = re.compile(
    r"WARNING: All log messages before absl|[IWE]\d{4} \d\d:\d\d"
    r"|INFO: Created TensorFlow Lite"
)
# Minutes on two CPU cores for all of them.
PARAMETERS = {
    "00_quickstart": {},  # its own
    "01_architecture": {"width": 0.5, "epochs": 7},
    "02_train": {"width": 0.25, "epochs": 8, "batch_size": 64},
    "03_distillation": {
        "epochs": 12,
        "teacher_width": 0.5,
        "assistant_width": 0.35,
    },
    "04_report": {
        "index": str(ROOT / "papermill_runs/index.jsonl"),
        "most_figures": 6,
    },
    "05_deployment": {
        "width": 0.25,
        "epochs": 6,
        "calibration_size": 100,
        "test_size": 200,
    },
    "06_own_photos": {"seconds": 400, "sizes": 2},
}


def main() -> int:
    """Executes the notebooks named on the command line, or all."""
    names = sys.argv[1:] or [*PARAMETERS]
    GALLERY.mkdir(exist_ok=True)
    for name in names:
        execute(name)
        size = (GALLERY / f"{name}.ipynb").stat().st_size
        print(f"{name}: {size:,} bytes", flush=True)
    return 0


def execute(name: str) -> None:
    """Executes one notebook, and writes its copy and its digest.

    Args:
        name: of the notebook, without its ending.

    Raises:
        ValueError: if the copy is larger than a gallery's may be.
        papermill.PapermillExecutionError: if a cell fails; the earlier copy
            stays.
    """
    source = SOURCES / f"{name}.ipynb"
    with tempfile.TemporaryDirectory() as folder:
        done = Path(folder) / "done.ipynb"
        os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
        os.environ["PYTHONPATH"] = str(ROOT)
        papermill.execute_notebook(
            source,
            done,
            PARAMETERS[name],
            kernel_name="python3",
            cwd=folder,
            progress_bar=False,
        )
        notebook = nbformat.read(done, as_version=4)
    tidy(notebook)
    text = nbformat.writes(notebook) + "\n"
    if len(text.encode()) > MOST_BYTES:
        raise ValueError(
            f"A notebook of the gallery has at most {MOST_BYTES:,} bytes. "
            f"Received: {name} with {len(text.encode()):,}. Draw less."
        )
    (GALLERY / f"{name}.ipynb").write_text(text, "utf-8")
    known = json.loads(MANIFEST.read_text()) if MANIFEST.is_file() else {}
    known[name] = digest(source)
    MANIFEST.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Removes what is of this execution alone: times, paths, parameters' cell.

    Args:
        notebook: changed in place.
    """
    for holder in (notebook, *notebook.cells):
        for key in ("papermill", "execution", "jupytext", "widgets"):
            holder.metadata.pop(key, None)
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", ()):
            cell.source = cell.source.replace(f"{ROOT}/", "")
        for output in cell.get("outputs", ()):
            output.get("metadata", {}).pop("application/papermill", None)
        if "outputs" in cell:
            cell.outputs = [one for one in cell.outputs if not _is_log(one)]


def _is_log(output):
    """TensorFlow's own lines, and the address of a figure's part."""
    shown = output.get("data", {}).get("text/plain", "")
    if len(output.get("data", {})) == 1 and "<matplotlib." in shown:
        return True
    text = output.get("text", "") if output.get("name") == "stderr" else ""
    lines = [line for line in text.splitlines() if line.strip()]
    return bool(lines) and all(LOG.match(line) for line in lines)


def digest(source: Path) -> str:
    """Returns the SHA-256 of a notebook's cells: metadata may change.

    Args:
        source: the notebook.
    """
    cells = nbformat.read(source, as_version=4).cells
    text = "\0".join(f"{cell.cell_type}\0{cell.source}" for cell in cells)
    return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
