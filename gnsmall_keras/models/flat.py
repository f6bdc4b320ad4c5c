"""Many arrays as one vector, and back: few operations instead of hundreds."""

import itertools
import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops


def join(values, *, xp):
    """Returns all values, one after another in a vector.

    Args:
        values: arrays, or with `xp=keras.ops` tensors or variables.
        xp: `numpy` or `keras.ops`.
    """
    if xp is np:
        return np.concatenate([value.reshape(-1) for value in values])
    return ops.concatenate([ops.reshape(value, (-1,)) for value in values])


def split(vector, shapes):
    """Returns the parts of a vector that `join` has made, in their shapes."""
    ends = list(itertools.accumulate(map(math.prod, shapes)))
    ranges = zip([0, *ends], ends, shapes, strict=False)
    if isinstance(vector, np.ndarray):
        return [vector[i:j].reshape(shape) for i, j, shape in ranges]
    return [ops.reshape(vector[i:j], shape) for i, j, shape in ranges]


def slices_of(shapes, order):
    """Returns where `join` lays arrays of `shapes`; those of `order`, in it."""
    ends = list(itertools.accumulate(map(math.prod, shapes)))
    return [slice(ends[i] - math.prod(shapes[i]), ends[i]) for i in order]


def reordered(vector, slices):
    """Returns parts of a NumPy vector, one after another."""
    return np.concatenate([vector[part] for part in slices])


def shapes_of(variables: Sequence[keras.Variable]) -> list[tuple[int, ...]]:
    """Returns the variables' shapes."""
    return [tuple(variable.shape) for variable in variables]
