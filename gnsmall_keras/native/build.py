"""Compiles the engine at first use and keeps it in the user's cache.

A compiled library is named after all that decides it: sources, compiler,
flags and processor. One that was copied from another machine is not found.
"""

import concurrent.futures
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

from gnsmall_keras.lines import say
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
    compiler, flags = _find_compiler(), (*FLAGS, *flags)
    sources = _sources()
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


def expected() -> tuple[Path, str]:
    """Returns where the library is once it is compiled, and the compiler.

    Raises:
        ValueError: as `library`; nothing is compiled.
    """
    compiler = _find_compiler()
    key = _key(compiler, FLAGS, _sources())
    return _cache_folder() / f"engine-{key}.so", shlex.join(compiler)


def _sources() -> list[Path]:
    return sorted(
        path for kind in ("*.cc", "*.h") for path in SOURCES.rglob(kind)
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
            shutil.rmtree(left)  # of a compilation that was interrupted
        unfinished = path.with_suffix(f".{os.getpid()}.unfinished")
        unfinished.mkdir()
        say("Compiling the native kernels, once on this machine ...")
        try:
            made = _compile(
                unfinished, path.with_suffix(".log"), compiler, flags, sources
            )
            made.replace(path)
        finally:
            shutil.rmtree(unfinished)
    return path


def _compile(folder, log, compiler, flags, sources) -> Path:
    """Compiles each unit by itself, one a core at once, and links them."""
    units = [path for path in sources if path.suffix == ".cc"]
    objects = [folder / f"{index}.o" for index in range(len(units))]
    output = folder / "engine.so"
    command = [*compiler, *flags, f"-I{SOURCES}"]
    commands = [
        [*command, "-c", "-o", str(made), str(unit)]
        for unit, made in zip(units, objects, strict=True)
    ]
    with concurrent.futures.ThreadPoolExecutor(_cores()) as pool:
        done = list(pool.map(_run, commands))
    if not any(status for status, _ in done):
        link = [*compiler, *flags, "-o", str(output), *map(str, objects)]
        done.append(_run(link))
    log.write_text("".join(text for _, text in done))
    status = next((status for status, _ in done if status), None)
    if status or not _loads(output):
        why = f"exit status {status}" if status else "no library came of it"
        raise NativeUnavailable(
            f"The C++ compiler {shlex.join(compiler)} failed ({why}); its "
            f"messages are in {log}. Set CXX to another one."
        )
    return output


def _run(command):
    """Returns a command's exit status, and itself with its messages."""
    said = f"{shlex.join(command)}\n"
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        return error.strerror, f"{said}{error}\n"
    return done.returncode, said + done.stdout


def _cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
