"""A child process ends with the one that started it, however that ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import wait_for

from gnsmall_keras import child

# As `child.working` takes one: it says who it is, then does as it is told.
MODULE = """
import os, sys, time
from pathlib import Path

def work(folder):
    (folder / "begun").write_text(f"{os.getpid()}")
    order = (folder / "order").read_text()
    if order == "sleep":
        time.sleep(600)
    if order == "refuse":
        raise ValueError("no such layer")
    if order == "fail":
        raise KeyError("lost")
    if order == "die":
        os.kill(os.getpid(), 11)
"""
STARTER = """
import sys
from pathlib import Path
from gnsmall_keras.child import working

with working("{name}", {{"PYTHONPATH": "{path}"}}) as worker:
    (worker.folder / "order").write_text("sleep")
    print(worker.folder, flush=True)
    {wait}
    worker.finish("It failed")
"""


@pytest.fixture
def module(tmp_path):
    """Its name, and the path that it is found on."""
    (tmp_path / "some_work.py").write_text(MODULE)
    return "some_work", os.pathsep.join([str(tmp_path), *sys.path])


def _working(module, order):
    name, path = module
    with child.working(name, {"PYTHONPATH": path}) as worker:
        (worker.folder / "order").write_text(order)
        worker.finish("It failed")
        return (worker.folder / "begun").read_text()


def test_child_does_its_work_and_leaves_nothing(module, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(child.tempfile, "tempdir", str(tmp_path / "temporary"))
    assert int(_working(module, "nothing")) != os.getpid()
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("refuse", "^no such layer$"),
        ("fail", "It failed; .* status 1, .*KeyError: 'lost'"),
        ("die", "It failed; .* signal 11, .*none"),
    ],
)
def test_failure_comes_back_in_one_line(module, order, message):
    with pytest.raises(ValueError, match=message) as error:
        _working(module, order)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("when", ["before it works", "while it works"])
def test_killing_the_starter_ends_the_child(module, tmp_path, number, when):
    name, path = module
    wait = "sys.stdin.read()" if when == "before it works" else ""
    code = STARTER.format(name=name, path=path, wait=wait)
    place = tmp_path / "temporary"
    place.mkdir()
    starter = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(place)},
    )
    with starter:
        folder = starter.stdout.readline().strip()
        assert folder.startswith(str(place))
        if not wait:
            begun = Path(folder, "begun")
            wait_for(lambda: begun.is_file() and begun.read_text(), 5)
            pid = int(begun.read_text())
        starter.send_signal(number)
    wait_for(lambda: not any(place.iterdir()), 5)
    if not wait:
        wait_for(lambda: not _lives(pid), 5)


def test_lifeline_ends_with_its_block():
    code = "import gnsmall_keras.child as c, os, time; c.watch_starter("
    code += "lambda: os._exit(7)); time.sleep(600)"
    with child.lifeline() as stdin:
        process = subprocess.Popen([sys.executable, "-c", code], stdin=stdin)
        time.sleep(0.1)
        assert process.poll() is None
    assert process.wait(5) == 7


def _lives(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"  # which waits for its parent alone
