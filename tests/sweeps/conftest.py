"""A short notebook in the place of the training's."""

import subprocess
import sys
import types

import nbformat
import pytest
from support import ROOT

from gnsmall_keras.records.run import INDEX_FILE
from gnsmall_keras.sweeps import process
from gnsmall_keras.sweeps.notebook import find_notebook
from gnsmall_keras.sweeps.plan import read_sweep

# What the training notebook does, without training. Seed 1 fails, seed 2 waits
# until it is interrupted, and seeds from 3 on kill a process, once: the kernel,
# the worker, and on a Ray cluster Ray's worker and the machine's raylet.
BODY = """
import dataclasses
import os
import time
from pathlib import Path
import psutil
from gnsmall_keras.config import RunConfig
from gnsmall_keras.records.run import append_record, read_records

fields = [field.name for field in dataclasses.fields(RunConfig)]
config = RunConfig(**{name: globals()[name] for name in fields})
if seed == 1:
    raise ValueError("no luck,\\n on two lines")
if seed == 2:
    Path(out, "waiting").touch()
    try:
        time.sleep(600)
    except KeyboardInterrupt:
        Path(out, "interrupted").touch()
        raise
if seed > 2 and not Path(out, f"killed-{seed}").exists():
    Path(out, f"killed-{seed}").touch()
    victim = [psutil.Process(), *psutil.Process().parents()][seed - 3]
    name = ("ipykernel", "sweeps.worker", "ray::", "raylet")[seed - 3]
    assert name in " ".join(victim.cmdline()), victim
    victim.kill()
    time.sleep(600)
assert all(Path(out, name, "model.keras").is_file() for name in teachers)
print(os.environ.get("CUDA_VISIBLE_DEVICES"))
record = dataclasses.replace(
    next(read_records(KNOWN)), slug=config.slug, digest=config.digest
)
Path(out, config.slug, "record.json").write_text(record.to_json())
append_record(record, index)
"""


@pytest.fixture
def read(tmp_path):
    """Reads a text as a sweep file."""

    def written(text):
        (tmp_path / "sweep.toml").write_text(text)
        return read_sweep(tmp_path / "sweep.toml")

    return written


@pytest.fixture
def refuse(read):
    """Asserts that a sweep file is refused, in one line with its name."""

    def refused(text, message):
        with pytest.raises(ValueError, match="sweep.toml: ") as error:
            read(text)
        assert message in str(error.value)
        assert "\n" not in str(error.value)

    return refused


@pytest.fixture
def notebook(tmp_path):
    """A notebook with the parameters of the real one, and a short body."""
    real = nbformat.read(find_notebook(), as_version=4)
    cells = [
        cell
        for cell in real.cells
        if "parameters" in cell.metadata.get("tags", ())
    ]
    known = str(ROOT / "papermill_runs" / INDEX_FILE)
    body = BODY.replace("KNOWN", repr(known))
    real.cells = [*cells, nbformat.v4.new_code_cell(body)]
    nbformat.write(real, tmp_path / "short.ipynb")
    return tmp_path / "short.ipynb"


@pytest.fixture
def interrupted(monkeypatch):
    """Has Ctrl-C come while the first notebook runs; returns what started.

    Workers end with status 3 when their standard input does.
    """
    started = []
    code = "import sys; sys.stdin.read(); sys.exit(3)"

    def start(job, environment, *, folder):
        worker = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE
        )
        log = job.executed.with_suffix(".log")
        started.append(process.RunningJob(job, worker, log))
        return started[-1]

    def sleep(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(process, "start", start)
    monkeypatch.setattr(process, "time", types.SimpleNamespace(sleep=sleep))
    return started
