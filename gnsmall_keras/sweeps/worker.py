"""Executes one notebook in a process of its own, while another one lives.

Usage: python -m gnsmall_keras.sweeps.worker '{"notebook": ...}'
"""

import json
import os
import signal
import sys
import threading
import time

ERROR = "gnsmall-error: "  # before the line that says why it failed
_PATIENCE = 30  # seconds in which a kernel writes its checkpoint and ends


def main() -> int:
    """Executes the notebook of the one argument; returns the exit status."""
    import papermill

    # A shell that starts a sweep in the background has it ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_watch_starter, daemon=True).start()
    try:
        papermill.execute_notebook(**json.loads(sys.argv[1]))
    except papermill.PapermillExecutionError as error:
        return _fail(f"{error.ename}: {error.evalue}")
    except KeyboardInterrupt:  # papermill has stopped the kernel
        return _fail("The sweep was stopped.")
    except Exception as error:
        return _fail(f"{type(error).__name__}: {error}")
    return 0


def _fail(text):
    print(ERROR + " ".join(text.split()), file=sys.stderr, flush=True)
    return 1


def _watch_starter():
    """Ends this process and its kernel when the one that started it is gone.

    Standard input is a pipe that nobody writes to; it ends with its other
    end, however that died. The kernel is interrupted first, so that a training
    can write a checkpoint.
    """
    while os.read(0, 1):
        continue
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(_PATIENCE)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
