"""Arms and contrasts of sweep files, and what they are refused for."""

import pytest

from gnsmall_keras.sweeps.contrasts import Contrast
from gnsmall_keras.sweeps.plan import SweepConfig

ARMS = """
[parameters]
strategy = "baseline"
[[grid]]
arm = "width {width}"
seed = [0, 1]
width = [0.5, 1]
[[grid]]
arm = "kd from {teachers}"
strategy = ["kd"]
teachers = [["@a"], ["@a", "b"]]
cache = [""]
[teachers.a]
seed = 3
"""


def test_a_grid_names_the_arms_of_its_runs(read):
    text = ARMS.replace('["@a", "b"]', '["b"]')
    sweep = read(text)
    found = {
        name: [(c.width, c.seed, c.teachers) for c in configs]
        for name, configs in sweep.arms.items()
    }
    (teacher,) = sweep.teacher_arms["a"]
    assert teacher.seed == 3
    assert found == {
        "width 0.5": [(0.5, 0, ()), (0.5, 1, ())],
        "width 1": [(1.0, 0, ()), (1.0, 1, ())],
        "kd from a": [(1.0, 0, (teacher.slug,))],
        "kd from b": [(1.0, 0, ("b",))],
    }


def test_names_change_no_run(read):
    text = ARMS.replace('["@a", "b"]', '["b"]')
    lines = [line for line in text.splitlines() if not line.startswith("arm")]
    named, plain = read(text), read("\n".join(lines))
    assert named.configs == plain.configs
    assert not plain.arms


def test_a_contrast_is_of_each_arm_with_its_control():
    sweep = SweepConfig(
        grid={"arm": "{width}", "strategy": ["baseline"], "width": [1, 2, 3]},
        contrasts=[
            {"treated": ["2", "3"], "control": "1"},
            {
                "treated": ["3"],
                "control": "2",
                "hypothesis": "H",
                "primary": True,
            },
        ],
    )
    assert sweep.pairs == (
        Contrast(treated="2", control="1"),
        Contrast(treated="3", control="1"),
        Contrast(treated="3", control="2", hypothesis="H", primary=True),
    )


GRID = '[grid]\narm = "{width}"\nwidth = [1, 2]\nstrategy = ["baseline"]\n'
APART = """
[parameters]
strategy = "baseline"
[[grid]]
arm = "a"
seed = [0, 1]
[[grid]]
arm = "b"
seed = [2, 3]
width = [2]
"""
SAME = APART.replace("[2, 3]", "[0, 1]").replace("width = [2]", "")
PAIR = GRID + '[[contrasts]]\ntreated = ["1"]\ncontrol = "2"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GRID.replace('"{width}"', "1"), "`grid.arm` must be a text"),
        (GRID.replace("{width}", ""), "`grid.arm` must be a text"),
        (GRID.replace("{width}", "{wide}"), "Received: '{wide}'. Use: "),
        (GRID.replace("{width}", "{"), "`grid.arm` may have fields"),
        (GRID.replace("{width}", "{}"), "`grid.arm` may have fields"),
        (GRID.replace("{width}", "{width[9]}"), "`grid.arm` may have fields"),
        (GRID.replace("{width}", "{width:>9}"), "`grid.arm` may have fields"),
        (GRID.replace("{width}", "{width!r}"), "`grid.arm` may have fields"),
        (GRID.replace("{width}", "all"), "'all' with several values of width"),
        (
            GRID.replace("width = [1, 2]", "width = [1]\nseed = [3, 3]"),
            "one run for each seed. Received: '1' with the seeds [3, 3]",
        ),
        ("selection = true\n" + PAIR, "A selection is by validation accuracy"),
        (
            'selection = true\n[parameters]\nprotocol = "paper"\n' + GRID,
            "A selection is by validation accuracy",
        ),
        (GRID + "[contrasts]\na = 1", "Write [[contrasts]]"),
        ("contrasts = [1]\n" + GRID, "`contrasts[0]` must be a table"),
        (
            GRID + '[[contrasts]]\ntreated = ["1"]',
            "`contrasts[0]` needs `treated` and",
        ),
        (PAIR + "size = 1", "`contrasts[0]` needs `treated` and"),
        (PAIR.replace('["1"]', '"1"'), "must be a list of arms"),
        (PAIR.replace('["1"]', "[]"), "must be a list of arms"),
        (PAIR.replace('["1"]', '["4"]'), "'4' is no arm of this file"),
        (PAIR.replace('["1"]', "[[1]]"), "[1] is no arm of this file"),
        (PAIR.replace('["1"]', '["2"]'), "'2' with itself"),
        (PAIR.replace('"2"', "2"), "`contrasts[0].control` must be a text"),
        (PAIR + "primary = 1", "`contrasts[0].primary` must be true"),
        (PAIR + "hypothesis = 1", "`contrasts[0].hypothesis` must be a text"),
        (
            APART + '[[contrasts]]\ntreated = ["a"]\ncontrol = "b"',
            "'a' and 'b' without a pair. Give them seeds in common",
        ),
        (
            SAME + '[[contrasts]]\ntreated = ["a"]\ncontrol = "b"',
            "'a' and 'b' without a pair",
        ),
        (
            PAIR.replace('["1"]', '["1", "1"]') + "primary = true",
            "'1' and '2' twice. Leave one of them out",
        ),
        (
            PAIR + 'primary = true\n[[contrasts]]\ntreated = ["2"]\n'
            'control = "1"\nprimary = true',
            "'2' and '1' twice",
        ),
        ("selection = 1\n" + GRID, "`selection` must be true or false"),
        (GRID + '[[runs]]\narm = "a"', "`runs[0].arm` is no parameter"),
    ],
)
def test_what_does_not_fit_is_named_with_its_key(refuse, text, message):
    refuse(text, message)
