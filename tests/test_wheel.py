"""The wheel in an environment of its own: README's code, as it stands."""

import os
import re
import subprocess
import sys
import venv

import pytest
from support import ROOT, cifar10_folder

import gnsmall_keras

README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.S | re.M)
AFTER = """
assert logits.shape == (8, 10), logits.shape
assert not report.faults, report.faults
assert keras.saving.load_model("student.keras").output_shape == (None, 10)
assert "site-packages" in gns.__file__, gns.__file__
"""


def _run(*command, cwd):
    left = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**left, "KERAS_BACKEND": "tensorflow"},
    )


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """The folder of programs of an environment that has the wheel alone."""
    folder = tmp_path_factory.mktemp("wheel")
    build = (sys.executable, "-m", "pip", "wheel", "--no-deps", ROOT)
    built = _run(*build, "--wheel-dir", folder, cwd=folder)
    if built.returncode:
        pytest.skip(f"hatchling cannot be had: {built.stderr[-300:]}")
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=True)
    found = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
    install = (
        found / "python",
        "-m",
        "pip",
        "install",
        f"{wheel}[export,report]",
    )
    installed = _run(*install, cwd=folder)
    assert installed.returncode == 0, installed.stderr
    return found


def test_readme_has_the_blocks_that_are_run():
    assert len(BLOCKS) == 2
    assert not any("..." in block for block in BLOCKS)


@pytest.mark.slow
@pytest.mark.export
@pytest.mark.skipif(
    cifar10_folder() is None, reason="GNSMALL_DATA does not name CIFAR-10"
)
def test_readme_s_code_runs(programs, tmp_path):
    script = tmp_path / "readme.py"
    script.write_text("\n".join([*BLOCKS, AFTER]), "utf-8")
    done = _run(programs / "python", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model.tflite").is_file()


@pytest.mark.slow
def test_commands_are_there(programs, tmp_path):
    done = _run(programs / "gnsmall", "--version", cwd=tmp_path)
    version = gnsmall_keras.__version__
    assert done.stdout == f"gnsmall-keras {version}\n", done.stderr
    assert _run(programs / "gnsmall", "models", cwd=tmp_path).returncode == 0
    told = _run(programs / "gnsmall", "info", cwd=tmp_path)
    assert (told.returncode, told.stderr) == (0, "")
    assert "commit unknown" in told.stdout
    refused = _run(programs / "gnsmall", "report", cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
