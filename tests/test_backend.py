"""JAX is taken where it sees a GPU and nobody has named a backend."""

import os
import subprocess
import sys

import pytest

from gnsmall_keras import backend

VARIABLE = "KERAS_BACKEND"


@pytest.fixture
def unset(monkeypatch):
    """As before anything is imported or set; a GPU that JAX sees."""
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setattr(backend, "jax_sees_gpu", lambda: True)
    return monkeypatch


def test_jax_is_taken_where_it_sees_a_gpu_and_that_is_said(unset, capsys):
    assert backend.choose_backend("tensorflow") == "jax"
    assert os.environ[VARIABLE] == "jax"
    assert "training on JAX" in capsys.readouterr().err


def test_what_is_set_or_imported_stays(unset, capsys):
    unset.setenv(VARIABLE, "torch")
    assert backend.choose_backend("tensorflow") == "torch"
    unset.setenv(VARIABLE, "")
    unset.setitem(sys.modules, "keras", pytest)
    assert backend.choose_backend("tensorflow") == ""
    assert capsys.readouterr().err == ""


def test_without_a_gpu_the_default_is_taken(unset):
    unset.setattr(backend, "jax_sees_gpu", lambda: False)
    assert backend.choose_backend() == ""
    assert backend.choose_backend("tensorflow") == "tensorflow"


def test_jax_is_asked_only_where_there_may_be_a_gpu(monkeypatch):
    asked = []

    def ask(command, **options):
        asked.append(command)
        return subprocess.CompletedProcess(command, returncode=1)

    monkeypatch.setattr(backend.subprocess, "run", ask)
    monkeypatch.setattr(backend.shutil, "which", lambda name: None)
    assert not backend.jax_sees_gpu()
    monkeypatch.setattr(backend.shutil, "which", lambda name: "/bin/nvidia-smi")
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: None)
    assert not backend.jax_sees_gpu()
    assert not asked
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: 1)
    assert not backend.jax_sees_gpu(), "a build that cannot use it"
    assert len(asked) == 1
