"""A successful command leaves no line of a framework on stderr."""

import os
import subprocess
import sys

import pytest

from gnsmall_keras.quiet import quiet_stderr


@pytest.mark.parametrize(
    "backend", ["tensorflow", pytest.param("torch", marks=pytest.mark.slow)]
)
def test_training_writes_nothing_to_stderr(backend, tmp_path):
    pytest.importorskip(backend)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "gnsmall_keras.cli", "train"),
            *("--data", "digits", "--width", "0.25", "--epochs", "1"),
            *("--out", str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "KERAS_BACKEND": backend},
    )
    lines = [
        line
        for line in done.stderr.splitlines()
        if not line.startswith("warning: ")  # ours, of one epoch
        and "once on this machine" not in line  # of the native kernels
    ]
    assert lines == []


def test_an_error_shows_what_was_held_back(capfd):
    def fail():
        with quiet_stderr():
            os.write(2, b"a reason")
            raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        fail()
    assert "a reason" in capfd.readouterr().err


def test_nothing_is_shown_otherwise(capfd):
    with quiet_stderr():
        os.write(2, b"noise")
    assert capfd.readouterr().err == ""
