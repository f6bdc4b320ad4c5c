"""A successful command leaves no line of a framework on stderr."""

import os
import subprocess
import sys

import pytest
from support import ROOT

from gnsmall_keras.quiet import LITERT_REMARKS, quiet_stderr

FILE = ROOT / "tflite/gns-w0.25-h320-cifar10-micro.tflite"


def test_a_start_writes_nothing_to_stderr():
    """Of TensorFlow and Keras, with whatever they say of GPUs."""
    done = subprocess.run(
        [sys.executable, "-m", "gnsmall_keras.cli", "info"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""


@pytest.mark.any_backend
def test_a_home_that_is_not_writable_is_not_remarked_on(tmp_path):
    """Matplotlib does, which Keras imports if it is there."""
    (tmp_path / "file").touch()
    left = ("MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")
    kept = {k: v for k, v in os.environ.items() if k not in left}
    script = (
        "import sys; from gnsmall_keras import cli; cli.main(['info']); "
        "import keras; assert 'matplotlib' not in sys.modules; "
        "import matplotlib.pyplot"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**kept, "HOME": str(tmp_path / "file" / "home")},
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.any_backend
@pytest.mark.skipif(os.name != "posix", reason="of its C library")
def test_stderr_is_silent_at_the_end_for_what_is_made_inside_alone():
    script = """if True:
        import ctypes
        from gnsmall_keras.quiet import quiet_at_exit
        library = ctypes.CDLL(None)
        library.__cxa_atexit.argtypes = [ctypes.c_void_p] * 3
        say = ctypes.cast(library.perror, ctypes.c_void_p)
        last, hidden, first = map(ctypes.c_char_p, (b"last", b"hid", b"first"))
        library.__cxa_atexit(say, last, None)
        with quiet_at_exit():
            library.__cxa_atexit(say, hidden, None)
        library.__cxa_atexit(say, first, None)
        """
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert done.returncode == 0
    told = [line.partition(":")[0] for line in done.stderr.splitlines()]
    assert told == ["first", "last"]


@pytest.mark.export
def test_a_compiled_model_writes_nothing_to_stderr():
    """Its own environment, LiteRT's, is destroyed after Python's end."""
    script = (
        "from gnsmall_keras.devices.runtime import TFLiteModel; "
        f"TFLiteModel({str(FILE)!r}, runtime='litert-compiled')"
        ".run_black_image()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
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


@pytest.mark.any_backend
def test_an_error_shows_what_was_held_back(capfd):
    def fail():
        with quiet_stderr():
            os.write(2, b"a reason")
            raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        fail()
    assert "a reason" in capfd.readouterr().err


@pytest.mark.any_backend
def test_nothing_is_shown_otherwise(capfd):
    with quiet_stderr():
        os.write(2, b"noise")
    assert capfd.readouterr().err == ""


@pytest.mark.any_backend
def test_remarks_are_held_back_and_warnings_shown(capfd):
    with quiet_stderr(LITERT_REMARKS):
        os.write(2, b"INFO: Created TensorFlow Lite XNNPACK delegate\nbad\n")
    assert capfd.readouterr().err == "bad\n"


_TENSORFLOW = """
import os
level = os.environ.get("TF_CPP_MIN_LOG_LEVEL")
os.write(2, b"WARNING: All log messages before absl::InitializeLog()\\n")
os.write(2, b"I0000 00:00:17 30 port.cc:153] oneDNN\\n")
os.write(2, b"W0000 00:00:17 30 a.cc:1] slow\\n")
if os.environ.get("BROKEN"):
    raise OSError("no library")
"""


def _import_tensorflow(folder, kernel, name="tensorflow", **variables):
    """Of a script that imports this package, then a stand-in."""
    (folder / f"{name}.py").write_text(_TENSORFLOW)
    (folder / "ipykernel.py").write_text("")
    code = (
        f"{'import ipykernel; ' if kernel else ''}import os, gnsmall_keras, "
        f"{name}; print({name}.level, os.environ.get("
        "'TF_CPP_MIN_LOG_LEVEL'))"
    )
    left = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    paths = os.pathsep.join([str(folder), *sys.path])
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**left, "PYTHONPATH": paths, **variables},
    )


@pytest.mark.any_backend
def test_a_notebook_has_no_remarks_of_tensorflow(tmp_path):
    done = _import_tensorflow(tmp_path, kernel=True)
    assert done.stderr == "W0000 00:00:17 30 a.cc:1] slow\n"
    level, after = done.stdout.split()
    assert level in ("1", "3")
    assert after == "None", "set while TensorFlow is imported alone"


@pytest.mark.any_backend
def test_a_notebook_shows_all_of_an_import_that_fails(tmp_path):
    done = _import_tensorflow(tmp_path, kernel=True, BROKEN="1")
    assert all(word in done.stderr for word in ("oneDNN", "no library"))


@pytest.mark.any_backend
def test_scripts_and_who_sets_the_level_see_tensorflow_as_it_is(tmp_path):
    done = _import_tensorflow(tmp_path, kernel=False)
    assert "oneDNN" in done.stderr
    assert done.stdout.split() == ["None", "None"]
    done = _import_tensorflow(tmp_path, kernel=True, TF_CPP_MIN_LOG_LEVEL="0")
    assert "oneDNN" in done.stderr
    assert done.stdout.split() == ["0", "0"]


@pytest.mark.any_backend
def test_a_notebook_has_no_alarms_of_xla(tmp_path):
    done = _import_tensorflow(tmp_path, kernel=True, name="jax")
    level, after = done.stdout.split()
    assert level in ("1", "3")
    assert after == "None", "set while JAX is imported alone"
    done = _import_tensorflow(tmp_path, kernel=False, name="jax")
    assert done.stdout.split() == ["None", "None"]
