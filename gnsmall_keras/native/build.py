"""Compiles the engine at first use and keeps it in the user's cache.

A compiled library is named after all that decides it: sources, compiler,
flags and processor. One that was copied from another machine is not found. Its
digest is beside it, for half a library would end the process that loads it.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gnsmall_keras.lines import one_line, say
from gnsmall_keras.native.compiler import (
    NATIVE,
    NativeUnavailable,
    compile_units,
    find_compiler,
    has_failed,
    version_of,
)
from gnsmall_keras.writing import cache_folder, lock

FLAGS = ("-std=c++17", "-O2", NATIVE, "-shared", "-fPIC", "-pthread")
SOURCES = Path(__file__).parent / "src"
_KEY_LENGTH = 16


@functools.cache
def library(flags: Sequence[str] = ()) -> Path:
    """Returns the engine's shared library, compiled if need be.

    Processes that ask at once compile it once. Where the cache cannot be
    written, or libraries in it cannot be loaded, the folder for temporary
    files takes its place.

    Args:
        flags: of the compiler, after `FLAGS`.

    Raises:
        NativeUnavailable: if there is no compiler or place for it, with one
            line.
    """
    if sys.platform == "win32":
        raise NativeUnavailable("They are not built on Windows.")
    compiler, flags = find_compiler(), (*FLAGS, *flags)
    sources = _sources()
    name = f"engine-{_key(compiler, flags, sources)}.so"
    made, refused = None, []
    for place in (cache_folder, _temporary_folder):
        try:
            path = place() / name
            if not _is_whole(path):
                _build(path, made, compiler, flags, sources)
            made = path
            _load(path)
            return path
        except OSError as error:
            refused.append(one_line(error))
    raise NativeUnavailable(
        "Their library needs a folder that can be written and whose libraries "
        f"can be loaded. Received: {'; '.join(refused)}. Make room, or set "
        "XDG_CACHE_HOME to another one."
    )


def expected() -> tuple[Path, str]:
    """Returns where the library is once it is compiled, and the compiler.

    Raises:
        NativeUnavailable: as `library`; nothing is compiled.
    """
    compiler = find_compiler()
    key = _key(compiler, FLAGS, _sources())
    try:
        return cache_folder() / f"engine-{key}.so", shlex.join(compiler)
    except OSError as error:
        raise NativeUnavailable(f"{one_line(error)}.") from None


def _sources() -> list[Path]:
    return sorted(
        path for kind in ("*.cc", "*.h") for path in SOURCES.rglob(kind)
    )


def _build(
    path: Path,
    made: Path | None,
    compiler: Sequence[str],
    flags: Sequence[str],
    sources: Sequence[Path],
) -> None:
    """Compiles under a lock, beside the place, and then moves it there.

    Args:
        path: of the library.
        made: one that is compiled already, to be copied.
        compiler: its command.
        flags: all.
        sources: all files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("ab") as file:
        _wait_for(file)
        if _is_whole(path):  # another process was faster
            return
        for left in path.parent.glob(f"{path.stem}.*.unfinished"):
            shutil.rmtree(left)  # of a compilation that was interrupted
        unfinished = path.with_suffix(f".{os.getpid()}.unfinished")
        unfinished.mkdir()
        try:
            if made is None:
                say("Compiling the native kernels, once on this machine ...")
                log = path.with_suffix(".log")
                made = _compile(unfinished, log, compiler, flags, sources)
            else:
                made = Path(shutil.copy(made, unfinished))
            noted = unfinished / "digest"
            noted.write_text(_digest(made))
            noted.replace(_noted(path))
            made.replace(path)
        finally:
            shutil.rmtree(unfinished)


def _wait_for(file):
    """Locks a file."""
    try:
        lock(file, wait=False)
    except BlockingIOError:
        say("Another process compiles the native kernels: waiting for it ...")
        lock(file)


def _compile(folder, log, compiler, flags, sources) -> Path:
    """Returns the library, or tells where the compiler's messages are."""
    units = [path for path in sources if path.suffix == ".cc"]
    flags = (*flags, f"-I{SOURCES}")
    output, done = compile_units(folder, compiler, flags, units)
    log.write_text("".join(outcome.text for outcome in done))
    if has_failed(done) or not output.is_file():
        status = next((each.status for each in done if each.status), None)
        why = f"exit status {status}" if status else "no library came of it"
        raise NativeUnavailable(
            f"The C++ compiler {shlex.join(compiler)} failed ({why}); its "
            f"messages are in {log}. Set CXX to another one."
        )
    return output


def _key(compiler, flags, sources):
    sha = hashlib.sha256()
    for path in sources:
        sha.update(f"{path.relative_to(SOURCES)}\n".encode())
        sha.update(path.read_bytes())
    for text in (version_of(compiler), *flags, _processor()):
        sha.update(f"{text}\n".encode())
    return sha.hexdigest()[:_KEY_LENGTH]


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


def _is_whole(path: Path) -> bool:
    """Whether a library is there, as it was compiled."""
    try:
        return _noted(path).read_text() == _digest(path)
    except (OSError, ValueError):
        return False


def _noted(path):
    return path.with_suffix(".sha256")


def _digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _load(path):
    """Loads a library, or raises OSError with the loader's reason."""
    ctypes.CDLL(str(path))


def _temporary_folder() -> Path:
    """A folder that this user alone can write to."""
    path = Path(tempfile.gettempdir()) / f"gnsmall_keras-{os.getuid()}"
    with contextlib.suppress(OSError):
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
        if status.st_uid == os.getuid() and not status.st_mode & 0o022:
            return path
    return Path(tempfile.mkdtemp(prefix="gnsmall_keras-"))
