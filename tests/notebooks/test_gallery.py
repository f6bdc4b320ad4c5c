"""The gallery shows the notebooks as they are, with outputs, and no larger."""

import importlib.util
import json
import re

import nbformat
import pytest
from support import ROOT

GALLERY = ROOT / "papermill_runs/gallery"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def _load():
    path = ROOT / "papermill_runs/make_gallery.py"
    spec = importlib.util.spec_from_file_location("make_gallery", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKE = _load()


def _cells(path):
    return [
        cell
        for cell in nbformat.read(GALLERY / path.name, as_version=4).cells
        if cell.cell_type == "code"
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestCopy:
    def test_is_of_this_notebook(self, path):
        known = json.loads(MAKE.MANIFEST.read_text())
        assert known[path.stem] == MAKE.digest(path), "call: make gallery"

    def test_was_executed_without_an_error(self, path):
        outputs = [o for cell in _cells(path) for o in cell.outputs]
        assert all(cell.execution_count for cell in _cells(path))
        assert not [o for o in outputs if o.output_type == "error"]
        assert any("image/png" in o.get("data", {}) for o in outputs)

    def test_has_no_line_of_a_framework_s_own(self, path):
        told = [
            output.text
            for cell in _cells(path)
            for output in cell.outputs
            if output.get("name") == "stderr" and MAKE.LOG.search(output.text)
        ]
        assert told == []

    def test_is_small_and_names_no_folder_of_a_machine(self, path):
        text = (GALLERY / path.name).read_text("utf-8")
        assert len(text.encode()) <= MAKE.MOST_BYTES
        assert not re.search(r'[" ](/home|/root|/tmp|/work)/', text)


def test_the_manifest_has_no_other_notebook():
    names = {path.stem for path in NOTEBOOKS}
    assert {*MAKE.PARAMETERS} == names
    assert {*json.loads(MAKE.MANIFEST.read_text())} == names
    assert {path.stem for path in GALLERY.glob("*.ipynb")} == names
