"""A file's first contact with a runtime, in a process of its own.

Runtimes trust files: a damaged one can end the process that loads it. So a
child runs it once on a black image before this process loads it.
"""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from gnsmall_keras.child import lifeline, watch_starter
from gnsmall_keras.lines import one_line

# By the clock, and of processor time; as many again for each megabyte of the
# file. Damaged sizes may ask for any number of steps, in code that no thread
# can interrupt.
_SECONDS, _PROCESSOR_SECONDS = 60.0, 5
# Of address space. A damaged size may ask for any amount.
_MAX_BYTES = 4 * 2**30


def try_file(path: str | os.PathLike, data: bytes, runtime: str) -> None:
    """Runs a file once in a child; the same bytes are not tried again.

    Args:
        path: the file.
        data: its bytes.
        runtime: of `devices.runtime.RUNTIMES`, installed.

    Raises:
        ValueError: if the child crashes or takes too long; with the reason.
        RuntimeError: with what the runtime said, if it refuses the file.
    """
    _try(Path(path).resolve(), hash(data), runtime)


@functools.lru_cache(maxsize=256)  # an error is not cached
def _try(path, digest, runtime):
    del digest  # of what is at `path` now; part of the key alone
    times = _times(path)
    try:
        with lifeline() as stdin:
            done = subprocess.run(
                [sys.executable, "-m", __name__, str(path), runtime],
                stdin=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_SECONDS * times,
                check=False,
            )
    except subprocess.TimeoutExpired as error:
        raise ValueError(
            f"a trial took more than {error.timeout:g} s. The file may be "
            "damaged; compare its size or sha256."
        ) from None
    if done.returncode == 0:
        return
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        how = f"ended by {name}"
        if name == "SIGXCPU":
            most = _PROCESSOR_SECONDS * times
            how = f"took more than {most} s of processor time"
        raise ValueError(
            f"a trial {how}. The file may be damaged; compare its "
            "size or sha256."
        )
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    raise RuntimeError(lines[-1] if lines else f"status {done.returncode}")


def _main(path: str, runtime: str) -> int:
    watch_starter(lambda: os._exit(1))
    from gnsmall_keras.devices.runtime import TFLiteModel

    _limit(path)
    try:
        model = TFLiteModel(path, runtime=runtime, trial=False)
        model.run_black_image()
    except Exception as error:  # whatever a damaged file leads to
        told = one_line(error)
        sys.stderr.write(f"\n{told.partition(f' on {runtime}: ')[2] or told}\n")
        return 1
    return 0


def _times(path: str | os.PathLike) -> int:
    return 1 + Path(path).stat().st_size // 2**20


def _limit(path: str) -> None:
    """Of memory and processor time, after the imports."""
    if sys.platform == "win32":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or hard > _MAX_BYTES:
        resource.setrlimit(resource.RLIMIT_AS, (_MAX_BYTES, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    seconds = int(time.process_time()) + 1 + _PROCESSOR_SECONDS * _times(path)
    if hard == resource.RLIM_INFINITY or seconds < hard:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, hard))


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
