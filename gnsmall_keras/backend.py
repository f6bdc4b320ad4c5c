"""Which backend trains where nobody has named one."""

import importlib.util
import os
import shutil
import subprocess
import sys

from gnsmall_keras.lines import say

_PATIENCE = 60  # seconds to wait for an answer
_VARIABLE = "KERAS_BACKEND"
_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")


def choose_backend(default: str = "") -> str:
    """Sets KERAS_BACKEND to "jax" where JAX sees a GPU; says so on stderr.

    There an epoch is a few programs, and several runs may be one
    (docs/adr/0026). What is set, or imported already, stays as it is.

    Args:
        default: what to set it to elsewhere; empty: nothing.

    Returns:
        What it is set to, or an empty string.
    """
    named = os.environ.get(_VARIABLE)
    if named or "keras" in sys.modules:
        return named or ""
    if jax_sees_gpu():
        os.environ[_VARIABLE] = "jax"
        say(
            "JAX sees a GPU and KERAS_BACKEND is not set: training on JAX. "
            "Set KERAS_BACKEND to choose another backend."
        )
    elif default:
        os.environ[_VARIABLE] = default
    return os.environ.get(_VARIABLE, "")


def jax_sees_gpu() -> bool:
    """Returns whether JAX has a GPU here.

    It is asked only where there may be one, for it takes seconds; in a process
    of its own, for JAX takes most of a GPU's memory.
    """
    if not shutil.which("nvidia-smi"):
        return False
    if not any(map(importlib.util.find_spec, _PLUGINS)):
        return False
    ask = [sys.executable, "-c", "import jax; jax.devices('gpu')"]
    try:
        done = subprocess.run(
            ask, capture_output=True, check=False, timeout=_PATIENCE
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
