"""Every notebook runs from a fresh kernel, by papermill and by nbval."""

import ast
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys

import jupytext
import nbformat
import numpy as np
import papermill
import pytest
from PIL import Image
from support import ROOT, with_parameters

from gnsmall_keras.config import RunConfig
from gnsmall_keras.data.sources import load_data

pytestmark = pytest.mark.notebook
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# Papermill's parameters of a run in seconds; nbval, which passes none, gets a
# copy that has them.
SMOKE = {
    "00_quickstart": {"width": 0.25, "epochs": 1},
    "01_architecture": {"width": 0.25, "epochs": 1, "widths": [0.25]},
    "02_train": {"width": 0.25, "epochs": 1},
    "03_distillation": {
        "epochs": 1,
        "peak_learning_rate": 0.01,  # a few steps at the recipe's diverge
        "assistant_width": 0.25,
        "teacher_width": 0.3,  # else it is the baseline of its seed
        "seeds": [0, 1],
    },
    "04_report": {"most_figures": 2},
    "05_deployment": {
        "width": 0.25,
        "epochs": 1,
        "calibration_size": 50,
        "test_size": 50,
        "other_targets": ["edgetpu"],
        "other_kinds": [],
    },
    "06_own_photos": {"seconds": 120, "sizes": 1},
}
LEAVES_A_RECORD = {
    "00_quickstart",
    "01_architecture",
    "02_train",
    "05_deployment",
}  # of one training
# Run on a folder without test images; the gallery has shown them with some.
WITHOUT_TEST = {"01_architecture", "03_distillation"}
# Parameters of 02_train that are no fields.
TRAIN_EXTRA = {"out": "runs", "index": None}


def test_the_training_notebook_has_the_config_s_fields_and_defaults():
    path = ROOT / "notebooks" / "02_train.ipynb"
    found = {
        name: ast.literal_eval(parameter["default"])
        for name, parameter in papermill.inspect_notebook(str(path)).items()
    }
    expected = {
        field.name: [] if field.default == () else field.default
        for field in dataclasses.fields(RunConfig)
    }
    assert found == {**expected, **TRAIN_EXTRA}
    assert [*found] == [*expected, *TRAIN_EXTRA], "in the config's order"


def printed(notebook):
    return [
        line
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        for line in output.get("text", "").splitlines()
    ]


def test_every_notebook_says_how_it_runs_in_seconds():
    assert [*SMOKE] == [path.stem for path in NOTEBOOKS]


# By default nbval executes these, and papermill the others, with fewer images.
BY_NBVAL = {"02_train"}
# By neither: these take longest.
SLOW = {
    "00_quickstart",
    "01_architecture",
    "03_distillation",
    "05_deployment",
    "06_own_photos",
}


def _each(by_default):
    """Every notebook; slow are those that the other one has executed."""
    return pytest.mark.parametrize(
        "path",
        [
            pytest.param(
                path,
                marks=[] if by_default(path.stem) else pytest.mark.slow,
            )
            for path in NOTEBOOKS
        ],
        ids=lambda path: path.stem,
    )


@pytest.fixture(scope="module")
def few_images(tmp_path_factory):
    """A folder of 20 digits a class to train on, and 5 to test."""
    digits, root = load_data("digits"), tmp_path_factory.mktemp("images")
    for split, images, labels, count in (
        ("train", digits.train_images, digits.train_labels, 20),
        ("test", digits.test_images, digits.test_labels, 5),
    ):
        for label in range(10):
            folder = root / split / str(label)
            folder.mkdir(parents=True)
            for index in np.flatnonzero(labels == label)[:count]:
                Image.fromarray(images[index]).save(folder / f"{index}.png")
    return root


class TestNotebook:
    @_each(lambda name: True)
    def test_has_no_outputs_and_a_parameters_cell(self, path):
        notebook = nbformat.read(path, as_version=4)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert code
        assert all(not cell.outputs for cell in code)
        assert papermill.inspect_notebook(str(path))

    @_each(lambda name: True)
    def test_agrees_with_its_py_file(self, path):
        ours = [cell.source for cell in jupytext.read(path).cells]
        paired = jupytext.read(path.with_suffix(".py")).cells
        assert ours == [cell.source for cell in paired]

    @_each(lambda name: name not in BY_NBVAL | SLOW)
    def test_runs_under_papermill(self, path, tmp_path, few_images):
        smoke, known = SMOKE[path.stem], papermill.inspect_notebook(str(path))
        if "data" in known:
            part = "train" if path.stem in WITHOUT_TEST else "."
            smoke = {**smoke, "data": str(few_images / part)}
        # Papermill only warns of a parameter that the notebook lacks.
        assert smoke.keys() <= known.keys()
        done = self._run(
            path,
            tmp_path,
            *("-m", "papermill", path, tmp_path / "out.ipynb"),
            *("-k", "python3", "--no-progress-bar", "-y", json.dumps(smoke)),
        )
        assert done.returncode == 0, done.stdout
        if path.stem in LEAVES_A_RECORD:
            assert (tmp_path / "runs/index.jsonl").is_file()
            executed = nbformat.read(tmp_path / "out.ipynb", as_version=4)
            # Live lines and their remains would be outputs as well.
            shown = [
                line for line in printed(executed) if line.startswith("epoch")
            ]
            assert len(shown) == 1
            assert shown[0].startswith("epoch 1/1  accuracy ")

    @_each(BY_NBVAL.__contains__)
    def test_runs_under_nbval(self, path, tmp_path):
        copy = tmp_path / path.name
        copy.write_text(with_parameters(path, SMOKE[path.stem]))
        done = self._run(
            path,
            tmp_path,
            *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull),
            *("--nbval-lax", "--nbval-current-env", copy),
        )
        assert done.returncode == 0, done.stdout

    def _run(self, path, folder, *arguments):
        backend = {}
        if importlib.util.find_spec("torch"):
            backend = {"KERAS_BACKEND": "torch"}  # it starts fastest
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=folder,
            env={**os.environ, "MPLBACKEND": "agg", **backend},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
