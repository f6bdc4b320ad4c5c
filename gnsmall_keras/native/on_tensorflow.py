"""The engine inside TensorFlow's graphs, by `tf.numpy_function`.

The graph reads and writes each variable and calls the engine twice: it is
traced in a fraction of the time that branches take. Variables of one shape go
to and fro in one stack: an array costs `tf.numpy_function` some 10 us a step,
an operation some 0.3 ms of tracing.
"""

import collections
import contextlib
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gnsmall_keras.native.network import NativeNetwork


@contextlib.contextmanager
def graphs_as_they_are():
    """Has TensorFlow run graphs without optimising them first.

    A step's graph has thousands of operations that move variables, and nothing
    to gain: its optimisation takes longer than its tracing.
    """
    import tensorflow as tf

    options = tf.config.optimizer
    before = options.get_experimental_options()
    options.set_experimental_options({"disable_meta_optimizer": True})
    try:
        yield
    finally:
        before.setdefault("disable_meta_optimizer", False)
        options.set_experimental_options(before)


class _Begun(NamedTuple):
    logits: Any
    ticket: Any
    parameters: list  # as they were read, in stacks


class TensorFlowNetwork(NativeNetwork):
    """On TensorFlow's tensors."""

    def infer(self, images):
        """Returns the logits of a batch in inference mode."""
        import tensorflow as tf

        self.check_images(images)
        stacks = _Stacks([*self.parameters, *self.statistics])
        logits = tf.numpy_function(
            lambda images, *values: self.infer_arrays(
                images, *stacks.taken_apart(values)
            ),
            [tf.cast(images, "float32"), *stacks.read()],
            tf.float32,
        )
        logits.set_shape((images.shape[0], self.plan.classes))
        return logits

    def train_step(self, images, optimizer, loss_of):
        """Computes a training step.

        Args:
            images: `(batch, height, width, channels)`.
            optimizer: built.
            loss_of: from logits to the loss.

        Returns:
            The logits.
        """
        import tensorflow as tf

        begun = self._begin(images)
        with tf.GradientTape() as tape:
            tape.watch(begun.logits)
            loss = loss_of(begun.logits)
        of_logits = tape.gradient(loss, begun.logits)
        if self.is_moved_by(optimizer):
            self._move(optimizer, begun, of_logits)
        else:
            gradients = tf.numpy_function(
                self.gradients,
                [begun.ticket, of_logits],
                [tf.float32] * len(self.parameters),
            )
            for gradient, shape in zip(gradients, self._shapes, strict=True):
                gradient.set_shape(shape)
            optimizer.apply(gradients, self.parameters)
        return begun.logits

    def _begin(self, images):
        import tensorflow as tf

        self.check_images(images)
        weights, statistics = _Stacks(self.parameters), _Stacks(self.statistics)
        parameters = weights.read()

        def begin(images, *values):
            count = len(parameters)
            logits, moved, ticket = self.begin(
                images,
                weights.taken_apart(values[:count]),
                statistics.taken_apart(values[count:]),
            )
            return [logits, np.int64(ticket), *statistics.joined(moved)]

        logits, ticket, *moved = tf.numpy_function(
            begin,
            [tf.cast(images, "float32"), *parameters, *statistics.read()],
            [tf.float32, tf.int64, *statistics.types],
        )
        statistics.write(moved)
        logits.set_shape((images.shape[0], self.plan.classes))
        return _Begun(logits, ticket, parameters)

    def _move(self, optimizer, begun, of_logits):
        import tensorflow as tf

        count = len(begun.parameters)
        weights = _Stacks(self.parameters)
        others = _Stacks(self.moved_variables(optimizer)[len(self._shapes) :])

        def end(ticket, of_logits, rate, iteration, *values):
            read = weights.taken_apart(values[:count])
            arrays = [
                *self.in_order_of(optimizer, read),
                *others.taken_apart(values[count:]),
            ]
            moved = self.end(
                optimizer, ticket, of_logits, rate, iteration, arrays
            )
            places = self.in_order_of(optimizer, range(len(read)))
            back = dict(zip(places, moved, strict=False))
            return [
                *weights.joined([back[place] for place in range(len(read))]),
                *others.joined(moved[len(read) :]),
            ]

        moved = tf.numpy_function(
            end,
            [
                begun.ticket,
                of_logits,
                tf.cast(optimizer.learning_rate, "float32"),
                tf.identity(optimizer.iterations.value),
                *begun.parameters,
                *others.read(),
            ],
            [*weights.types, *others.types],
        )
        weights.write(moved[:count])
        others.write(moved[count:])
        optimizer.iterations.assign_add(1)


class _Stacks:
    """Variables, those of one shape together.

    Args:
        variables: of float32.
    """

    def __init__(self, variables: Sequence):
        self._variables = variables
        places = collections.defaultdict(list)
        for place, variable in enumerate(variables):
            places[tuple(variable.shape)].append(place)
        self._groups = list(places.values())
        self._order = [*itertools.chain(*self._groups)]

    @property
    def types(self) -> list:
        """One for each stack."""
        import tensorflow as tf

        return [tf.float32] * len(self._groups)

    def read(self) -> list:
        """The values; the plain operations are traced fastest."""
        import tensorflow as tf

        ops = tf.raw_ops
        values = [
            ops.ReadVariableOp(resource=variable.value.handle, dtype=tf.float32)
            for variable in self._variables
        ]
        return [
            ops.Pack(values=[values[place] for place in group], axis=0)
            for group in self._groups
        ]

    def write(self, stacks) -> None:
        """Assigns all values."""
        import tensorflow as tf

        ops = tf.raw_ops
        for group, stack in zip(self._groups, stacks, strict=True):
            parts = ops.Unpack(value=stack, num=len(group), axis=0)
            for place, part in zip(group, parts, strict=True):
                handle = self._variables[place].value.handle
                ops.AssignVariableOp(resource=handle, value=part)

    def taken_apart(self, stacks) -> list[np.ndarray]:
        """Returns arrays of stacks in the variables' order."""
        arrays = dict(zip(self._order, itertools.chain(*stacks), strict=True))
        return [arrays[place] for place in range(len(arrays))]

    def joined(self, arrays) -> list[np.ndarray]:
        """Returns stacks of arrays in the variables' order."""
        return [
            np.stack([arrays[place] for place in group])
            for group in self._groups
        ]
