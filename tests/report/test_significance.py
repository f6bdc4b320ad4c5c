"""Tests of differences, against known values and by their definitions."""

import dataclasses
import math

import numpy as np
import pytest

from gnsmall_keras.data.cifar import CLASSES_10
from gnsmall_keras.records.predictions import describe, unpack_correct
from gnsmall_keras.report.estimates import paired_difference
from gnsmall_keras.report.groups import compare, group_runs
from gnsmall_keras.report.significance import (
    McNemar,
    compare_predictions,
    correct_by_holm,
    correct_differences,
)
from gnsmall_keras.report.tables import show_difference, tabulate_differences


def test_holm_counts_down_from_the_smallest():
    # As p.adjust of R has them.
    found = correct_by_holm([0.01, 0.04, None, 0.03, 0.005])
    assert found == pytest.approx([0.03, 0.06, None, 0.06, 0.02])
    assert correct_by_holm([0.9, 0.8]) == [1.0, 1.0]
    assert correct_by_holm([]) == []


def test_the_paired_test_is_students():
    control = {0: 80.0, 1: 81.0, 2: 82.0, 3: 70.0}
    treated = {0: 81.0, 1: 83.0, 2: 85.0}
    # t = 2 / (1 / sqrt(3)), two degrees of freedom: p = 1 - t / sqrt(2 + t^2).
    t = 2 * math.sqrt(3)
    expected = 1 - t / math.sqrt(2 + t * t)
    assert paired_difference(treated, control).p == pytest.approx(expected)
    assert paired_difference({0: 1.0}, control).p is None
    # Eleven of 10,000 images more with every seed: no spread but rounding's.
    counts = {0: 7712, 1: 7490, 2: 8403}
    before = {seed: 100 * (n / 10_000) for seed, n in counts.items()}
    after = {seed: 100 * ((n + 11) / 10_000) for seed, n in counts.items()}
    found = paired_difference(after, before)
    assert found.p is None
    assert found.half_width is None
    assert show_difference(found) == "+0.11 (n=3, no interval)"


def test_equal_differences_are_a_test_all_the_same():
    some = paired_difference({0: 1.0, 1: 2.0, 2: 2.5}, {0: 0.0, 1: 0.0, 2: 0.0})
    equal = paired_difference({0: 1.0, 1: 2.0}, {0: 0.0, 1: 1.0})
    single = paired_difference({0: 1.0}, {0: 0.0})
    assert correct_differences([some, None, single]) == [some.p, None, None]
    found = correct_differences([equal, some])
    assert found == [None, pytest.approx(2 * some.p)]


def test_mcnemar_counts_the_images_that_one_alone_recognised(
    make_record, predict
):
    first, logits, labels = predict(make_record(0.6, 0.6))
    noise = np.random.default_rng(1).normal(size=logits.shape)
    second = dataclasses.replace(
        make_record(0.5, 0.5, seed=1),
        test_predictions=describe(logits + noise, labels, CLASSES_10),
    )
    found = compare_predictions(first, second)
    assert found is not None
    bits = [unpack_correct(each.test_predictions) for each in (first, second)]
    gained = int(np.sum(bits[0] > bits[1]))
    lost = int(np.sum(bits[0] < bits[1]))
    assert (found.gained, found.lost) == (gained, lost)
    n, k = gained + lost, min(gained, lost)
    tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
    assert found.p == pytest.approx(min(1.0, 2 * tail))
    assert compare_predictions(first, first) == McNemar(0, 0, 1.0)
    assert compare_predictions(first, make_record(0.5, 0.5)) is None
    other = make_record(0.5, 0.5, record={"data_digest": "other"})
    with pytest.raises(ValueError, match="same images"):
        compare_predictions(first, other)


def test_the_table_of_differences_has_both(make_record, predict, runs_of):
    records = []
    for seed, (control, treated) in enumerate(((0.5, 0.55), (0.52, 0.6))):
        for strategy, accuracy in (("baseline", control), ("kd", treated)):
            teachers = ["t.keras"] if strategy == "kd" else []
            record = make_record(
                *(accuracy, accuracy),
                seed=seed,
                strategy=strategy,
                teachers=teachers,
            )
            predicted, *_ = predict(record)
            records.append(
                dataclasses.replace(predicted, test_accuracy=accuracy)
            )
    table = tabulate_differences(compare(group_runs(runs_of(*records))))
    (row,) = table.rows
    cells = dict(zip(table.header, row, strict=True))
    assert 0 < float(cells["p (t-test, Holm)"]) <= 1
    assert cells["images gained and lost (McNemar)"].count("seed") == 2
