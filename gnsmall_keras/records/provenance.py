"""Where a result comes from: versions, hardware, commit."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

_PACKAGES = (
    "gnsmall-keras",
    "keras",
    "tensorflow",
    "jax",
    "torch",
    "numpy",
    "ai-edge-litert",
    "tflite-micro",
)


def package_versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages a result rests on."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def describe_hardware() -> dict[str, Any]:
    """Returns the processor's name, its cores and the operating system."""
    return {
        "processor": _processor_name(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def describe_session() -> dict[str, Any]:
    """Returns by what a training goes on from now: commit, versions, time."""
    return {
        "commit": source_commit(),
        "versions": package_versions(),
        "started_at": utc_now(),
    }


def utc_now() -> str:
    """Returns the time as records have it: UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def source_commit() -> str:
    """Returns the commit of this package's checkout, or "unknown".

    "+changes" is added where tracked files differ from the commit.
    """
    folder = Path(__file__).parent
    try:
        commit = _git("rev-parse", "HEAD", folder=folder)
        tracked = _git("ls-files", "--", "provenance.py", folder=folder)
        changes = _git(
            "status", "--porcelain", "--untracked-files=no", folder=folder
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    if not tracked:  # installed inside somebody else's checkout
        return "unknown"
    return commit + ("+changes" if changes else "")


def _git(*arguments: str, folder: Path) -> str:
    done = subprocess.run(
        ["git", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
