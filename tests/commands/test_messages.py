"""Advice names options that exist."""

import ast
import re

import pytest
from support import ROOT

from gnsmall_keras import cli

pytestmark = pytest.mark.any_backend

OPTION = re.compile(r"(?<![\w-])--([a-z][a-z0-9-]*[a-z0-9])(?![\w-])")
# Of compilers, tar, git, nvidia-smi, Vela, Jupyter, Ray, benchmark_model, and
# the scripts in tflite/.
OTHERS = {
    *("specs", "gc-sections", "dereference", "untracked-files", "porcelain"),
    *("query-gpu", "format", "accelerator-config", "system-config", "config"),
    *("memory-mode", "output-dir", "show-cpu-operations", "version"),
    *("sys-prefix", "delegate", "head", "graph"),
}


@pytest.fixture(scope="module")
def options():
    """All options of all commands, by their help."""
    import contextlib
    import io

    printed = io.StringIO()
    for command in cli.COMMANDS:
        with contextlib.redirect_stdout(printed), pytest.raises(SystemExit):
            cli.main([command, "--help-all"])
    return {"help-all", *OPTION.findall(printed.getvalue())}


def _texts(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_options_in_messages_and_docstrings_exist(options):
    package = ROOT / "gnsmall_keras"
    unknown = set()
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        named = {
            option for text in _texts(path) for option in OPTION.findall(text)
        }
        left = named - options - OTHERS
        unknown |= {f"{name}: --{option}" for option in left}
    assert unknown == set()
