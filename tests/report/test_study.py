"""Studies: arms and contrasts of sweep files, from records alone."""

import dataclasses

import pytest

from gnsmall_keras.cli import main
from gnsmall_keras.report.estimates import paired_difference
from gnsmall_keras.report.figures.study import draw_study
from gnsmall_keras.report.pages.markdown import RESULTS
from gnsmall_keras.report.pages.study import make_study
from gnsmall_keras.report.significance import correct_by_holm
from gnsmall_keras.report.study import read_study
from gnsmall_keras.report.tables import tabulate_arms, tabulate_contrasts
from gnsmall_keras.sweeps.plan import read_sweep

FILE = """
[parameters]
data = "cifar10"
width = 0.5
epochs = 3
[[grid]]
arm = "alone"
seed = [0, 1, 2]
strategy = ["baseline"]
[[grid]]
arm = "kd, {teachers}, T={temperature}"
seed = [0, 1, 2]
temperature = [1, 4]
teachers = [["@big"]]
[[contrasts]]
hypothesis = "H1"
treated = ["kd, big, T=1", "kd, big, T=4"]
control = "alone"
primary = true
[[contrasts]]
treated = ["kd, big, T=4"]
control = "kd, big, T=1"
[teachers.big]
width = 1.0
epochs = 3
"""
ALONE = (0.60, 0.62, 0.61)
COLD = (0.61, 0.64, 0.62)  # +1, +2, +1
WARM = (0.60, 0.63, 0.60)  # 0, +1, -1


