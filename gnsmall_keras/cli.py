"""The command line: parse, call, and say what went wrong in one line."""

import contextlib
import errno
import functools
import io
import itertools
import os
import re
import sys
from collections.abc import Callable

import tyro

import gnsmall_keras
from gnsmall_keras.backend import choose_backend
from gnsmall_keras.commands import (
    benchmark,
    evaluate,
    files,
    fit,
    info,
    networks,
    options,
    printing,
    runs,
    training,
)
from gnsmall_keras.config import check_backend
from gnsmall_keras.lines import one_line
from gnsmall_keras.quiet import (
    quieten_jax,
    quieten_matplotlib,
    quieten_tensorflow,
)
from gnsmall_keras.training.interruption import TrainingInterrupted

# A full disk, a full quota, a file beyond its limit.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TEMPORARY = 75  # EX_TEMPFAIL: the same command will go on
# Read when TensorFlow is imported. Without AVX-512 it leaves oneDNN's kernels
# out by itself, with which a training step takes half as long (docs/log.md).
_TENSORFLOW = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "1"}

# Where nobody has named a backend, these take JAX if it sees a GPU.
_TRAINING = {"train", "distill", "cache-teacher", "sweep"}

COMMANDS: dict[str, Callable[..., int | None]] = {
    "quickstart": training.quickstart,
    "fit": fit.fit,
    "train": training.train,
    "distill": training.distill,
    "cache-teacher": training.cache_teacher,
    "export": files.export,
    "c-array": files.c_array,
    "evaluate": evaluate.evaluate,
    "classify": evaluate.classify,
    "benchmark": benchmark.benchmark,
    "report": runs.report,
    "import-torch": networks.import_torch,
    "sweep": runs.sweep,
    "records": runs.records,
    "models": networks.models,
    "info": info.info,
}


def main(arguments: list[str] | None = None) -> int:
    """Runs `gnsmall`; returns the exit status.

    1 is a failed run or a damaged line, beside which the others were done; 2 is
    bad input, 75 a training that was stopped and can go on.
    """
    for name, value in _TENSORFLOW.items():
        os.environ.setdefault(name, value)
    quieten_tensorflow()
    quieten_jax()
    quieten_matplotlib()
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["--version"]:
        printing.show(f"gnsmall-keras {gnsmall_keras.__version__}")
        return 0
    try:
        if backend := os.environ.get("KERAS_BACKEND"):
            check_backend(backend)
        command = _parse(arguments)
        if "".join(arguments[:1]).replace("_", "-") in _TRAINING:
            choose_backend()
        return command() or 0
    except (ValueError, OSError) as error:
        full = isinstance(error, OSError) and error.errno in _FULL
        cure = ". Make room, then give the same command again: it goes on."
        printing.warn(f"error: {one_line(error)}{cure if full else ''}")
        return 2
    except MemoryError as error:
        printing.warn(f"error: out of memory. {one_line(error)}")
        return 2
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == __package__:
            raise  # a defect of ours
        printing.warn(
            f"error: {error}. Install what brings it: pip install "
            "'gnsmall-keras[EXTRA]', where EXTRA is tensorflow, jax or torch "
            "(KERAS_BACKEND names the one in use), export for .tflite files, "
            "report for figures, notebooks for sweeps."
        )
        return 2
    except TrainingInterrupted as stop:
        printing.warn(f"stopped: {stop}")
        return _TEMPORARY
    except KeyboardInterrupt:
        printing.warn("interrupted")
        return 130


def _parse(arguments):
    """Returns the chosen command with its arguments, not yet called.

    Raises:
        ValueError: if the arguments do not fit, in one line.
    """
    first, *others = arguments or [""]
    name = first.replace("_", "-")
    if name in COMMANDS:
        return _parse_command(name, others)
    if first and not first.startswith("-"):
        names = ", ".join(COMMANDS)
        raise ValueError(
            f"gnsmall has no command {first!r}."
            f"{options.meant(name, [*COMMANDS])} Commands: {names}."
        )
    return _run_tyro(
        tyro.extras.subcommand_cli_from_dict,
        {name: _command(name, told=1) for name in COMMANDS},
        args=arguments,
        prog="gnsmall",
        description="GhostNetV3-Small: train, deploy, check. `gnsmall COMMAND "
        "--help` has its options; `gnsmall --version` prints the version.",
        registry=options.registry(brief=False),
    )


def _parse_command(name, arguments):
    options.check_flags(name, COMMANDS[name], arguments)
    is_help = options.asks_for_help(arguments)
    brief = is_help and options.HELP_ALL not in arguments
    try:
        return _run_tyro(
            tyro.cli,
            _command(name, brief=brief),
            args=["--help"] if is_help else _with_values(arguments),
            prog=f"gnsmall {name}",
            registry=options.registry(brief=brief),
        )
    except SystemExit:
        if brief and options.has_advanced(name, COMMANDS[name]):
            printing.show(f"More options: gnsmall {name} {options.HELP_ALL}")
        raise


def _command(name, *, brief=False, told=None):
    """A command for tyro, with the first `told` lines of what it says."""
    command = COMMANDS[name]
    deferred = functools.wraps(command)(_deferred(command))
    deferred.__doc__ = "\n".join((command.__doc__ or "").split("\n")[:told])
    return options.shown(name, deferred, brief=brief)


def _run_tyro(cli, *commands, **settings):
    """Returns what tyro parsed; makes one line of its messages."""
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            return cli(*commands, **settings)
    except ImportError as error:
        if "shtab" not in str(error):
            raise
        raise ValueError(
            "completion for tcsh needs the package shtab, which is not "
            "installed. Install it: pip install shtab."
        ) from None
    except SystemExit as stop:
        if not stop.code:  # help, or a completion
            raise
        # A box of several lines becomes one line, without tyro's inner names.
        box = r"[│╭╮╰╯─]+|-{3,}"  # the latter where there is no UTF-8
        text = " ".join(re.sub(box, " ", messages.getvalue()).split())
        text = re.sub(r"^(\w+ \w+) (?=\1)", "", text, flags=re.IGNORECASE)
        text = re.sub(r"(Value error )?Error parsing (\S*config: )?", "", text)
        text = re.sub(r"For full helptext, (see|run):? ", "Help: ", text)
        raise ValueError(text) from None


def _with_values(arguments):
    """`--flip` and `--no-flip` have a third value, unset, so that tyro asks."""
    values = {"--flip": ["--flip", "True"], "--no-flip": ["--flip", "False"]}
    found = []
    for word, after in itertools.zip_longest(arguments, arguments[1:]):
        given = word == "--flip" and after in ("True", "False", "None")
        found += [word] if given else values.get(word, [word])
    return found


def _deferred(command):
    return lambda *args, **kwargs: functools.partial(command, *args, **kwargs)


if __name__ == "__main__":
    sys.exit(main())
