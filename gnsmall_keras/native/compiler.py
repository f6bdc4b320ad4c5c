"""The C++ compiler of this machine: which one, and running it."""

import collections
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gnsmall_keras.cores import usable_cores
from gnsmall_keras.lines import say

NATIVE = "-march=native"
TIMEOUT = 600.0  # seconds; the longest unit takes half a minute
_COMPILERS = ("c++", "g++", "clang++")


class NativeUnavailable(ValueError):
    """Why there are no native kernels here, in one line."""


class Outcome(NamedTuple):
    """What a command came to.

    Attributes:
        status: of its exit, or why it did not start; 0 if all is well.
        text: itself, and its messages.
    """

    status: int | str
    text: str


def find_compiler() -> list[str]:
    """Returns the command of $CXX, or of the first compiler there is.

    Raises:
        NativeUnavailable: if there is none.
    """
    value = os.environ.get("CXX", "")
    try:
        named = shlex.split(value)
    except ValueError as error:
        raise NativeUnavailable(
            f"$CXX must be a command. Received: {value!r} ({error}). Close "
            "its quotation marks, or leave it out."
        ) from None
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


def version_of(compiler: Sequence[str]) -> str:
    """Returns what a compiler says of itself, and which file it is.

    Raises:
        NativeUnavailable: if it says nothing for long.
    """
    where = os.path.realpath(shutil.which(compiler[0]) or compiler[0])
    said = ""
    try:
        with _start([*compiler, "--version"], subprocess.PIPE) as process:
            try:
                output, _ = process.communicate(timeout=TIMEOUT)
                said = output.decode(errors="replace")
            finally:
                _stop(process)
    except OSError as error:
        said = str(error)
    except subprocess.TimeoutExpired:
        raise _too_slow(compiler) from None
    return f"{shlex.join(compiler)} {where} {said}"


def compile_units(
    folder: Path,
    compiler: Sequence[str],
    flags: Sequence[str],
    units: Sequence[Path],
) -> tuple[Path, list[Outcome]]:
    """Compiles each unit by itself, one a core at once, and links them.

    Args:
        folder: for what is made.
        compiler: its command.
        flags: `NATIVE` among them is left out for a compiler without it.
        units: files.

    Returns:
        Where the library is if all is well, and what each command came to.

    Raises:
        NativeUnavailable: if one takes too long.
    """
    objects = [folder / f"{index}.o" for index in range(len(units))]
    output = folder / "engine.so"
    command = [*compiler, *flags]
    commands = [
        [*command, "-c", "-o", str(made), str(unit)]
        for unit, made in zip(units, objects, strict=True)
    ]
    done = _run_all(commands, folder, compiler)
    if not has_failed(done):
        link = [*command, "-o", str(output), *map(str, objects)]
        done += _run_all([link], folder, compiler)
    if has_failed(done) and NATIVE in flags and _refuses(compiler, folder):
        say(
            f"{shlex.join(compiler)} does not know {NATIVE}: without it the "
            "native kernels are slower. Set CXX to another compiler."
        )
        flags = [flag for flag in flags if flag != NATIVE]
        return compile_units(folder, compiler, flags, units)
    return output, done


def has_failed(outcomes: Sequence[Outcome]) -> bool:
    """Whether one of the commands has."""
    return any(outcome.status for outcome in outcomes)


def _refuses(compiler, folder):
    """Whether the flag `NATIVE` is what a compiler stumbles over."""
    empty = ["-fsyntax-only", "-x", "c++", os.devnull]
    commands = [[*compiler, NATIVE, *empty], [*compiler, *empty]]
    with_it, without = _run_all(commands, folder, compiler)
    return with_it.status and not without.status


def _run_all(commands, folder, compiler) -> list[Outcome]:
    """Runs commands, one a core at once. None outlives an interrupt."""
    waiting = collections.deque(range(len(commands)))
    running: dict[int, subprocess.Popen] = {}
    status: dict[int, int | str] = {}
    ends = {}
    try:
        while waiting or running:
            while waiting and len(running) < usable_cores():
                index = waiting.popleft()
                ends[index] = time.monotonic() + TIMEOUT
                try:
                    with (folder / f"{index}.said").open("wb") as said:
                        running[index] = _start(commands[index], said)
                except OSError as error:
                    status[index] = error.strerror
            for index, process in list(running.items()):
                if process.poll() is not None:
                    status[index] = running.pop(index).returncode
                elif time.monotonic() > ends[index]:
                    raise _too_slow(compiler)
            time.sleep(0.01)
    finally:
        for process in running.values():
            _stop(process)
    return [
        Outcome(status[index], f"{shlex.join(command)}\n{_said(folder, index)}")
        for index, command in enumerate(commands)
    ]


def _said(folder, index):
    return (folder / f"{index}.said").read_text(errors="replace")


def _start(command, output):
    """Starts it in a group of processes of its own: compilers have children."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=(
            subprocess.DEVNULL
            if output == subprocess.PIPE
            else subprocess.STDOUT
        ),
        process_group=0,
    )


def _stop(process):
    """Ends it, and its children, if it has not ended."""
    if process.poll() is None:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _too_slow(compiler):
    return NativeUnavailable(
        f"The C++ compiler {shlex.join(compiler)} must end within "
        f"{TIMEOUT:.0f} s. Received: no answer. Set CXX to another one."
    )