@pytest.fixture
def sweep(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(FILE)
    return path


@pytest.fixture
def records(sweep, make_record):
    """A record of each run of the file, by arm."""
    plan = read_sweep(sweep)
    named = {**plan.arms, "teacher": plan.teacher_arms["big"]}
    tests = dict(zip(named, (ALONE, COLD, WARM, (0.8, 0.8, 0.8)), strict=True))

    def record(config, test):
        fields = {
            field.name: getattr(config, field.name)
            for field in dataclasses.fields(config)
        }
        return make_record(test, validation=test + 0.01, **fields)

    return {
        arm: [
            record(config, test)
            for config, test in zip(configs, tests[arm], strict=True)
        ]
        for arm, configs in named.items()
    }


def _flat(records):
    return [record for found in records.values() for record in found]


def test_arms_have_their_runs_by_name(sweep, records, runs_of):
    study = read_study(sweep, runs_of(*_flat(records)))
    assert [(arm.name, arm.asked) for arm in study.arms] == [
        ("alone", 3),
        ("kd, big, T=1", 3),
        ("kd, big, T=4", 3),
    ]
    rows = tabulate_arms(study).rows
    assert rows[0] == (
        *("alone", "3 of 3", "gns w0.5", "3 (demonstration)"),
        "62.00 ± 1.00 (n=3)",
        "61.00 ± 1.00 (n=3)",
    )
    assert rows[-1][0] == "teacher big"
    assert rows[-1][-1] == "80.00 ± 0.00 (n=3)"


def test_the_best_epoch_is_shown_where_runs_have_one(sweep, records, runs_of):
    watched = [
        dataclasses.replace(record, best_test_accuracy=0.7)
        for record in records["alone"]
    ]
    table = tabulate_arms(read_study(sweep, runs_of(*watched)))
    assert table.header[-1] == "best epoch on test, %"
    assert [row[-1] for row in table.rows] == ["70.00 ± 0.00 (n=3)", *"---"]


def test_agreement_with_teachers_is_shown_where_runs_have_it(
    sweep, records, runs_of
):
    described = {"teachers": [], "stages": [], "agreement": {"a": 0.5, "b": 1}}
    watched = [
        dataclasses.replace(record, distillation=described)
        for record in records["alone"]
    ]
    table = tabulate_arms(read_study(sweep, runs_of(*watched)))
    assert table.header[-1] == "agreement with teacher, held out, %"
    assert [row[-1] for row in table.rows] == [
        "50.00 ± 0.00 (n=3) (a); 100.00 ± 0.00 (n=3) (b)",
        *"---",
    ]


def test_contrasts_are_paired_and_primary_ones_corrected_together(
    sweep, records, runs_of
):
    study = read_study(sweep, runs_of(*_flat(records)))
    cold, warm, between = study.rows
    alone = dict(enumerate(100 * test for test in ALONE))
    chances = [
        paired_difference(dict(enumerate(100 * test for test in arm)), alone).p
        for arm in (COLD, WARM)
    ]
    assert [cold.corrected, warm.corrected] == pytest.approx(
        correct_by_holm(chances)
    )
    assert between.corrected is None
    assert cold.found.test.mean == pytest.approx(4 / 3)
    # 4.303 standard errors of +1, +2 and +1.
    assert cold.found.test.half_width == pytest.approx(1.4343, abs=1e-4)
    assert between.found.test.mean == pytest.approx(-4 / 3)
    rows = tabulate_contrasts(study).rows
    assert rows[0][:4] == (
        *("H1", "kd, big, T=1", "alone"),
        "+1.33 ± 0.58, 95 %: -0.10 to +2.77 (n=3)",
    )
    assert rows[2][0] == "-"
    assert rows[2][4] == "-"


def test_runs_that_are_not_there_yet_are_said_to_be_missing(
    sweep, records, runs_of
):
    partial = [*records["alone"][:2], records["kd, big, T=1"][0]]
    study = read_study(sweep, runs_of(*partial))
    rows = tabulate_arms(study).rows
    assert [row[1] for row in rows] == ["2 of 3", "1 of 3", "0 of 3", "0 of 3"]
    assert rows[2][2:] == ("-",) * 4
    contrasts = tabulate_contrasts(study).rows
    assert contrasts[0][3] == "+1.00 (n=1, no interval)"
    assert contrasts[1][3] == "-"
    assert len(draw_study(study)) == 2
    assert draw_study(read_study(sweep, [])) == []


@pytest.mark.parametrize("missing", ["kd, big, T=4", "alone"])
def test_no_primary_p_is_shown_before_all_of_them_are_there(
    sweep, records, runs_of, missing
):
    """Holm's correction of fewer is smaller."""
    records[missing].pop()
    study = read_study(sweep, runs_of(*_flat(records)))
    assert [row.corrected for row in study.rows] == [None] * 3


def test_a_primary_contrast_without_spread_is_a_test_all_the_same(
    sweep, records, runs_of
):
    records["kd, big, T=4"] = [
        dataclasses.replace(warm, test_accuracy=alone.test_accuracy)
        for warm, alone in zip(
            records["kd, big, T=4"], records["alone"], strict=True
        )
    ]
    study = read_study(sweep, runs_of(*_flat(records)))
    cold, warm, _ = study.rows
    assert warm.corrected is None
    assert cold.corrected == pytest.approx(2 * cold.found.test.p)


def test_other_runs_change_nothing(sweep, records, runs_of, make_record):
    runs = runs_of(*_flat(records))
    more = runs_of(*_flat(records), make_record(0.9, width=2.0))
    assert read_study(sweep, runs) == read_study(sweep, more)


def test_a_run_of_an_older_name_counts_where_no_other_is(
    sweep, records, runs_of
):
    first, *others = records["alone"]
    config = read_sweep(sweep).arms["alone"][0]
    (older,) = config.aliases
    renamed = dataclasses.replace(first, **older._asdict())
    wrong = dataclasses.replace(renamed, test_accuracy=0.1)
    expected, *found = (
        tabulate_arms(read_study(sweep, runs_of(*some))).rows[0]
        for some in (
            (first, *others),
            (renamed, *others),
            (wrong, first, *others),
        )
    )
    assert expected[1] == "3 of 3"
    assert found == [expected, expected]


def test_a_run_that_is_recorded_twice_counts_once(sweep, records, runs_of):
    again = dataclasses.replace(records["alone"][0], test_accuracy=0.62)
    study = read_study(sweep, runs_of(again, *records["alone"]))
    alone = tabulate_arms(study).rows[0]
    assert alone[1] == "3 of 3"
    # 62, of the first of its two runs, and 62 and 61.
    assert alone[-1] == "61.67 ± 0.58 (n=3)"


def test_teachers_of_one_name_and_other_weights_are_told_apart(
    sweep, records, runs_of
):
    replaced = [
        dataclasses.replace(
            record,
            distillation={
                "teachers": [{"name": name, "weights_digest": digest}],
                "stages": [],
            },
        )
        for record, digest in zip(records["kd, big, T=1"], "aab", strict=True)
        for name in record.config["teachers"]
    ]
    with pytest.raises(ValueError, match="teachers of the same weights"):
        read_study(sweep, runs_of(*records["alone"], *replaced))
    # Each seed has its own: without their records nothing is known of them.
    missing = ", ".join(record.slug for record in records["teacher"][1:])
    recorded = runs_of(records["teacher"][0], *records["kd, big, T=1"])
    with pytest.raises(ValueError, match=f"what they are: {missing}. Give"):
        read_study(sweep, recorded)


@pytest.mark.parametrize(
    ("digests", "refused"),
    [("aaa", False), ("aab", True), ("aaab", False)],
    ids=["the same", "replaced", "repeated"],
)
def test_so_are_those_whose_teacher_is_recorded(
    sweep, make_record, runs_of, digests, refused
):
    """Its record says nothing of the weights; only runs that count matter."""
    sweep.write_text(FILE + "seed = 0\n")  # one teacher for all seeds
    plan = read_sweep(sweep)
    configs = [*plan.arms["kd, big, T=1"], plan.arms["kd, big, T=1"][0]]
    records = [make_record(0.8, width=1.0)]
    assert [records[0].slug] == [one.slug for one in plan.teacher_configs]
    for config, digest in zip(configs, digests, strict=False):
        record = make_record(0.6, **vars(config))
        teacher = {"name": records[0].slug, "weights_digest": digest}
        described = {"teachers": [teacher], "stages": []}
        records.append(dataclasses.replace(record, distillation=described))
    if not refused:
        assert read_study(sweep, runs_of(*records)).arms[1].done == 3
        return
    with pytest.raises(ValueError, match="one name and different weights"):
        read_study(sweep, runs_of(*records))


def test_short_teachers_that_are_left_out_are_known_all_the_same(
    tmp_path, sweep, make_record, write_index
):
    head, mark, teacher = FILE.rpartition("[teachers.big]")
    sweep.write_text(head + mark + teacher.replace("3", "2"))
    plan = read_sweep(sweep)
    records = [
        make_record(0.6, **vars(config))
        for config in (*plan.teacher_configs, *plan.configs)
    ]
    index, page = write_index(*records), _page(tmp_path)
    command = ["report", "--index", str(index), "--study", str(sweep)]
    command += ["--readme", str(page), "--min-epochs", "3"]
    assert main(command) == 0
    text = page.read_text()
    assert "Completed runs: 9 of 9" in text
    assert "| teacher big | 0 of 3 |" in text


def _selection(sweep):
    head, _, rest = FILE.partition("[[contrasts]]")
    _, mark, teachers = rest.rpartition("[teachers.big]")
    sweep.write_text("selection = true\n" + head + mark + teachers)
    return sweep


def _scored(records, validations):
    """The arms with these validation accuracies, for all seeds."""
    return [
        dataclasses.replace(record, validation_accuracy=score)
        for found, score in zip(records.values(), validations, strict=True)
        for record in found
    ]


@pytest.mark.parametrize(
    ("validations", "chosen"),
    [
        ((0.6, 0.7, 0.65), "kd, big, T=1"),
        ((0.6, 0.7, 0.7), "kd, big, T=4"),  # the later of equals
        ((0.7, 0.6, 0.6), "alone"),
    ],
)
def test_a_choice_is_by_validation(
    sweep, records, runs_of, validations, chosen
):
    found = _scored(records, (*validations, 0.9))
    study = read_study(_selection(sweep), runs_of(*found))
    assert study.chosen.name == chosen
    table = tabulate_arms(study)
    assert not any("test" in name for name in table.header)
    marked = [row[0] for row in table.rows if row[-1].endswith(", chosen")]
    assert marked == [chosen]


def test_a_choice_waits_for_all_runs(sweep, records, runs_of):
    found = _flat(records)
    study = read_study(_selection(sweep), runs_of(*found[:2], *found[3:]))
    assert study.chosen is None
    assert "chosen" not in tabulate_arms(study).to_markdown()


def test_a_choice_never_looks_at_the_test_split(sweep, records, runs_of):
    """Not the table, the figure or the choice; whatever was measured there."""

    class Blind:
        """A record that fails where a test result is asked for."""

        def __init__(self, record):
            self._record = record

        def __getattr__(self, name):
            assert "test" not in name, f"{name} was looked at"
            return getattr(self._record, name)

    runs = [
        run._replace(record=Blind(run.record))
        for run in runs_of(*_flat(records))
    ]
    study = read_study(_selection(sweep), runs)
    assert study.chosen.name == "kd, big, T=1"
    drawings = draw_study(study)
    text = make_study(study, drawings, "index.jsonl", "study")
    assert ", chosen |" in text
    assert "test" not in text.lower()
    assert [drawing.name for drawing in drawings] == ["small-arms"]


def _page(tmp_path):
    page = tmp_path / "study.md"
    page.write_text("\n".join(["# A study\n", *RESULTS, "\nThe end.\n"]))
    return page


def test_the_command_writes_page_and_figures_the_same_each_time(
    tmp_path, sweep, records, write_index, capsys
):
    index, page = write_index(*_flat(records)), _page(tmp_path)
    command = ["report", "--index", str(index), "--study", str(sweep)]
    assert main([*command, "--readme", str(page)]) == 0
    figures = sorted((tmp_path / "study").iterdir())
    assert [file.name for file in figures] == [
        "small-arms.svg",
        "small-contrasts.svg",
    ]
    before = [file.read_bytes() for file in (page, *figures)]
    text = page.read_text()
    assert "Completed runs: 9 of 9" in text
    assert "(study/small-contrasts.svg)" in text
    assert text.endswith("\n\nThe end.\n")
    assert main([*command, "--readme", str(page)]) == 0
    assert [file.read_bytes() for file in (page, *figures)] == before
    assert "Wrote" in capsys.readouterr().out


def test_links_to_figures_are_quoted(tmp_path, sweep, records, write_index):
    sweep = sweep.rename(tmp_path / "small (v2).toml")
    index = write_index(*_flat(records))
    page = _page(tmp_path).rename(tmp_path / "my page.md")
    command = ["report", "--index", str(index), "--study", str(sweep)]
    assert main([*command, "--readme", str(page)]) == 0
    assert "](my%20page/small%20%28v2%29-arms.svg)" in page.read_text()
    assert (tmp_path / "my page" / "small (v2)-arms.svg").is_file()


@pytest.mark.parametrize("name", ["RESULTS", "RESULTS.md"])
def test_a_page_needs_a_name_for_its_folder(
    tmp_path, sweep, records, write_index, capsys, name
):
    index = write_index(*_flat(records))
    page = _page(tmp_path).rename(tmp_path / name)
    (tmp_path / "RESULTS").touch()
    command = ["report", "--index", str(index), "--study", str(sweep)]
    assert main([*command, "--readme", str(page)]) == 2
    told = capsys.readouterr().err
    assert f"where {tmp_path / 'RESULTS'} is a file. Give the page" in told


def test_the_page_names_gpus_and_seeds_of_several_machines(
    tmp_path, sweep, records, write_index
):
    page = _page(tmp_path)

    def write(found):
        index = write_index(*_flat(found))
        command = ["report", "--index", str(index), "--study", str(sweep)]
        assert main([*command, "--readme", str(page)]) == 0
        return page.read_text()

    assert "Runs of the same seed" not in write(records)
    hardware = {"processor": "Xeon", "devices": ["gpu:0 (NVIDIA H200)"]}
    there = {"devices": ["gpu:0 (NVIDIA H100)"], "commit": "0123456789"}
    hardware["before"] = [there]
    arm = [
        dataclasses.replace(record, hardware=hardware)
        for record in records["alone"][1:]
    ]
    text = write({**records, "alone": [records["alone"][0], *arm]})
    assert "NVIDIA H100, NVIDIA H200" in text
    assert "Xeon" not in text
    assert "commit 01234567, commit " in text
    assert "differ by these too: those of seed 1, 2." in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "`study` is for `readme` alone. Received: none"),
        (["--out", "a.html"], "`study` is for `readme` alone"),
        (["--readme", "a.md", "--figures", "a"], "Received: other files too"),
    ],
)
def test_a_study_needs_a_page(sweep, write_index, options, message, capsys):
    index = write_index()
    index.write_text("")
    command = ["report", "--index", str(index), "--study", str(sweep)]
    assert main([*command, *options]) == 2
    assert message in capsys.readouterr().err


def test_a_sweep_without_arms_is_no_study(tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_text('[[runs]]\nstrategy = "baseline"\n')
    with pytest.raises(ValueError, match="whose grids name their arms"):
        read_study(path, [])


@pytest.mark.parametrize("number", [0, 1])
def test_runs_on_other_images_are_refused(sweep, records, runs_of, number):
    found = _flat(records)
    found[number] = dataclasses.replace(found[number], data_digest="others")
    with pytest.raises(ValueError, match="on the same images"):
        read_study(sweep, runs_of(*found))


def test_teachers_of_one_name_and_seed_are_refused(sweep):
    more = '[[runs]]\nteachers = ["@big"]\nvalidation_fraction = 0.2\n'
    sweep.write_text(FILE.replace("[teachers.big]", more + "[teachers.big]"))
    with pytest.raises(ValueError, match="several of 'big'"):
        read_study(sweep, [])


def test_studies_of_one_name_are_refused(tmp_path, sweep, write_index, capsys):
    index = write_index()
    index.write_text("")
    page = _page(tmp_path)
    command = ["report", "--index", str(index), "--readme", str(page)]
    assert main([*command, "--study", str(sweep), str(sweep)]) == 2
    assert "names of their own" in capsys.readouterr().err
