"""Matrices of many shapes in stacks, for one operation on all of a stack."""

import collections

from keras import ops


def in_order(values, order):
    """Returns values that were taken in an order as they were before."""
    result = [None] * len(order)
    for index, value in zip(order, values, strict=True):
        result[index] = value
    return result


def by_shape(make_orthogonal, matrices):
    """Returns `make_orthogonal` of each of `(..., rows, columns)`.

    Those that have one shape, laid on their longer side, go together.
    """
    stacks = collections.defaultdict(list)
    lying = list(map(_lay, matrices))
    for index, matrix in enumerate(lying):
        stacks[tuple(matrix.shape[1:])].append(index)
    results = [None] * len(matrices)
    for indices in stacks.values():
        stack = ops.concatenate([lying[index] for index in indices])
        stack, first = make_orthogonal(stack), 0
        for index in indices:
            part = stack[first : first + lying[index].shape[0]]
            first += lying[index].shape[0]
            results[index] = _stand(part, matrices[index].shape)
    return results


def in_stacks(make_orthogonal, matrices):
    """Returns `make_orthogonal` of each of `(..., rows, columns)`.

    They are laid on their longer side, and those of up to 16, 32, 64, ... rows
    are stacked, filled up with zeros, which stay zero.
    """
    stacks = collections.defaultdict(list)
    for index, matrix in enumerate(matrices):
        rows = min(matrix.shape[-2:])
        stacks[max(rows - 1, 15).bit_length()].append(index)
    results = [None] * len(matrices)
    for indices in stacks.values():
        lying = [_lay(matrices[index]) for index in indices]
        rows, columns = (
            max(matrix.shape[axis] for matrix in lying) for axis in (1, 2)
        )
        stack = ops.concatenate(
            [
                ops.pad(
                    matrix,
                    (
                        (0, 0),
                        (0, rows - matrix.shape[1]),
                        (0, columns - matrix.shape[2]),
                    ),
                )
                for matrix in lying
            ]
        )
        stack = make_orthogonal(stack)
        first = 0
        for index, matrix in zip(indices, lying, strict=True):
            count, height, width = matrix.shape
            part = stack[first : first + count, :height, :width]
            first += count
            results[index] = _stand(part, matrices[index].shape)
    return results


def _lay(matrix):
    """Returns `(..., rows, columns)` as a stack, with rows <= columns."""
    matrix = ops.reshape(matrix, (-1, *matrix.shape[-2:]))
    if matrix.shape[1] > matrix.shape[2]:
        matrix = ops.swapaxes(matrix, -2, -1)
    return matrix


def _stand(part, shape):
    """Undoes `_lay` of a matrix of a shape."""
    if shape[-2] > shape[-1]:
        part = ops.swapaxes(part, -2, -1)
    return ops.reshape(part, shape)
