"""Lines of text for people."""

import sys


def one_line(error: BaseException) -> str:
    """Returns what an error says, without line breaks; else its kind."""
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: BaseException, unknown: str = "") -> str:
    """Returns the first line of an error; else `unknown`, or its kind."""
    return (str(error).splitlines() or [unknown or type(error).__name__])[0]


def percent(share: float | None, unknown: str = "-") -> str:
    """Returns a share in [0, 1] as a percentage."""
    return unknown if share is None else f"{100 * share:.2f} %"


def say(line: str) -> None:
    """Writes a line beside the output, on standard error."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
