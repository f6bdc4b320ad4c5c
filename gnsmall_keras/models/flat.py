"""Many arrays as one vector, and back: few operations instead of hundreds."""

import math

import keras
from keras import ops

_BACKEND = keras.config.backend()


def join(values):
    """Returns all values of variables or tensors, one after another.

    Gradients flow through it.
    """
    values = [_raw(value) for value in values]
    if _BACKEND == "torch":  # several times the speed of keras.ops
        import torch

        return torch.cat([value.reshape(-1) for value in values])
    if _BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.concat([tf.reshape(value, [-1]) for value in values], 0)
    return ops.concatenate([ops.reshape(value, (-1,)) for value in values])


def split(vector, shapes):
    """Returns the parts of a vector that `join` has made, in their shapes."""
    sizes = [math.prod(shape) for shape in shapes]
    if _BACKEND == "torch":
        parts = vector.split(sizes)
        return [
            part.view(tuple(shape))
            for part, shape in zip(parts, shapes, strict=True)
        ]
    if _BACKEND == "tensorflow":
        import tensorflow as tf

        return [
            tf.reshape(part, shape)
            for part, shape in zip(tf.split(vector, sizes), shapes, strict=True)
        ]
    parts, first = [], 0
    for size, shape in zip(sizes, shapes, strict=True):
        parts.append(ops.reshape(vector[first : first + size], shape))
        first += size
    return parts


def assign(variables, vector) -> None:
    """Gives variables the values of a vector, as `join` has ordered them."""
    parts = split(vector, [tuple(variable.shape) for variable in variables])
    if _BACKEND == "torch":
        import torch

        with torch.no_grad():
            torch._foreach_copy_(
                [_raw(variable) for variable in variables], parts
            )
        return
    for variable, part in zip(variables, parts, strict=True):
        # A keras.Variable in a stateless scope, on JAX, is not its value.
        target = _raw(variable) if _BACKEND == "tensorflow" else variable
        target.assign(part)


def _raw(value):
    return value.value if isinstance(value, keras.Variable) else value
