"""The pre-commit hooks leave clean notebooks alone."""

import json
import shutil
import subprocess
import sys

import jupytext
import pytest
import yaml
from support import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def _strip(path):
    """Runs nbstripout as `.pre-commit-config.yaml` does."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    args = next(h["args"] for h in hooks if h["id"] == "nbstripout")
    subprocess.run(
        [sys.executable, "-m", "nbstripout", *args, str(path)], check=True
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_clean_notebooks_are_not_rewritten(path, tmp_path):
    copy = tmp_path / path.name
    shutil.copy(path, copy)
    _strip(copy)
    assert json.loads(copy.read_text()) == json.loads(path.read_text())


def test_metadata_of_editors_is_removed(tmp_path):
    path = tmp_path / "notebook.ipynb"
    shutil.copy(NOTEBOOKS[0], path)
    notebook = json.loads(path.read_text())
    notebook["metadata"]["vscode"] = {"interpreter": {"hash": "0"}}
    for cell in notebook["cells"]:
        cell["metadata"]["vscode"] = {"languageId": "python"}
    path.write_text(json.dumps(notebook))
    script = jupytext.writes(jupytext.read(path), fmt="py:percent")
    assert "vscode" not in script
    _strip(path)
    assert "vscode" not in path.read_text()
