"""Sweep files: the runs they ask for, and what they are refused for."""

import collections
import dataclasses
import re

import pytest
from support import ROOT

from gnsmall_keras import cli
from gnsmall_keras.config import TEACHING, RunConfig
from gnsmall_keras.config.together import check_together
from gnsmall_keras.models.spec import PAPER_WIDTHS
from gnsmall_keras.sweeps.plan import SweepConfig, read_sweep

FILES = sorted((ROOT / "papermill_runs" / "sweeps").glob("*.toml"))
BASELINE = '[parameters]\nstrategy = "baseline"\n'


@pytest.fixture
def how_to(tmp_path):
    """The sweep of docs/howto/gpu.md."""
    text = (ROOT / "docs/howto/gpu.md").read_text("utf-8")
    (toml,) = re.findall(r"```toml\n(.*?)```", text, re.S)
    path = tmp_path / "seeds.toml"
    path.write_text(toml)
    return path


def test_the_how_to_s_runs_can_train_together(how_to):
    configs = read_sweep(how_to).configs
    assert len(configs) == 8
    check_together(configs)


def test_a_file_that_is_not_there_is_named(tmp_path, capsys):
    path = str(tmp_path / "seeds.toml")
    assert cli.main(["sweep", path]) == 2
    error = capsys.readouterr().err
    assert f"A sweep is a TOML file. Received: {path}, no file." in error
    assert error.count("\n") == 1


def test_a_folder_is_no_sweep(tmp_path):
    with pytest.raises(ValueError, match=r"Received: .*, a folder\. Give the"):
        read_sweep(tmp_path)


