"""Public names say types, shapes, units and errors, and examples run."""

import doctest
import inspect
import io
import os
import re

import keras
import numpy as np
import pytest
from support import ROOT

import gnsmall_keras

NAMES = sorted(gnsmall_keras.__all__)
LONG = {"Fitted", "export_tflite", "fit", "train"}


@pytest.fixture
def working_copy(tmp_path, monkeypatch):
    """A folder that has what examples read, and takes what they write."""
    monkeypatch.chdir(tmp_path)
    for folder in ("papermill_runs", "tflite"):
        (tmp_path / folder).symlink_to(ROOT / folder)


def _examples(name):
    found = getattr(gnsmall_keras, name)
    return doctest.DocTestParser().get_doctest(
        inspect.getdoc(found) or "",
        {"gns": gnsmall_keras, "keras": keras, "np": np},
        name,
        None,
        None,
    )


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in LONG else [])
        for name in NAMES
    ],
)
def test_examples_run(name, working_copy):
    test = _examples(name)
    assert test.examples
    told = io.StringIO()
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    doctest.DocTestRunner(optionflags=flags).run(test, out=told.write)
    assert not told.getvalue(), told.getvalue()
    assert os.getcwd() != str(ROOT)  # noqa: PTH109


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_has_a_type(name):
    found = getattr(gnsmall_keras, name)
    callee = found.__init__ if inspect.isclass(found) else found
    signature = inspect.signature(callee)
    without = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.annotation is parameter.empty and parameter.name != "self"
    ]
    assert without == []
    if not inspect.isclass(found):
        assert signature.return_annotation is not signature.empty


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_is_described(name):
    """Of functions: where arguments are another's, the text says so."""
    found = getattr(gnsmall_keras, name)
    doc = inspect.getdoc(found)
    assert doc
    if inspect.isclass(found):
        return
    told = doc.partition("Args:")[2]
    for parameter in inspect.signature(found).parameters:
        described = re.search(rf"\b{parameter}\b.*:", told)
        assert described or "Arguments, result and errors" in doc
