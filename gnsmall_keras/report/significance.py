"""Whether a difference may be chance: by test images, and by many tests."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gnsmall_keras.records.predictions import unpack_correct
from gnsmall_keras.records.run import RunRecord
from gnsmall_keras.report.estimates import Difference


class McNemar(NamedTuple):
    """Two networks on the same test images.

    Attributes:
        gained: images that only the first recognised.
        lost: images that only the second recognised.
        p: two-sided and exact: that as unequal a split or a worse one comes by
            chance where both are equally good.
    """

    gained: int
    lost: int
    p: float


def compare_predictions(
    treated: RunRecord, control: RunRecord
) -> McNemar | None:
    """Returns McNemar's test of two runs; None without their predictions.

    Source: McNemar, "Note on the sampling error of the difference between
    correlated proportions or percentages", 1947; exact form by the binomial.

    Raises:
        ValueError: if they were tested on different images.
    """
    if treated.data_digest != control.data_digest:
        raise ValueError(
            "McNemar's test is of two networks on the same images. Received: "
            f"{treated.slug} and {control.slug}, on others."
        )
    if treated.test_predictions is None or control.test_predictions is None:
        return None
    from scipy.stats import binomtest

    first, second = (
        unpack_correct(record.test_predictions) for record in (treated, control)
    )
    gained = int(np.sum(first & ~second))
    lost = int(np.sum(second & ~first))
    if gained + lost == 0:
        return McNemar(0, 0, 1.0)
    return McNemar(gained, lost, binomtest(gained, gained + lost).pvalue)


def correct_by_holm(values: Sequence[float | None]) -> list[float | None]:
    """Returns p-values corrected for being many, in the given order.

    The smallest counts as often as there are tests, the next once less, and
    none is below one before it. None stays None and counts as no test.

    Source: Holm, "A simple sequentially rejective multiple test procedure",
    1979.
    """
    known = sorted(
        (value, place)
        for place, value in enumerate(values)
        if value is not None
    )
    corrected: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (value, place) in enumerate(known):
        largest = max(largest, min(1.0, value * (len(known) - rank)))
        corrected[place] = largest
    return corrected


def correct_differences(
    found: Sequence[Difference | None],
) -> list[float | None]:
    """Returns the p-values of differences, corrected by Holm for being many.

    Equal differences have no p, but are a test all the same; one pair is none.
    """
    values = [
        1.0 if one and one.n > 1 and one.p is None else one and one.p
        for one in found
    ]
    corrected = correct_by_holm(values)
    return [
        p if one and one.p is not None else None
        for one, p in zip(found, corrected, strict=True)
    ]
