"""Means over seeds, and differences paired by seed."""

import statistics
from collections.abc import Iterable, Mapping
from typing import NamedTuple

CONFIDENCE = 0.95
_ROUNDING = 1e-9  # of a percentage: far below one image


class Estimate(NamedTuple):
    """A mean over seeds; `deviation` is the sample's, None where n < 2."""

    n: int
    mean: float
    deviation: float | None


class Difference(NamedTuple):
    """A mean of paired differences, with its 95 % interval and its p.

    Attributes:
        n: pairs.
        mean: of the differences.
        deviation: of the sample; None where n < 2.
        half_width: of the interval by Student's t; None where n < 2, and
            where all differences are equal: a spread of 0 is none that a
            sample of seeds can have.
        p: two-sided, of Student's t-test; None where `half_width` is.
    """

    n: int
    mean: float
    deviation: float | None
    half_width: float | None = None
    p: float | None = None


def estimate(values: Iterable[float]) -> Estimate | None:
    """Mean and sample standard deviation; None of no values."""
    values = list(values)
    if not values:
        return None
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Estimate(len(values), statistics.fmean(values), deviation)


def paired_difference(
    treated: Mapping[int, float], control: Mapping[int, float]
) -> Difference | None:
    """The mean of `treated - control` over the seeds that both have.

    With one pair it has no interval; with no pair there is no difference.
    """
    seeds = sorted(treated.keys() & control.keys())
    pairs = [(treated[seed], control[seed]) for seed in seeds]
    found = estimate(first - second for first, second in pairs)
    if found is None:
        return None
    if found.deviation is None or found.deviation < _ROUNDING:
        return Difference(*found)
    from scipy.stats import ttest_rel

    test = ttest_rel(*zip(*pairs, strict=True))
    low, high = test.confidence_interval(CONFIDENCE)
    return Difference(*found, float(high - low) / 2, float(test.pvalue))
