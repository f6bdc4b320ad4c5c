"""The bytes of a .tflite file."""

import os
from pathlib import Path

_EDGE_TPU_OP = b"edgetpu-custom-op"  # all that a compiled file has in it


def read_file(path: str | os.PathLike) -> bytes:
    """Returns the bytes of a .tflite file that is no delegate's own.

    Raises:
        ValueError: if there is no file or not such a one.
    """
    if not Path(path).is_file():
        raise ValueError(f"No file at {os.fspath(path)}. Check the path.")
    data = Path(path).read_bytes()
    if data[4:8] != b"TFL3":
        raise ValueError(
            f"{os.fspath(path)} is not a .tflite file: its identifier is "
            f"{data[4:8]!r}, not b'TFL3'. It may be truncated."
        )
    if _EDGE_TPU_OP in data:
        raise ValueError(
            f"{os.fspath(path)} is compiled for the Edge TPU and runs only "
            "there. Give the file it was compiled from, or run it with "
            "tflite/run_model.py --delegate libedgetpu.so.1."
        )
    return data