def test_a_file_in_another_encoding_is_named(tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_bytes("# Gerät\n[grid]\nseed = [0]".encode("latin-1"))
    with pytest.raises(ValueError, match=r"0xe4.* at place 5\. Save .* UTF-8"):
        read_sweep(path)


def test_a_mark_before_the_text_is_no_part_of_it(tmp_path):
    path = tmp_path / "sweep.toml"
    text = BASELINE + "[grid]\nseed = [0, 1]"
    path.write_text(text, encoding="utf-8-sig")
    assert len(read_sweep(path).configs) == 2


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shipped_files_ask_for_runs_and_say_what_they_cost(path):
    assert read_sweep(path).configs
    head = path.read_text().split("[parameters]")[0]
    assert "Expected" in head
    assert "estimate" in head


def test_the_width_sweep_has_the_paper_s_widths():
    configs = read_sweep(ROOT / "papermill_runs/sweeps/width.toml").configs
    assert tuple(config.width for config in configs) == PAPER_WIDTHS


def test_every_arm_of_the_paper_has_a_matched_baseline_for_each_seed():
    """With teachers of its own seed, and each arm shuffled."""

    def student(config):
        values = {
            field.name: getattr(config, field.name)
            for field in dataclasses.fields(RunConfig)
            if field.name not in TEACHING
        }
        return RunConfig(**values)

    sweep = read_sweep(ROOT / "papermill_runs/sweeps/distillation.toml")
    slugs = {config.slug: config for config in sweep.teacher_configs}
    baselines = {student(c) for c in sweep.configs if c.strategy == "baseline"}
    seeds = collections.defaultdict(set)
    for config in sweep.configs:
        assert student(config) in baselines
        assert config.shuffle
        for name in config.sources:
            assert slugs[name].seed == config.seed
        teachers = [slugs[name].model for name in config.teachers]
        arm = dataclasses.replace(config, seed=0, teachers=teachers)
        arm = dataclasses.replace(arm, assistants=arm.assistants and ("x",))
        seeds[arm].add(config.seed)
    assert all(found == {0, 1, 2} for found in seeds.values())
    assert len(sweep.configs) == len(set(sweep.configs)) == 66


def test_a_grid_and_runs_take_what_they_do_not_say_from_parameters(read):
    sweep = read(
        '[parameters]\nstrategy = "baseline"\nseed = 7\n'
        "[grid]\nwidth = [0.5, 1]\nepochs = [1, 2]\n"
        '[[runs]]\nstrategy = "kd"\nteachers = ["t"]\nseed = 1\n',
    )
    expected = [
        RunConfig(strategy="baseline", seed=7, width=width, epochs=epochs)
        for width in (0.5, 1.0)
        for epochs in (1, 2)
    ]
    expected.append(RunConfig(strategy="kd", teachers=("t",), seed=1))
    assert list(sweep.configs) == expected


def test_several_grids_follow_each_other(read):
    text = BASELINE + "[[grid]]\nseed = [0, 1]\n[[grid]]\nwidth = [2, 3]\n"
    found = [(c.seed, c.width) for c in read(text).configs]
    assert found == [(0, 1.0), (1, 1.0), (0, 2.0), (0, 3.0)]


def test_whole_numbers_become_real_ones_so_that_a_run_has_one_name():
    sweep = SweepConfig(
        runs=[{"strategy": "baseline", "width": width} for width in (1, 1.0)]
    )
    usual = RunConfig(strategy="baseline")
    assert {config.digest for config in sweep.configs} == {usual.digest}


TEACHERS = """
[parameters]
strategy = "kd"
data = "cifar10"
recipe = "best"
temperature = 1
[grid]
seed = [0, 1]
teachers = [["@big"], ["@small"]]
[[runs]]
cache = "@small"
[[runs]]
strategy = "assistant"
teachers = ["@big"]
assistants = ["@middle", "gns-w0.75"]
[teachers.big]
model = "resnet18"
[teachers.middle]
strategy = "kd"
teachers = ["@big"]
[teachers.small]
seed = 7
"""


def test_teachers_are_runs_of_their_own_before_those_who_learn(read):
    sweep = read(TEACHERS)
    common = {"data": "cifar10", "strategy": "baseline"}
    big, other = (
        RunConfig(model="resnet18", seed=seed, **common) for seed in (0, 1)
    )
    small = RunConfig(seed=7, **common)
    middle = RunConfig(data="cifar10", strategy="kd", teachers=(big.slug,))
    assert sweep.teacher_configs == (big, small, other, middle)
    assert [config.teachers for config in sweep.configs] == [
        (big.slug,),
        (small.slug,),
        (other.slug,),
        (small.slug,),
        (),
        (big.slug,),
    ]
    assert sweep.configs[-2].cache == small.slug
    assert sweep.configs[-1].assistants == (middle.slug, "gns-w0.75")
    assert {config.recipe for config in sweep.configs} == {"best"}


def test_a_teacher_sees_the_images_that_its_student_trains_on():
    shared = {"data": "cifar100", "validation_fraction": 0.2, "seed": 3}
    sweep = SweepConfig(
        parameters={"strategy": "kd", "width": 0.5, **shared},
        runs=[{"teachers": ["@t"]}],
        teachers={"t": {}},
    )
    assert sweep.teacher_configs == (RunConfig(strategy="baseline", **shared),)


KD = '[[runs]]\nteachers = ["@a"]\n[teachers.a]\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[runs]]\nteachers = ["@a"]', "runs[0]: '@a' names no teacher"),
        (KD + 'teachers = ["@b"]', "teachers.a: '@b' names no teacher"),
        (KD + "[teachers.b]", "No run learns from the teachers ['b']"),
        (
            KD + 'strategy = "kd"\nteachers = ["@b"]\n[teachers.b]\n'
            'strategy = "kd"\nteachers = ["@a"]',
            "teachers.b: a teacher must not learn from itself. Received: "
            "a from b from a.",
        ),
        (KD + "speed = 1", "`teachers.a.speed` is no parameter"),
        (KD + "seed = 0.5", "`teachers.a.seed` must be a whole number"),
        (KD + "width = 0", "teachers.a: "),
        (KD + 'teachers = ["x"]', "teachers.a: strategy='baseline' takes no"),
        (KD + 'teachers = ["x"]', "Take another strategy, or leave them out"),
        ("teachers = 1\n[[runs]]", "`teachers` must be a table"),
        ("[[runs]]\n[teachers]\na = 1", "`teachers.a` must be a table"),
        (KD + "[grid]\nseed = []", "`grid.seed` must be a list of one value"),
    ],
)
def test_teachers_that_do_not_fit_are_named(refuse, text, message):
    refuse(text, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "A sweep needs runs"),
        (BASELINE, "A sweep needs runs"),
        ("[grid]\n", "A sweep needs runs"),
        ("[grid]\nwidth = []", "`grid.width` must be a list of one value"),
        ("[grid]\nwidth = 1.0", "`grid.width` must be a list of one value"),
        ('[grid]\nwidth = [1, "a"]', "`grid.width[1]` must be a number"),
        ("[grid]\nwidht = [1.0]", "`grid.widht` is no parameter"),
        ("[parameters]\nspeed = 1\n[[runs]]", "`parameters.speed` is no"),
        ('[[runs]]\nseed = "0"', "`runs[0].seed` must be a whole number"),
        ("[[runs]]\nseed = true", "`runs[0].seed` must be a whole number"),
        ("[[runs]]\nepochs = 1.5", "`runs[0].epochs` must be a whole number"),
        ("[[runs]]\ndense = 1", "`runs[0].dense` must be true or false"),
        ('[[runs]]\nteachers = "t"', "`runs[0].teachers` must be a list"),
        ("[[runs]]\nteachers = [1]", "`runs[0].teachers[0]` must be a text"),
        ('[[runs]]\nstrategy = "x"', "`runs[0].strategy` must be one of"),
        (BASELINE + "[[runs]]\nwidth = 0", "runs[0]: "),
        (BASELINE + "[grid]\nwidth = [1, -1]", "grid, width=-1.0: "),
        ("[[runs]]", "runs[0]: strategy='kd' takes one teacher"),
        ("[runs]\nseed = 1", "Write [[runs]]"),
        ("runs = [1]", "`runs[0]` must be a table"),
        ("grid = 3", "`grid` must be a table"),
        ("grid = [3]", "`grid[0]` must be a table"),
        ("[[grid]]\n[[runs]]", "`grid[0]` must have a list of values"),
        ("[[grid]]\nseed = []", "`grid[0].seed` must be a list of one value"),
        ("width = 1.0", "Values of all runs stand in [parameters]"),
        ("[grid\n", "line 1"),
    ],
)
def test_what_does_not_fit_is_named_with_its_key(refuse, text, message):
    refuse(text, message)
