"""How long .tflite files take on a connected Android phone.

LiteRT's own benchmark binary does the timing, over adb. Files are taken in
turn, round after round, as on this machine.
"""

import dataclasses
import json
import os
import re
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gnsmall_keras.devices.benchmark import check_counts
from gnsmall_keras.devices.resnet8 import LARGE, RESNET8, resnet8

_FOLDER = "/data/local/tmp/gnsmall"
_RUNS = 50  # calls in a turn
# Without the zeros a turn lasts half a second of warm-up and one of calls.
_COUNTS = f"--num_runs={_RUNS} --min_secs=0 --warmup_runs=5 --warmup_min_secs=0"
_TIMEOUT = 300  # seconds of a command on the phone
_AVERAGE = re.compile(r"Inference \(avg\):\s*([0-9.e+]+)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhoneLatency:
    """Of a file on a phone: the median of its turns' means.

    Attributes:
        name: the path of the file, or the name of a network of MLPerf Tiny.
        milliseconds: of one call.
        ratio: to MLPerf Tiny's large ResNet-8 in the same run.
        turns: how many means.
    """

    name: str
    milliseconds: float
    ratio: float
    turns: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhoneReport:
    """Files and reference networks on one phone; `threads` of XNNPACK."""

    phone: str
    threads: int
    latencies: list[PhoneLatency]

    def to_json(self) -> str:
        """Returns the report as indented JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True)


def benchmark_on_phone(
    paths: Sequence[str | os.PathLike],
    binary: str | os.PathLike,
    *,
    threads: int = 1,
    rounds: int = 30,
) -> PhoneReport:
    """Measures files on the phone that adb finds, beside MLPerf Tiny's.

    Args:
        paths: .tflite files.
        binary: LiteRT's `benchmark_model` for the phone's processor.
        threads: of XNNPACK.
        rounds: turns of each file, of 50 calls after 5 that are not counted.

    Raises:
        ValueError: if adb, the binary or a phone is missing, a count is out of
            range, or a file does not run there.
    """
    files = {os.fspath(path): Path(path) for path in paths}
    if not files or len(files) < len(paths):
        raise ValueError(
            "A benchmark needs one file or more, each once. Received: "
            f"{', '.join(map(str, paths)) or 'none'}."
        )
    for path in (*files.values(), Path(binary)):
        if not path.is_file():
            raise ValueError(f"There is no file {os.fspath(path)!r}.")
    check_counts(threads=(threads,), rounds=(rounds,))
    phone = _find_phone()
    with tempfile.TemporaryDirectory(prefix="gnsmall-") as folder:
        for name, channels in RESNET8.items():
            files[name] = Path(folder) / f"{name}.tflite"
            files[name].write_bytes(resnet8(channels))
        _adb("shell", f"mkdir -p {_FOLDER}")
        try:
            _adb("push", os.fspath(binary), f"{_FOLDER}/benchmark_model")
            _adb("shell", f"chmod 755 {_FOLDER}/benchmark_model")
            for number, path in enumerate(files.values()):
                _adb("push", os.fspath(path), f"{_FOLDER}/{number}.tflite")
            turns = [
                [_turn(*each, threads) for each in enumerate(files)]
                for _ in range(rounds)
            ]
        finally:
            _adb("shell", f"rm -r {_FOLDER}")
    medians = [statistics.median(each) for each in zip(*turns, strict=True)]
    large = medians[[*files].index(LARGE)]
    return PhoneReport(
        phone=phone,
        threads=threads,
        latencies=[
            PhoneLatency(
                name=name,
                milliseconds=median,
                ratio=median / large,
                turns=rounds,
            )
            for name, median in zip(files, medians, strict=True)
        ],
    )


def _find_phone():
    """The model of the one phone that is connected."""
    if shutil.which("adb") is None:
        raise ValueError(
            "Phones are reached by adb, which is not installed. On Debian: "
            "apt-get install adb."
        )
    lines = _adb("devices").splitlines()[1:]
    found = [line.split()[0] for line in lines if line.endswith("device")]
    wanted = os.environ.get("ANDROID_SERIAL")
    if wanted not in found if wanted else len(found) != 1:
        raise ValueError(
            "adb must find one phone, unlocked and with USB debugging allowed, "
            "or that which ANDROID_SERIAL names. Received: "
            f"{', '.join(filter(str.strip, lines)) or 'none'}."
        )
    return _adb("shell", "getprop ro.product.model").strip()


def _turn(number, name, threads):
    """Milliseconds of a call, the mean of a turn."""
    told = _adb(
        "shell",
        f"{_FOLDER}/benchmark_model --graph={_FOLDER}/{number}.tflite "
        f"--num_threads={threads} {_COUNTS} --use_xnnpack=true 2>&1",
        fails=f"{name} did not run on the phone",
    )
    found = _AVERAGE.search(told)
    if not found:
        last = told.strip().splitlines()[-1:] or ["nothing"]
        raise ValueError(
            "`binary` must be LiteRT's benchmark_model, which prints "
            f"'Inference (avg)'. Received, of {name}: {last[0]}."
        )
    return float(found[1]) / 1e3


def _adb(*words, fails="adb failed"):
    try:
        done = subprocess.run(
            ["adb", *words],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"{fails}: no answer to 'adb {words[0]}' in {_TIMEOUT} s."
        ) from None
    if done.returncode:
        told = (done.stderr or done.stdout).strip().splitlines()
        raise ValueError(f"{fails}: {told[-1] if told else 'no message'}.")
    return done.stdout
