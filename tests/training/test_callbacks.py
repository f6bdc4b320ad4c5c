"""What a training shows while it runs."""

import io
import re

import pytest

from gnsmall_keras.training.callbacks import ProgressLine
from gnsmall_keras.training.clock import Clock

LOGS = {"loss": 1.5, "kd_loss": 0.25, "accuracy": 0.5}


class Output(io.StringIO):
    """A file that may say that it is a terminal."""

    def __init__(self, terminal):
        super().__init__()
        self._terminal = terminal

    def isatty(self):
        return self._terminal


def _shown(monkeypatch, *, terminal, columns=160):
    """What two epochs of two steps write, the second without its end."""
    output = Output(terminal)
    monkeypatch.setattr("sys.stdout", output)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    clock = Clock(2)
    line = ProgressLine(clock, epochs=2, batch_size=8, title="student")
    line.on_train_begin()
    for epoch in range(2):
        clock.on_epoch_begin(epoch)
        line.on_epoch_begin(epoch)
        for batch in range(2):
            clock.on_train_batch_end(batch)
            line.on_train_batch_end(batch, LOGS)
        if not epoch:
            line.on_epoch_end(epoch, LOGS | {"val_accuracy": 0.75})
    line.close()
    return output.getvalue()


def test_a_terminal_has_a_live_line(monkeypatch):
    shown = re.sub(r"\x1b\[[0-9;?]*\w", "", _shown(monkeypatch, terminal=True))
    assert re.search(
        r"student: epoch 2/2 4/4 left \S+ [\d,]+ images/s loss 1\.5000  "
        r"validation 0\.7500  kd_loss 0\.2500 ",
        shown,
    )


def test_a_live_line_is_cut_off_at_the_edge(monkeypatch):
    shown = _shown(monkeypatch, terminal=True, columns=64)
    last = re.sub(r"\x1b\[[0-9;?]*\w", "", shown).rstrip().splitlines()[-1]
    assert re.search(r"epoch 2/2 4/4 left .* loss 1\S*…$", last)


@pytest.mark.parametrize("jupyter", [False, True])
def test_elsewhere_an_epoch_is_a_line(monkeypatch, jupyter):
    """In a file, and in a kernel, whatever environment says of colours."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: jupyter)
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = _shown(monkeypatch, terminal=False)
    assert re.fullmatch(
        r"student: epoch 1/2  loss 1\.5000  kd_loss 0\.2500  accuracy 0\.5000"
        r"  validation accuracy 0\.7500  [\d,]+ images/s\n",
        shown,
    )


def test_one_clock_counts_steps_of_the_epoch_and_of_the_training():
    """Four at a time of ten, of which an earlier call has done three."""
    clock = Clock(10, epoch=1, step=3)
    assert clock.total == 13
    seen = []
    for epoch, looks in ((1, (3, 7)), (2, (3, 7, 11))):
        clock.on_epoch_begin(epoch)
        for batch in looks:
            clock.on_train_batch_end(batch)
            seen.append((clock.total, clock.step, clock.first, clock.taken))
    assert seen == [
        (17, 7, 3, 4),
        (20, 10, 3, 3),
        (24, 4, 0, 4),
        (28, 8, 0, 4),
        (30, 10, 0, 2),
    ]
