"""Groups, means, differences and the winner, computed again from records."""

import dataclasses
import math
import statistics

import pytest
from scipy import stats

from gnsmall_keras.report.estimates import estimate, paired_difference
from gnsmall_keras.report.groups import compare, group_runs
from gnsmall_keras.report.winner import find_winner


def test_seeds_make_a_group(make_record, runs_of):
    tests = (0.61, 0.64, 0.62)
    records = [make_record(test, seed=i) for i, test in enumerate(tests)]
    (group,) = group_runs(runs_of(*records))
    found = group.estimate("test_accuracy")
    assert found is not None
    assert found.n == 3
    assert found.mean == pytest.approx(100 * statistics.fmean(tests))
    assert found.deviation == pytest.approx(100 * statistics.stdev(tests))


@pytest.mark.parametrize(
    "other",
    [
        {"width": 1.0},
        {"epochs": 4},
        {"protocol": "paper"},
        {"recipe": "best"},
        {"shuffle": False},
        {"batch_size": 64},
        {"select": "validation"},
        {"cutout": 8},
        {"strategy": "kd", "teachers": ("t.keras",)},
        {"record": {"data_digest": "other images"}},
    ],
    ids=str,
)
def test_what_decides_a_result_makes_another_group(make_record, runs_of, other):
    runs = runs_of(make_record(0.6), make_record(0.6, seed=1, **other))
    assert len(group_runs(runs)) == 2


@pytest.mark.parametrize(
    "same",
    [
        {"batch_size": 128},  # the recipe's own
        {"strategy": "baseline", "temperature": 2.0},
        {"data": "elsewhere/cifar-10-batches-py"},
        {"record": {"backend": "torch", "commit": "x", "hardware": {}}},
    ],
    ids=str,
)
def test_what_decides_nothing_makes_no_other_group(make_record, runs_of, same):
    runs = runs_of(make_record(0.6), make_record(0.6, seed=1, **same))
    assert len(group_runs(runs)) == 1


def test_records_older_than_a_field_belong_to_its_default(make_record, runs_of):
    new = make_record(0.6, seed=1)
    old = dataclasses.replace(
        make_record(0.6),
        config={
            k: v
            for k, v in new.config.items()
            if k not in ("cutout", "devices")
        }
        | {"seed": 0},
        recipe={k: v for k, v in new.recipe.items() if k != "optimizer"},
    )
    assert len(group_runs(runs_of(old, new))) == 1


def test_a_seed_that_ran_twice_counts_once(make_record, runs_of):
    records = [make_record(0.60), make_record(0.62), make_record(0.7, seed=1)]
    (group,) = group_runs(runs_of(*records))
    assert group.values("test_accuracy") == {
        0: pytest.approx(60),
        1: pytest.approx(70),
    }


@pytest.mark.parametrize(
    "named",
    [
        lambda slug: {"teachers": (f"runs/{slug}",)},
        lambda slug: {"teachers": (slug,)},
        lambda slug: {"cache": slug},
    ],
    ids=["path", "name", "cache"],
)
def test_teachers_count_without_their_seed(make_record, runs_of, named):
    teachers = [make_record(0.7, width=1.0, seed=seed) for seed in (0, 1)]
    students = [
        make_record(0.6, seed=seed, strategy="kd", **named(teacher.slug))
        for seed, teacher in enumerate(teachers)
    ]
    groups = group_runs(runs_of(*teachers, *students))
    assert [len(group.runs) for group in groups] == [2, 2]
    # Without their records they are told apart by their weights.
    assert len(group_runs(runs_of(*students))) == 2


def test_teachers_of_another_seed_are_not_mixed_with_own_ones(
    make_record, runs_of
):
    teachers = [make_record(0.7, width=1.0, seed=seed) for seed in (0, 1)]
    own, others = (
        [
            make_record(
                accuracy, seed=seed, strategy="kd", teachers=(teacher.slug,)
            )
            for seed, teacher in enumerate(given)
        ]
        for accuracy, given in (
            (0.8, teachers),
            (0.6, [teachers[0], teachers[0]]),
        )
    )
    # Where all seeds have the same teacher, it is one group.
    assert [
        len(group.runs) for group in group_runs(runs_of(*teachers, *others))
    ] == [2, 2]
    groups = group_runs(runs_of(*teachers, *own, others[1]))
    found = {
        group.how.partition("teachers of seed ")[2]: group.values(
            "test_accuracy"
        )
        for group in groups
        if group.strategy == "kd"
    }
    assert found == {
        "own": pytest.approx({0: 80.0, 1: 80.0}),
        "0": pytest.approx({1: 60.0}),
    }


def test_hidden_teachers_make_no_other_groups(make_record, runs_of):
    teachers = [make_record(0.7, width=1.0, seed=seed) for seed in (0, 1)]
    students = runs_of(
        *(
            make_record(0.6, seed=seed, strategy="kd", teachers=(one.slug,))
            for seed, one in enumerate(teachers)
        )
    )
    (group,) = group_runs(students, hidden=runs_of(*teachers))
    assert group.runs == tuple(students)


