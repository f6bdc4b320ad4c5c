"""The connection to a Ray cluster, and what it has for jobs."""

import contextlib
import importlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gnsmall_keras.lines import one_line
from gnsmall_keras.sweeps.jobs import Job

_CONNECT_SECONDS = 5
_ANSWER_SECONDS = 15  # of a head, once Ray is imported


def ray_package() -> Any:
    """Returns the package, whose types are known in part."""
    import ray

    return ray


def has_token() -> bool:
    """Whether there is a token of a cluster where Ray looks for one."""
    names = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    usual = Path("~/.ray/auth_token")
    with contextlib.suppress(RuntimeError):  # where there is no home folder
        usual = usual.expanduser()
    return any(os.environ.get(name) for name in names) or usual.is_file()


def check_address(address: str) -> None:
    """Checks that the head of a cluster answers at an address.

    Ray itself tries for minutes, and then ends this process.

    Raises:
        ValueError: if nothing does, or something else; or it is no address.
    """
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise ValueError(
            "The address of a Ray cluster must be host:port or auto. "
            f"Received: {address!r}."
        )
    try:
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
    except OSError as error:
        raise ValueError(
            f"No Ray cluster answers at {address} ({error}). Start one with "
            "`ray start --head`, or leave `address` out."
        ) from None
    # In a process of its own: Ray's client cannot be interrupted.
    done = subprocess.run(
        [sys.executable, "-m", __name__, address],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise ValueError(
            f"What listens at {address} is not the head of a Ray cluster"
            f"{_reason(done)}. Give the port that `ray start --head` names "
            "(6379 by default; 8265 and 10001 are other services of Ray), or "
            "leave `address` out. A cluster with tokens needs its own in "
            "~/.ray/auth_token or RAY_AUTH_TOKEN."
        )


def _reason(done: "subprocess.CompletedProcess[str]") -> str:
    if done.returncode < 0:
        return f": it gave no answer within {_ANSWER_SECONDS} s"
    lines = done.stdout.split("\n")
    return f": {' '.join(lines[-1].split())}" if lines[-1].strip() else ""


def _ask_head(address: str) -> int:
    """Ends this process by a signal if there is no answer."""
    from ray.exceptions import RayError

    raylet: Any = importlib.import_module("ray._raylet")
    if hasattr(signal, "alarm"):  # not on Windows
        signal.alarm(_ANSWER_SECONDS)
    try:
        client = raylet.GcsClient(address=address)
        client.internal_kv_keys(b"gnsmall", None, _ANSWER_SECONDS)
    except (RayError, RuntimeError, ValueError) as error:
        sys.stdout.write(one_line(error).rstrip(": "))
        return 1
    return 0


def connect(address: str) -> None:
    """Connects to a cluster, or starts one where the address is "local".

    Raises:
        ValueError: if Ray does not start.
    """
    try:
        ray_package().init(
            address=address,
            include_dashboard=False if address == "local" else None,
            log_to_driver=False,
            logging_level="ERROR",
        )
    # What Ray raises where a port is not that of a cluster.
    except (OSError, RuntimeError, ValueError, SystemExit) as error:
        text = one_line(error)
        raise ValueError(
            f"Ray did not start at {address}: {text}. A cluster with tokens "
            "needs its own in ~/.ray/auth_token or RAY_AUTH_TOKEN."
        ) from None


def count_places(jobs: Sequence[Job]) -> tuple[int, int]:
    """Returns the number of GPUs and of machines that take jobs.

    Raises:
        ValueError: if there is no machine for one of the jobs.
    """
    nodes: list[Any] = ray_package().nodes()
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    taking = [own for own in resources if own.get("CPU", 0) >= 1]
    if not taking:
        raise ValueError("The Ray cluster has no machine with a CPU to give.")
    gpus = [int(own.get("GPU", 0)) for own in taking]
    wide = max(job.config.devices for job in jobs)
    if any(gpus) and wide > max(gpus):
        raise ValueError(
            f"A run with devices={wide} needs a machine with as many GPUs. "
            f"Received: a Ray cluster with at most {max(gpus)}."
        )
    return sum(gpus), len(taking)


if __name__ == "__main__":
    sys.exit(_ask_head(*sys.argv[1:]))
