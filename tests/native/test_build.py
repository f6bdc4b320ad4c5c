"""The library: compiled once, found again, and what stands in its way."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support import ROOT

from gnsmall_keras.native import build, compiler

CODE = 'extern "C" int answer() { return 42; }\n'
ASK = (
    "import pathlib, sys\n"
    "from gnsmall_keras.native import build\n"
    "build.SOURCES = pathlib.Path(sys.argv[1])\n"
    "print(build.library())\n"
)
SLOW = '#!/bin/sh\necho compiled >> {log}\nsleep 1\nexec c++ "$@"\n'


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A library of one line, an empty cache and an own temporary folder."""
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "answer.cc").write_text(CODE)
    monkeypatch.setattr(build, "SOURCES", folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(
        build.tempfile, "gettempdir", lambda: str(tmp_path / "temporary")
    )
    (tmp_path / "temporary").mkdir()
    monkeypatch.delenv("CXX", raising=False)
    build.library.cache_clear()
    yield folder
    build.library.cache_clear()


def _again():
    build.library.cache_clear()
    return build.library()


def _answer(path):
    return ctypes.CDLL(str(path)).answer()


def _program(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return path


def _refuse(monkeypatch):
    """No compilation may begin from here on."""

    def fail(*arguments):
        raise AssertionError("compiled again")

    monkeypatch.setattr(build, "_compile", fail)


def test_it_is_compiled_once(sources, monkeypatch, tmp_path, capfd):
    path = build.library()
    assert _answer(path) == 42
    assert path.parent == tmp_path / "cache/gnsmall_keras"
    assert "once on this machine" in capfd.readouterr().err
    _refuse(monkeypatch)
    assert _again() == path
    assert not capfd.readouterr().err


def test_the_key_is_sources_compiler_flags_and_processor(sources, monkeypatch):
    paths = [build.library()]
    (sources / "answer.cc").write_text(CODE.replace("42", "43"))
    paths.append(_again())
    assert _answer(paths[-1]) == 43
    paths.append(build.library(("-DNDEBUG",)))
    monkeypatch.setenv("CXX", "g++ -DOTHER")
    paths.append(_again())
    # A cache that came with the home folder from another machine.
    monkeypatch.setattr(build, "_processor", lambda: "another")
    paths.append(_again())
    assert len(set(paths)) == len(paths)


def test_headers_count(sources):
    first = build.library()
    (sources / "unused.h").write_text("// nothing\n")
    assert _again() != first


def test_processes_at_once_compile_once(sources, tmp_path, monkeypatch):
    log = tmp_path / "log"
    slow = _program(tmp_path / "slow", SLOW.format(log=log))
    command = [sys.executable, "-c", ASK, str(sources)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "CXX": str(slow),
    }
    found = []

    def ask():
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        )
        found.append(done.stdout)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(set(found)) == 1
    # Asked for its version it writes as well: three times; then one unit is
    # compiled and linked, once.
    assert log.read_text().count("compiled") == 5


def test_a_cache_that_cannot_be_written(sources, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file where the folder would be")
    path = build.library()
    assert path.parent.parent == tmp_path / "temporary"
    assert path.parent.stat().st_mode & 0o077 == 0
    assert _answer(path) == 42
    _refuse(monkeypatch)
    assert _again() == path


def test_a_read_only_cache_that_has_it_is_used(sources, tmp_path, monkeypatch):
    path = build.library()
    for lock in path.parent.glob("*.lock"):
        lock.unlink()
    path.parent.chmod(0o500)
    try:
        _refuse(monkeypatch)
        assert _again() == path
        assert not list(path.parent.glob("*.lock"))
    finally:
        path.parent.chmod(0o700)


def test_a_temporary_folder_of_others_is_not_used(
    sources, tmp_path, monkeypatch
):
    (tmp_path / "cache").write_text("")
    others = tmp_path / f"temporary/gnsmall_keras-{os.getuid()}"
    others.mkdir()
    others.chmod(0o777)
    monkeypatch.setattr(build.tempfile, "tempdir", str(tmp_path))
    path = build.library()
    assert path.parent != others
    assert _answer(path) == 42


def test_an_interrupted_compilation_leaves_nothing(
    sources, tmp_path, monkeypatch
):
    def interrupt(folder, *arguments):
        (folder / "0.o").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(build, "_compile", interrupt)
        with pytest.raises(KeyboardInterrupt):
            build.library()
    folder = tmp_path / "cache/gnsmall_keras"
    assert [file.suffix for file in folder.iterdir()] == [".lock"]
    # Killed, it had no time to clean up.
    name = next(folder.iterdir()).stem
    (folder / f"{name}.1.unfinished").mkdir()
    (folder / f"{name}.1.unfinished/0.o").write_bytes(b"half")
    assert _answer(_again()) == 42
    assert not list(folder.glob("*.unfinished"))


def test_a_damaged_library_is_compiled_again(sources):
    path = build.library()
    path.unlink()  # not overwritten: this process has it in memory
    path.write_bytes(b"no library")
    assert _again() == path
    assert path.read_bytes()[1:4] == b"ELF"


def test_half_a_library_is_compiled_again(sources):
    """To load it would end the process by a signal."""
    path = build.library()
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[: len(whole) // 2])
    assert _again() == path
    assert len(path.read_bytes()) == len(whole)
    assert _answer(path) == 42


def test_a_cache_from_which_nothing_is_loaded(sources, tmp_path, monkeypatch):
    """As on a filesystem mounted noexec: compiled once, used elsewhere."""
    load, first = build._load, tmp_path / "cache"

    def refuse(path):
        if path.is_relative_to(first):
            raise OSError(f"{path}: failed to map segment")
        load(path)

    monkeypatch.setattr(build, "_load", refuse)
    path = build.library()
    assert path.parent.parent == tmp_path / "temporary"
    assert _answer(path) == 42
    _refuse(monkeypatch)
    assert _again() == path
    first = tmp_path  # which `refuse` looks up
    with pytest.raises(build.NativeUnavailable) as caught:
        _again()
    for part in ("failed to map segment", str(tmp_path / "cache"), str(path)):
        assert part in str(caught.value)
    assert "compiler" not in str(caught.value)


def test_no_folder_at_all(sources, tmp_path, monkeypatch):
    def none():
        raise FileNotFoundError("No usable temporary directory")

    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(build.tempfile, "gettempdir", none)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(build.Path, "home", nobody)
    with pytest.raises(build.NativeUnavailable) as caught:
        build.library()
    assert "no home folder" in str(caught.value)
    assert "No usable temporary" in str(caught.value)
    with pytest.raises(build.NativeUnavailable, match="no home folder"):
        build.expected()


def test_no_home_folder(sources, tmp_path, monkeypatch):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(build.Path, "home", nobody)
    assert build.library().parent.parent == tmp_path / "temporary"


def test_a_compiler_without_the_flag_of_this_processor(
    sources, tmp_path, monkeypatch, capfd
):
    """As Apple's clang on ARM, before version 16."""
    text = '#!/bin/sh\ncase "$*" in *march*) exit 1;; esac\nexec c++ "$@"\n'
    monkeypatch.setenv("CXX", str(_program(tmp_path / "old", text)))
    assert _answer(build.library()) == 42
    assert "does not know -march=native" in capfd.readouterr().err


HANGING = """#!/bin/sh
case "$*" in *--version*) echo hanging 1.0; exit;; esac
sleep 300 &
echo $! > {file}
wait
"""


def test_a_compiler_that_hangs(sources, tmp_path, monkeypatch):
    file = tmp_path / "child"
    text = HANGING.format(file=file)
    monkeypatch.setenv("CXX", str(_program(tmp_path / "hanging", text)))
    monkeypatch.setattr(compiler, "TIMEOUT", 3.0)
    with pytest.raises(build.NativeUnavailable, match="within 3 s"):
        build.library()
    _assert_ended(int(file.read_text()))
    text = text.replace("echo hanging 1.0; exit", "exec sleep 300")
    monkeypatch.setenv("CXX", str(_program(tmp_path / "silent", text)))
    with pytest.raises(build.NativeUnavailable, match="within 3 s"):
        build.library()


def test_an_interrupt_ends_the_compilers(sources, tmp_path):
    file = tmp_path / "child"
    hanging = _program(tmp_path / "hanging", HANGING.format(file=file))
    # Where tests run in a shell's background, SIGINT is ignored.
    heeding = "import signal\nsignal.signal(2, signal.default_int_handler)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", heeding + ASK, str(sources)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "CXX": str(hanging)},
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 60
        while not (file.is_file() and file.read_text().strip()):
            assert time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        process.wait(30)
    finally:
        process.kill()
    _assert_ended(int(file.read_text()))
    left = (tmp_path / "cache/gnsmall_keras").iterdir()
    assert [path.suffix for path in left] == [".lock"]


def _assert_ended(pid):
    """Its parent is gone too: whoever took it in may not have noticed yet."""
    state = Path(f"/proc/{pid}/stat")
    for _ in range(100):
        try:
            os.kill(pid, 0)
            if state.is_file() and state.read_text().split()[2] == "Z":
                return
        except OSError:
            return
        time.sleep(0.05)
    raise AssertionError(f"process {pid} runs on")


def test_a_compiler_that_fails(sources, monkeypatch, tmp_path):
    (sources / "answer.cc").write_text("this is no C++\n")
    with pytest.raises(build.NativeUnavailable) as caught:
        build.library()
    message = str(caught.value)
    assert "\n" not in message
    log = next((tmp_path / "cache/gnsmall_keras").glob("*.log"))
    assert str(log) in message
    assert "error" in log.read_text()
    assert not list(log.parent.glob("*.so"))


def test_a_compiler_that_writes_nothing(sources, monkeypatch):
    monkeypatch.setenv("CXX", "true")
    with pytest.raises(build.NativeUnavailable, match="no library"):
        build.library()


def test_no_compiler(sources, monkeypatch):
    monkeypatch.setenv("CXX", 'g++ "-O2')
    for ask in (build.library, build.expected):
        with pytest.raises(build.NativeUnavailable, match="quotation"):
            ask()
    monkeypatch.setenv("CXX", "no-such-compiler -O3")
    with pytest.raises(build.NativeUnavailable, match="no-such-compiler"):
        build.library()
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX")
    with pytest.raises(build.NativeUnavailable, match="no C\\+\\+ compiler"):
        build.library()


def test_windows(sources, monkeypatch):
    monkeypatch.setattr(build.sys, "platform", "win32")
    with pytest.raises(build.NativeUnavailable, match="Windows"):
        build.library()