def test_a_teacher_of_several_weights_is_named(make_record, runs_of):
    """Its record is there; its students' records have the weights."""
    teachers = [make_record(0.7, width=1.0, seed=seed) for seed in (0, 1)]

    def groups(*taught):
        students = []
        for seed, (name, digest) in enumerate(taught):
            record = make_record(
                0.6, seed=seed, strategy="kd", teachers=(name,)
            )
            described = {"name": name, "weights_digest": digest}
            values = {"teachers": [described], "stages": []}
            students.append(dataclasses.replace(record, distillation=values))
        found = group_runs(runs_of(*teachers, *students))
        return [group.mixed_teachers for group in found]

    own, other = (teacher.slug for teacher in teachers)
    assert groups((own, "a"), (f"runs/{own}", "a")) == [(), ()]
    assert groups((own, "a"), (f"runs/{own}", "b")) == [(own,), ()]
    # Each seed has its own, which differ.
    assert groups((own, "a"), (other, "b")) == [(), ()]


def test_groups_of_one_name_are_told_apart(make_record, runs_of):
    records = [
        make_record(
            0.6, seed=seed, strategy="kd", teachers=(f"{seed}/t.keras",)
        )
        for seed in (0, 1)
    ]
    names = {group.name for group in group_runs(runs_of(*records))}
    assert len(names) == 2


def test_a_teacher_that_names_itself_ends(make_record, runs_of):
    record = make_record(0.6, strategy="kd", teachers=("t.keras",))
    config = {**record.config, "teachers": [record.slug]}
    assert group_runs(runs_of(dataclasses.replace(record, config=config)))


def test_the_interval_is_students(make_record):
    treated = {0: 62.0, 1: 61.5, 2: 63.0, 7: 99.0}
    control = {0: 61.0, 1: 61.2, 2: 61.4, 8: 1.0}
    found = paired_difference(treated, control)
    assert found is not None
    differences = [1.0, 0.3, 1.6]
    mean = statistics.fmean(differences)
    low, high = stats.t.interval(
        0.95,
        df=2,
        loc=mean,
        scale=statistics.stdev(differences) / math.sqrt(3),
    )
    assert (found.n, found.mean) == (3, pytest.approx(mean))
    assert found.half_width == pytest.approx((high - low) / 2)


def test_one_pair_has_no_interval_and_none_no_difference():
    found = paired_difference({0: 62.0}, {0: 61.0, 1: 60.0})
    assert found == (1, pytest.approx(1.0), None, None, None)
    assert paired_difference({0: 62.0}, {1: 61.0}) is None
    assert estimate([]) is None


def test_a_strategy_meets_the_baseline_that_matches(make_record, runs_of):
    teachers = {"strategy": "kd", "teachers": ("t.keras",)}
    records = [
        make_record(0.60, 0.50),
        make_record(0.61, 0.52, seed=1),
        make_record(0.90, 0.90, epochs=4),  # not of the same epochs
        make_record(0.63, 0.51, **teachers),
        make_record(0.62, 0.55, seed=1, **teachers),
        make_record(0.62, 0.55, epochs=5, **teachers),
    ]
    alone, matched = compare(group_runs(runs_of(*records)))
    assert (alone.baseline, alone.test) == (None, None)
    assert matched.test is not None
    assert matched.validation is not None
    assert (matched.test.n, matched.test.mean) == (2, pytest.approx(2.0))
    assert matched.validation.mean == pytest.approx(2.0)


def test_the_winner_is_chosen_by_validation(make_record, runs_of):
    records = [
        make_record(0.99, 0.70, width=0.25),
        make_record(0.10, 0.80, width=0.5),
        make_record(0.50, 0.80, width=0.5, seed=1),
        make_record(0.50, 0.90, width=1.0),
        make_record(0.99, protocol="paper"),
    ]
    sizes = (79_336, 160_850, 160_850, 374_174, 160_850)
    runs = runs_of(
        *(
            dataclasses.replace(record, deployed_parameters=size)
            for record, size in zip(records, sizes, strict=True)
        )
    )
    assert find_winner(runs).slug == records[3].slug
    best = find_winner(runs, max_parameters=200_000)
    assert best.slug == min(records[1].slug, records[2].slug)
    assert find_winner(runs, max_parameters=79_336).slug == records[0].slug
    with pytest.raises(ValueError, match="no record does"):
        find_winner(runs, max_parameters=79_335)


def test_a_winner_is_of_one_data_set(make_record, runs_of):
    records = [
        make_record(0.6),
        make_record(0.9, 0.9, data="digits", record={"data_digest": "digits"}),
    ]
    with pytest.raises(ValueError, match="Choose with --data"):
        find_winner(runs_of(*records))
    assert (
        find_winner(runs_of(*records), data="cifar10").slug == records[0].slug
    )
