"""Compiles the engine at first use and keeps it in the user's cache.

A compiled library is named after all that decides it: sources, compiler,
flags and processor. One that was copied from another machine is not found.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from gnsmall_keras.records.jsonl import lock

FLAGS = ("-std=c++17", "-O2", "-march=native", "-shared", "-fPIC", "-pthread")
SOURCES = Path(__file__).parent / "src"
_COMPILERS = ("c++", "g++", "clang++")
_KEY_LENGTH = 16


class NativeUnavailable(ValueError):
    """Why there are no native kernels here, in one line."""


@functools.cache
def library(flags: Sequence[str] = ()) -> Path:
    """Returns the engine's shared library, compiled if need be.

    Processes that ask at once compile it once. Where the cache cannot be
    written, the folder for temporary files takes its place.

    Args:
        flags: of the compiler, after `FLAGS`.

    Raises:
        NativeUnavailable: if there is no compiler that can, with one line.
    """
    if sys.platform == "win32":
        raise NativeUnavailable("They are not built on Windows.")
    compiler = _find_compiler()
    sources = sorted(
        path for kind in ("*.cc", "*.h") for path in SOURCES.rglob(kind)
    )
    flags = (*FLAGS, *flags)
    name = f"engine-{_key(compiler, flags, sources)}.so"
    tried = []
    for place in (_cache_folder, _temporary_folder):
        path = place() / name
        if _loads(path):
            return path
        with contextlib.suppress(OSError):
            return _build(path, compiler, flags, sources)
        tried.append(str(path.parent))
    raise NativeUnavailable(
        f"Their library cannot be written to {' nor to '.join(tried)}; make "
        "room, or set XDG_CACHE_HOME."
    )


def _build(
    path: Path,
    compiler: Sequence[str],
    flags: Sequence[str],
    sources: Sequence[Path],
) -> Path:
    """Compiles under a lock, beside the place, and then moves it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("ab") as file:
        lock(file)
        if _loads(path):  # another process was faster
            return path
        for left in path.parent.glob(f"{path.stem}.*.unfinished"):
            left.unlink()  # of a compilation that was interrupted
        unfinished = path.with_suffix(f".{os.getpid()}.unfinished")
        Console(stderr=True).print(
            "Compiling the native kernels, once on this machine ...",
            highlight=False,
        )
        try:
            _compile(
                unfinished, path.with_suffix(".log"), compiler, flags, sources
            )
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    return path


def _compile(output, log, compiler, flags, sources):
    units = [str(path) for path in sources if path.suffix == ".cc"]
    command = [*compiler, *flags, "-o", str(output), *units]
    with log.open("wb") as messages:
        messages.write(f"{shlex.join(command)}\n".encode())
        messages.flush()
        try:
            status = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=messages,
                stderr=subprocess.STDOUT,
            ).returncode
        except OSError as error:
            messages.write(f"{error}\n".encode())
            status = error.strerror
    if status or not _loads(output):
        why = f"exit status {status}" if status else "no library came of it"
        raise NativeUnavailable(
            f"The C++ compiler {shlex.join(compiler)} failed ({why}); its "
            f"messages are in {log}. Set CXX to another one."
        )


def _find_compiler() -> list[str]:
    """The command of $CXX, or of the first compiler there is."""
    named = shlex.split(os.environ.get("CXX", ""))
    if named:
        if shutil.which(named[0]) is None:
            raise NativeUnavailable(
                f"$CXX names no program: {named[0]!r}. Set it to a C++17 "
                "compiler, or leave it out."
            )
        return named
    for name in _COMPILERS:
        if shutil.which(name):
            return [name]
    raise NativeUnavailable(
        f"There is no C++ compiler ($CXX, {', '.join(_COMPILERS)}). Install "
        "one, on Debian with apt-get install g++."
    )


def _key(compiler, flags, sources):
    sha = hashlib.sha256()
    for path in sources:
        sha.update(f"{path.relative_to(SOURCES)}\n".encode())
        sha.update(path.read_bytes())
    for text in (_version(compiler), *flags, _processor()):
        sha.update(f"{text}\n".encode())
    return sha.hexdigest()[:_KEY_LENGTH]


def _version(compiler):
    """What a compiler says of itself, and which file it is."""
    where = os.path.realpath(shutil.which(compiler[0]) or compiler[0])
    try:
        done = subprocess.run(
            [*compiler, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
        said = done.stdout
    except OSError as error:
        said = str(error)
    return f"{shlex.join(compiler)} {where} {said}"


def _processor():
    """Its model and what it can do: `-march=native` follows these."""
    wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    found: dict[str, str] = {}
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(errors="replace")
        for line in text.splitlines():
            name, _, value = line.partition(":")
            if name.strip() in wanted:
                found.setdefault(name.strip(), value.strip())
    return f"{platform.machine()} {platform.processor()} {found}"


def _loads(path: Path) -> bool:
    """Whether it is a library that this process can load."""
    try:
        return path.is_file() and bool(ctypes.CDLL(str(path)))
    except OSError:
        return False


def _cache_folder():
    place = os.environ.get("XDG_CACHE_HOME")
    return Path(place or Path.home() / ".cache") / "gnsmall_keras"


def _temporary_folder() -> Path:
    """A folder that this user alone can write to."""
    path = Path(tempfile.gettempdir()) / f"gnsmall_keras-{os.getuid()}"
    with contextlib.suppress(OSError):
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
        if status.st_uid == os.getuid() and not status.st_mode & 0o022:
            return path
    return Path(tempfile.mkdtemp(prefix="gnsmall_keras-"))
