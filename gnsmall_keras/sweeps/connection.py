"""The connection to a Ray cluster, and what it has for jobs."""

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gnsmall_keras.sweeps.jobs import Job

_CONNECT_SECONDS = 5


def ray_package() -> Any:
    """Returns the package, whose types are known in part."""
    import ray

    return ray


def has_token() -> bool:
    """Whether there is a token of a cluster where Ray looks for one."""
    names = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    usual = Path.home() / ".ray" / "auth_token"
    return any(os.environ.get(name) for name in names) or usual.is_file()


def check_address(address: str) -> None:
    """Checks that something listens at the address of a cluster.

    Ray itself tries for two minutes, and then ends this process.

    Raises:
        ValueError: if nothing does, or it is no address.
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
        text = " ".join(str(error).split())
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
