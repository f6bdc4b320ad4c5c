"""Weights of several teachers."""

import math
from collections.abc import Sequence


def normalize_weights(
    weights: Sequence[float] | None, teachers: int
) -> tuple[float, ...]:
    """Returns one weight for each teacher; they add up to 1.

    Raises:
        ValueError: if a weight is below 0, their sum is not above 0, or their
            number is not that of the teachers.
    """
    values = [1.0] * teachers if weights is None else [*map(float, weights)]
    total = sum(values)
    if (
        len(values) != teachers
        or not all(math.isfinite(value) and value >= 0 for value in values)
        or total <= 0
    ):
        raise ValueError(
            "`weights` must be a number >= 0 for each teacher, with a sum > 0. "
            f"Received: {weights!r} for {teachers} teachers."
        )
    return tuple(value / total for value in values)
