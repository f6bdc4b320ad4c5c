"""Executes one notebook in a process of its own, while another one lives.

Usage: python -m gnsmall_keras.sweeps.worker '{"input_path": ...}'
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from gnsmall_keras.child import watch_starter
from gnsmall_keras.sweeps.notebook import literal
from gnsmall_keras.writing import lock

LOCK_FILE = "run.lock"  # in a run's folder
KERNEL_DIED = 75  # the exit status; nothing is wrong with the notebook
ERROR_SUFFIX = ".error"  # of the file that says why it failed
_PATHS = ("input_path", "output_path")
_PATIENCE = 30  # seconds in which a kernel writes its checkpoint and ends
_LOCK_SECONDS = 2 * _PATIENCE


def main() -> int:
    """Executes the notebook of the one argument; returns the exit status."""
    import papermill
    from nbclient.exceptions import DeadKernelError

    # A shell that starts a sweep in the background has it ignore Ctrl-C, and
    # Ray blocks it for all its processes.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    watch_starter(_end)
    order = json.loads(sys.argv[1])
    executed, status = Path(order["output_path"]), 1
    try:
        with executed.with_name(LOCK_FILE).open("ab") as file:
            _wait_for(file)
            paths = {name: literal(order[name]) for name in _PATHS}
            papermill.execute_notebook(**{**order, **paths})
            return 0
    except DeadKernelError as error:
        text, status = f"{error}", KERNEL_DIED
    except papermill.PapermillExecutionError as error:
        text = f"{error.ename}: {error.evalue}"
    except KeyboardInterrupt:  # papermill has stopped the kernel
        text = "The sweep was stopped."
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
    text = " ".join(text.split())
    executed.with_suffix(ERROR_SUFFIX).write_text(text, "utf-8")
    return status


def _wait_for(file):
    """Waits for one that a sweep before has left, and that still ends.

    Raises:
        ValueError: if it does not.
    """
    end = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return lock(file, wait=False)
        except BlockingIOError:
            if time.monotonic() > end:
                raise ValueError(
                    f"Another process works on this run: it holds {file.name}. "
                    "Wait for its end, then give the same command again."
                ) from None
        time.sleep(1)


def _end():
    """Ends this process and its kernel.

    The kernel is interrupted first, so that a training can write a checkpoint.
    """
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(_PATIENCE)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
