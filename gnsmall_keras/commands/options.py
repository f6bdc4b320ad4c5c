"""Which options a command's help shows: in groups, common ones first."""

import ast
import dataclasses
import difflib
import functools
import inspect
import itertools
import textwrap
from collections.abc import Callable, Sequence
from typing import Annotated, Any, get_args, get_origin

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    StructConstructorSpec,
    StructFieldSpec,
)

from gnsmall_keras import fields
from gnsmall_keras.commands.arguments import ImageOptions, RunOptions
from gnsmall_keras.config import Distilling, ExportConfig, RunConfig
from gnsmall_keras.recipes import RECIPES

HELP_ALL = "--help-all"
_HELP = ("-h", "--help", HELP_ALL)
# A group's options have no prefix, and its title is its name alone.
_TITLED = (tyro.conf.OmitArgPrefixes, tyro.conf.arg(prefix_name=False))
_TRAINING = {
    "network": ("model width", "head_units start"),
    "data": (
        "data",
        "image_size channels aspect flip skip_broken data_digest protocol "
        "validation_fraction",
    ),
    "training": (
        "recipe epochs batch_size peak_learning_rate seed",
        "label_smoothing ema_momentum select shuffle precision devices",
    ),
    "augmentation": ("", "augment cutout mixup cutmix"),
}
_TEACHING = (
    "teachers strategy loss label_weight temperature",
    "cache assistants dense combine teacher_weights confidence_weights",
)
# Of each kind of value: its groups, each with its common and advanced fields.
GROUPS: dict[Any, dict[str, tuple[str, str]]] = {
    RunConfig: {**_TRAINING, "teaching": ("", " ".join(_TEACHING))},
    Distilling: {"teaching": _TEACHING, **_TRAINING},
    RunOptions: {
        "running": (
            "out time_budget device",
            "index kernels loop tensorboard again",
        )
    },
    ExportConfig: {
        "file": (
            "target quantization",
            "calibration calibration_size float_layers head_units compress "
            "compress_images qat_epochs qat_images teacher",
        )
    },
    ImageOptions: {"images": ("", "aspect skip_broken")},
}
# Of each command: parameters that are advanced.
ADVANCED = {
    "fit": "max_bytes max_arena sizes channels aspect skip_broken seed",
    "cache-teacher": (
        "recipe protocol validation_fraction image_size channels aspect flip "
        "skip_broken"
    ),
    "export": "exports layer_errors layer_figure card reading",
    "evaluate": "limit reading",
    "benchmark": "rounds exports index published",
    "report": "figures readme networks published study images min_epochs",
    "sweep": "index address seeds resume kernels",
}


def registry(*, brief: bool) -> ConstructorRegistry:
    """Returns the rules by which tyro shows configs in groups.

    Args:
        brief: leaves advanced options out.
    """
    made = ConstructorRegistry()

    @made.struct_rule
    def _(info):
        if info.type not in GROUPS:
            return None
        groups = {
            name: _group(info.type, name, brief) for name in GROUPS[info.type]
        }
        return StructConstructorSpec(
            instantiate=functools.partial(_join, info.type),
            fields=tuple(
                StructFieldSpec(name, Annotated[group, *_TITLED], group(), "")
                for name, group in groups.items()
                if group.members
            ),
        )

    @made.struct_rule
    def _(info):
        members = getattr(info.type, "members", None)
        if members is None:
            return None
        return StructConstructorSpec(
            instantiate=dict,
            fields=tuple(_field(info.type.of, name) for name in members),
        )

    return made


def shown(name: str, command: Callable, *, brief: bool) -> Callable:
    """Returns a command with the parameters that its help shows.

    Args:
        name: of the command.
        command: the function.
        brief: leaves advanced parameters out.
    """
    hidden = ADVANCED.get(name, "").split() if brief else []
    signature = inspect.signature(command)
    kept = [p for p in signature.parameters.values() if p.name not in hidden]
    command.__signature__ = signature.replace(  # pyright: ignore
        parameters=kept
    )
    return command


def has_advanced(name: str, command: Callable) -> bool:
    """Returns whether `--help-all` shows more of a command than `--help`."""
    return name in ADVANCED or any(
        advanced
        for _, kind in _parameters(command)
        for _, advanced in GROUPS.get(kind, {}).values()
    )


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Returns whether a command's arguments ask for its help, or all of it."""
    return any(word in _HELP for word in arguments)


def check_flags(name: str, command: Callable, arguments: Sequence[str]) -> None:
    """Looks for options that a command does not have.

    Raises:
        ValueError: if there is one, with the one that may have been meant.
    """
    kinds = {}
    for parameter, kind in _parameters(command):
        kinds |= fields.rules(kind) if kind in GROUPS else {parameter: kind}
    known = []
    for option, kind in kinds.items():
        word = option.replace("_", "-")
        known += [f"--{word}"]
        known += [f"--no-{word}"] if fields.is_boolean(kind) else []
    for argument in arguments:
        flag = argument.partition("=")[0].replace("_", "-")
        if flag.startswith("--") and flag not in (*known, *_HELP):
            raise ValueError(
                f"`gnsmall {name}` has no option {flag}.{meant(flag, known)} "
                f"Help: gnsmall {name} --help-all"
            )


def meant(word: str, known: Sequence[str]) -> str:
    """Returns a question for the nearest of known words, or nothing."""
    near = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean {near[0]}?" if near else ""


def _parameters(command):
    """Names and types of a command's parameters, types without marks."""
    for parameter in inspect.signature(command).parameters.values():
        hint = parameter.annotation
        marked = get_origin(hint) is Annotated
        yield parameter.name, get_args(hint)[0] if marked else hint


def _group(kind, name, brief):
    """A class that stands for some of the fields of a kind of value."""
    common, advanced = GROUPS[kind][name]
    members = (common if brief else f"{common} {advanced}").split()
    return type("Group", (), {"of": kind, "members": members})


def _join(kind, **groups):
    return kind(
        **{k: v for values in groups.values() for k, v in values.items()}
    )


def _field(kind, name):
    hint = fields.rules(kind)[name]
    if kind in (RunConfig, Distilling):
        recipes = _of_recipes(name)
        if recipes:
            hint = Annotated[hint, tyro.conf.arg(help_behavior_hint=recipes)]
    default = next(
        f.default for f in dataclasses.fields(kind) if f.name == name
    )
    return StructFieldSpec(name, hint, default, _documents(kind).get(name))


def _of_recipes(name):
    """What the recipes have in place of a field's None, or nothing."""
    if not hasattr(RECIPES["quick"], name):
        return ""
    having: dict[Any, list[str]] = {}
    for recipe, values in RECIPES.items():
        having.setdefault(getattr(values, name), []).append(recipe)
    if len(having) == 1:
        return f"(default: {next(iter(having))} in every recipe)"
    told = (f"{value} in {_listed(names)}" for value, names in having.items())
    return f"(default: {', '.join(told)})"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


@functools.cache
def _documents(kind: type) -> dict[str, str]:
    """The docstrings of a class's fields, those of its parents too."""
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__[:-1]):
        tree = ast.parse(textwrap.dedent(inspect.getsource(one)))
        body = tree.body[0].body  # pyright: ignore
        for field, after in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr):
                text = ast.literal_eval(after.value)
                found[field.target.id] = " ".join(text.split())  # pyright: ignore
    return found
