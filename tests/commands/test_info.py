"""`gnsmall info`: facts for bug reports."""

import sys

import keras
import pytest

import gnsmall_keras
from gnsmall_keras import cli
from gnsmall_keras.commands import info

pytestmark = pytest.mark.backend


def test_it_names_what_results_rest_on(capsys):
    assert cli.main(["info"]) == 0
    captured = capsys.readouterr()
    facts = dict(line.split(":", 1) for line in captured.out.splitlines())
    assert gnsmall_keras.__version__ in facts["gnsmall-keras"]
    assert keras.config.backend() in facts["backend"]
    assert f"keras {keras.__version__}" in facts["packages"]
    assert {"python", "system", "processor", "vectors", "cores"} <= {*facts}
    assert captured.err == ""


def test_other_backends_are_not_imported(monkeypatch):
    for name in {"tensorflow", "torch", "jax"} - {keras.config.backend()}:
        monkeypatch.setitem(sys.modules, name, None)
    assert "unknown" not in info.describe()["gpus"]


def test_a_backend_that_does_not_start_is_a_fact(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    assert "does not start" in info.describe()["gpus"]


def test_it_says_why_there_are_no_kernels_and_compiles_none(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "not compiled yet" in info.describe()["kernels"]
    assert list(tmp_path.rglob("*.so")) == []
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("GNSMALL_KERNELS", "keras")
    told = info.describe()["kernels"]
    assert "no-such-compiler" in told
    assert "GNSMALL_KERNELS=keras" in told


def test_kernels_are_looked_for_where_they_are_kept(monkeypatch, tmp_path):
    """The name that `native.build` gives the library."""
    from gnsmall_keras.native import build

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = []

    monkeypatch.setattr(build, "_is_whole", lambda path: True)
    monkeypatch.setattr(build, "_load", asked.append)
    build.library.cache_clear()
    assert build.library() == asked[0]
    build.library.cache_clear()
    asked[0].parent.mkdir(parents=True)
    asked[0].touch()
    assert info.describe()["kernels"] == f"compiled: {asked[0]}"
