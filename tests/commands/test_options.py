"""Options: groups, common ones first, and what may have been meant."""

import dataclasses
import inspect
import sys

import pytest

from gnsmall_keras import cli
from gnsmall_keras.commands import options
from gnsmall_keras.config import RunConfig
from gnsmall_keras.recipes import RECIPES

pytestmark = pytest.mark.any_backend


def _help(capsys, *command):
    with pytest.raises(SystemExit) as stop:
        cli.main([*command])
    assert not stop.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize("kind", options.GROUPS, ids=lambda kind: kind.__name__)
def test_every_field_is_in_one_group(kind):
    grouped = [
        name
        for parts in options.GROUPS[kind].values()
        for part in parts
        for name in part.split()
    ]
    fields = [field.name for field in dataclasses.fields(kind)]
    assert sorted(grouped) == sorted(fields)


@pytest.mark.parametrize("command", options.ADVANCED)
def test_advanced_parameters_exist(command):
    names = options.ADVANCED[command].split()
    assert {*names} <= {*inspect.signature(cli.COMMANDS[command]).parameters}


def test_help_shows_common_options_and_where_the_others_are(capsys):
    brief = _help(capsys, "train", "--help")
    assert "--epochs" in brief
    assert "--ema-momentum" not in brief
    assert "More options: gnsmall train --help-all" in brief
    titles = ("network options", "training options", "augmentation options")
    everything = _help(capsys, "train", "--help-all")
    assert all(title in everything for title in titles)
    assert "More options" not in everything
    for field in dataclasses.fields(RunConfig):
        assert f"--{field.name.replace('_', '-')}" in everything
    assert "More options" not in _help(capsys, "models", "--help")


@pytest.mark.parametrize("name", ["epochs", "mixup"])
def test_defaults_are_the_recipes(name, capsys):
    text = _help(capsys, "train", "--help-all")
    words = " ".join(text.replace("│", " ").split())
    option = words.partition(f"--{name} ")[2].partition(" --")[0]
    values = {getattr(recipe, name) for recipe in RECIPES.values()}
    assert all(f"{value} in " in option for value in values)
    assert "default: None" not in option


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "Did you mean train?"),
        (["cache-techer", "--out", "a"], "Did you mean cache-teacher?"),
        (["train", "--widht", "0.5"], "Did you mean --width?"),
        (["train", "--widht=0.5"], "Did you mean --width?"),
        (["train", "--no-shufle"], "Did you mean --no-shuffle?"),
        (["train", "--no-epochs", "3"], "no option --no-epochs."),
        (["cache-teacher", "--no-recipe"], "Did you mean --recipe?"),
        (["distill", "--label-wight", "0"], "Did you mean --label-weight?"),
        (
            ["export", "a.keras", "--layer-error"],
            "Did you mean --layer-errors?",
        ),
        (["report", "--qqq"], "no option --qqq. Help: gnsmall report --help"),
    ],
)
def test_the_nearest_word_is_asked_for(arguments, message, capsys):
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_groups_make_the_values_that_their_fields_make():
    parse = cli._parse
    assert parse(["train"]).keywords["config"] == RunConfig()
    arguments = ["--teachers", "a", "--epochs", "3", "--no-flip"]
    arguments += ["--no-augment", "--label_weight", "0.25"]
    config = parse(["distill", *arguments]).keywords["config"]
    assert config == RunConfig(
        strategy="kd",
        teachers=("a",),
        epochs=3,
        flip=False,
        augment=False,
        label_weight=0.25,
    )


def test_the_version_is_printed(capsys):
    import gnsmall_keras

    assert cli.main(["--version"]) == 0
    version = gnsmall_keras.__version__
    assert capsys.readouterr().out == f"gnsmall-keras {version}\n"


def test_shells_get_a_completion(capsys):
    script = _help(capsys, "--tyro-print-completion", "bash")
    assert all(word in script for word in ("complete", "--epochs", "c-array"))


def test_a_completion_that_needs_a_package_names_it(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)  # as if not installed
    assert cli.main(["--tyro-print-completion", "tcsh"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "pip install shtab" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["benchmark", "a.tflite", "--index", "i.jsonl"], "Add --board."),
        (["report", "--published", "tflite"], "Add --networks README.md."),
        (
            [
                *("cache-teacher", "--teacher", "a", "--out", "b"),
                *("--views", "8", "--no-augment"),
            ],
            "Leave out --views or --no-augment.",
        ),
    ],
)
def test_options_without_effect_are_refused(arguments, told, capsys):
    assert cli.main(arguments) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [["train"], ["distill", "--strategy", "baseline"]]
)
def test_a_baseline_takes_nothing_of_teachers(command, tmp_path, capsys):
    options = ["--temperature", "3", "--out", str(tmp_path)]
    assert cli.main([*command, *options]) == 2
    told = capsys.readouterr().err
    assert "has none. Received: {'temperature': 3.0}. Leave them out" in told
    assert told.count("\n") == 1
