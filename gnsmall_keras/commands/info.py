"""What a bug report needs to know of a machine and an installation."""

import os
import platform
import sys
import warnings
from pathlib import Path

import gnsmall_keras
from gnsmall_keras.commands import printing
from gnsmall_keras.config import KERNELS_VARIABLE
from gnsmall_keras.lines import one_line
from gnsmall_keras.native import build
from gnsmall_keras.quiet import quiet_stderr
from gnsmall_keras.records.provenance import (
    describe_hardware,
    package_versions,
    source_commit,
)

_OPTIONAL = ("tensorflow", "torch", "jax", "ai-edge-litert", "tflite-micro")
# What makes a difference to the kernels, as /proc/cpuinfo spells it.
_VECTORS = (
    *("sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f"),
    *("avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"),
    *("neon", "asimd", "asimddp", "fphp", "sve", "sve2"),
)


def info() -> None:
    """Prints versions, processor, kernels and GPU, for bug reports.

    Only the backend in use is imported, to ask it for GPUs.
    """
    for name, value in describe().items():
        printing.show(f"{name + ':':<14} {value}")


def describe() -> dict[str, str]:
    """Returns the facts, each a line."""
    versions = package_versions()
    versions.pop("gnsmall-keras", None)  # that of the code stands above it
    python = versions.pop("python")
    backend, gpus = _backend()
    hardware = describe_hardware()
    missing = [name for name in _OPTIONAL if name not in versions]
    return {
        "gnsmall-keras": f"{gnsmall_keras.__version__}, commit "
        f"{source_commit()}",
        "python": python,
        "backend": backend,
        "packages": ", ".join(f"{k} {v}" for k, v in versions.items()),
        "not installed": ", ".join(missing) or "-",
        "system": platform.platform(),
        "processor": hardware["processor"],
        "vectors": " ".join(_vectors()) or "unknown",
        "cores": _cores(),
        "kernels": _kernels(),
        "gpus": gpus,
    }


def _vectors():
    words = set()
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        text = ""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            words.update(value.split())
    return [word for word in _VECTORS if word in words]


def _cores():
    total = os.cpu_count() or 1
    if not hasattr(os, "sched_getaffinity"):
        return f"{total}"
    return f"{len(os.sched_getaffinity(0))} of {total} for this process"


def _backend():
    """Imports the backend in use, and no other; its name, and its GPUs."""
    name = os.environ.get("KERAS_BACKEND", "")
    try:
        with warnings.catch_warnings(), quiet_stderr():
            warnings.simplefilter("ignore")
            import keras

            from gnsmall_keras.training.devices import find_gpus

            name = keras.config.backend()
            gpus = ", ".join(find_gpus()) or f"none that {name} sees"
    except Exception as error:  # that is what the report is about
        told = one_line(error)
        return name or "unknown", f"unknown, as Keras does not start: {told}"
    return name, gpus


def _kernels():
    """Whether the native kernels are compiled; compiles nothing."""
    asked = os.environ.get(KERNELS_VARIABLE)
    told = f"; {KERNELS_VARIABLE}={asked}" if asked else ""
    if sys.platform == "win32":
        return "not built on Windows" + told
    try:
        path, compiler = build.expected()
    except build.NativeUnavailable as reason:
        return f"none: {reason}{told}"
    state = f"not compiled yet, by {compiler} at first use"
    if path.is_file():
        state = f"compiled: {path}"
    elif path.with_suffix(".log").is_file():
        state = f"{compiler} failed: {path.with_suffix('.log')}"
    return state + told
