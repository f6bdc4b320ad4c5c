"""Stopping a training between two steps: out of time, or asked to."""

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Generator
from typing import Self


class TrainingInterrupted(RuntimeError):
    """A training has stopped before its end; its checkpoint is complete.

    Args:
        steps: done in this call.
    """

    def __init__(self, message: str, steps: int = 0):
        super().__init__(message)
        self.steps = steps


class BudgetTooShort(ValueError):
    """A time budget has passed with a training's first step, which is saved.

    Args:
        steps: done in this call.
    """

    def __init__(self, message: str, steps: int):
        super().__init__(message)
        self.steps = steps


class StopRequest:
    """Whether a training has to stop after the step it is in.

    Args:
        seconds: from now on; None for no limit.

    Raises:
        ValueError: if `seconds` is not a finite number > 0.
    """

    def __init__(self, seconds: float | None = None):
        if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
            raise ValueError(
                "`time_budget` must be a finite number of seconds > 0. "
                f"Received: {seconds!r}."
            )
        self.seconds = seconds
        self.steps = 0  # done in this call, by all of its stages
        self.ahead = 0.0  # seconds until the next look, where that is known
        self._began = time.monotonic()
        self.received = ""  # that a signal was, and which
        self._seen: str | None = None

    def look(self) -> None:
        """Makes `reason` stay what it is now, until the next look.

        So that several runs stop after the same step.
        """
        self._seen = None
        self._seen = self.reason

    @property
    def reason(self) -> str:
        """Why to stop, or an empty string."""
        if self._seen is not None:
            return self._seen
        if self.received:
            return self.received
        if self.out_of_time:
            return f"the time budget of {self.seconds:g} s is used up"
        return ""

    @property
    def was_asked(self) -> bool:
        """Whether a signal has come."""
        return bool(self.received)

    @property
    def out_of_time(self) -> bool:
        """Whether the time is up, or will be before the next look."""
        if self.seconds is None:
            return False
        passed = time.monotonic() - self._began
        return passed + self.ahead >= self.seconds

    @contextlib.contextmanager
    def listening(self) -> Generator[Self]:
        """Takes SIGTERM, SIGHUP and the first Ctrl-C as requests.

        A second one ends the process at once. Requests that listen within
        another get its signal as well.

        Python hands signals to the main thread: elsewhere they stay as they
        are.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        if _listening:
            self.received = _listening[-1].received
            handling = contextlib.nullcontext()
        else:
            handling = _handling()
        _listening.append(self)
        try:
            with handling:
                yield self
        finally:
            _listening.remove(self)


_listening: list[StopRequest] = []


@contextlib.contextmanager
def _handling():
    """Hands the first of each signal to those who listen."""
    numbers = [signal.SIGTERM, signal.SIGINT]
    if hasattr(signal, "SIGHUP"):  # not on Windows
        numbers.append(signal.SIGHUP)
    before = {
        number: handler
        for number in numbers
        # None is not Python's; what is ignored stays ignored.
        if (handler := signal.getsignal(number)) not in (None, signal.SIG_IGN)
    }

    def request(number, frame):
        for one in _listening:
            one.received = f"{signal.Signals(number).name} was received"
        signal.signal(number, before[number])
        os.write(2, b"stopping soon; press Ctrl-C again to stop at once\n")

    for number in before:
        signal.signal(number, request)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
