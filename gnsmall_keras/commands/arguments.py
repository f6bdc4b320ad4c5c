"""Kinds of arguments that several commands have."""

import re
from pathlib import Path
from typing import Annotated

import tyro

PositionalPath = Annotated[Path, tyro.conf.Positional]
Flat = tyro.conf.OmitArgPrefixes


def seconds(text: str | None) -> float | None:
    """Returns the seconds that "540", "540s", "9m" or "1.5h" stand for.

    Raises:
        ValueError: if the text stands for none.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if match is None:
        raise ValueError(
            "`time_budget` must be a number of seconds, or end in s, m or h. "
            f"Received: {text!r}. Write 9m, for example."
        )
    return float(match[1]) * {"m": 60, "h": 3600}.get(match[2], 1)
