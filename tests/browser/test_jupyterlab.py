"""Notebooks as people run them: in JupyterLab, by Run All."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest
from support import ROOT, with_parameters

pytestmark = pytest.mark.browser
SMOKE = {
    "00_quickstart": {"width": 0.25, "epochs": 1},
    "02_train": {"width": 0.25, "epochs": 1},
}
MOST_LINES = 200  # of text in all outputs
START_SECONDS, RUN_SECONDS = 60, 600
_SETTINGS = "lab-settings/@jupyterlab/apputils-extension"
# Afterwards `outcome` is "" or an error of JupyterLab's, not of a cell's.
RUN_ALL = """() => {
  const run = async () => {
    const panel = window.jupyterapp.shell.currentWidget;
    await panel.context.ready;
    await panel.sessionContext.ready;
    await window.jupyterapp.commands.execute("notebook:run-all-cells");
    await panel.context.save();
  };
  run().then(() => (window.outcome = ""), (e) => (window.outcome = String(e)));
}"""


@pytest.fixture
def jupyterlab(tmp_path):
    """A server of a folder with the notebooks; yields both."""
    pytest.importorskip("jupyterlab")
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        text = with_parameters(path, SMOKE.get(path.stem, {}))
        (tmp_path / path.name).write_text(text)
    quiet = tmp_path / _SETTINGS / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text(json.dumps({"fetchNews": "false"}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
        *(f"--port={port}", "--ServerApp.port_retries=0"),
        *("--IdentityProvider.token=", "--expose-app-in-browser"),
    ]
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen(
            command,
            cwd=tmp_path,
            env={
                **os.environ,
                "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "lab-settings"),
            },
            stdout=log,
            stderr=log,
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/api", server)
        yield f"http://127.0.0.1:{port}", tmp_path
    finally:
        server.terminate()  # it ends its kernels first
        server.wait()


def _wait_for(url, server):
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(url).close()
            return
        except OSError:
            assert server.poll() is None, "the server ended"
            assert time.monotonic() < end, "the server does not answer"
            time.sleep(0.2)


@pytest.mark.parametrize("name", ["00_quickstart", "02_train", "04_report"])
def test_run_all_ends_without_an_error(
    chromium, jupyterlab, keep_screenshot, name
):
    url, folder = jupyterlab
    page = chromium.new_page(viewport={"width": 1280, "height": 1600})
    page.set_default_timeout(1000 * START_SECONDS)
    page.goto(f"{url}/lab/tree/{name}.ipynb?reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    page.evaluate(RUN_ALL)
    page.wait_for_function(
        "window.outcome !== undefined", timeout=1000 * RUN_SECONDS
    )
    keep_screenshot(page, name)
    assert page.evaluate("window.outcome") == ""
    page.close()
    cells = nbformat.read(folder / f"{name}.ipynb", as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    outputs = [output for cell in code for output in cell.outputs]
    failed = [one for one in outputs if one.output_type == "error"]
    assert failed == []
    assert all(cell.execution_count for cell in code)
    assert any("image/png" in one.get("data", {}) for one in outputs)
    lines = sum(one.get("text", "").count("\n") for one in outputs)
    print(f"{name}: {lines} lines of text")
    assert 0 < lines < MOST_LINES
