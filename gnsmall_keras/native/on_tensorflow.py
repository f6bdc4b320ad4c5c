"""The engine inside TensorFlow's graphs, by `tf.numpy_function`.

The graph reads and writes each variable and calls the engine twice: it is
traced in a fraction of the time that branches take. Variables of one shape go
to and fro in one stack: an array costs `tf.numpy_function` some 10 us a step,
an operation some 0.3 ms of tracing.
"""

import contextlib
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gnsmall_keras.models import flat
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
    weights: "_Stacks"
    read: list  # their values, in stacks


class TensorFlowNetwork(NativeNetwork):
    """On TensorFlow's tensors."""

    def infer(self, images):
        """Returns the logits of a batch in inference mode."""
        import tensorflow as tf

        images = self.as_batch(images)
        stacks = _Stacks([*self.parameters, *self.statistics])
        logits = tf.numpy_function(
            lambda images, *values: self.infer_arrays(
                images, stacks.vector(values)
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

        moves = self.is_moved_by(optimizer)
        order = self.moved_by(optimizer).places if moves else None
        begun = self._begin(images, _Stacks(self.parameters, order))
        with tf.GradientTape() as tape:
            tape.watch(begun.logits)
            loss = loss_of(begun.logits)
        of_logits = tape.gradient(loss, begun.logits)
        if moves:
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

    def _begin(self, images, weights):
        import tensorflow as tf

        images = self.as_batch(images)
        statistics = _Stacks(self.statistics)
        read = weights.read()

        def begin(images, *values):
            count = len(read)
            logits, moved, ticket = self.begin(
                images,
                weights.vector(values[:count]),
                statistics.vector(values[count:]),
            )
            return [logits, np.int64(ticket), *statistics.parts(moved)]

        logits, ticket, *moved = tf.numpy_function(
            begin,
            [tf.cast(images, "float32"), *read, *statistics.read()],
            [tf.float32, tf.int64, *statistics.types],
        )
        statistics.write(moved)
        logits.set_shape((images.shape[0], self.plan.classes))
        return _Begun(logits, ticket, weights, read)

    def _move(self, optimizer, begun, of_logits):
        import tensorflow as tf

        _, *others = self.moved_by(optimizer).variables
        groups = [
            begun.weights,
            *(_Stacks(group, range(len(group))) for group in others),
        ]
        types = [kind for group in groups for kind in group.types]

        def end(ticket, of_logits, rate, iteration, *values):
            stacks = iter(values)
            vectors = [
                flat.join(list(itertools.islice(stacks, len(g.types))), xp=np)
                for g in groups
            ]
            moved = self.end(
                optimizer, ticket, of_logits, rate, iteration, *vectors
            )
            pairs = zip(groups, moved, strict=True)
            return [stack for g, vector in pairs for stack in g.split(vector)]

        values = tf.numpy_function(
            end,
            [
                begun.ticket,
                of_logits,
                tf.cast(optimizer.learning_rate, "float32"),
                tf.identity(optimizer.iterations.value),
                *begun.read,
                *(stack for group in groups[1:] for stack in group.read()),
            ],
            types,
        )
        moved = iter(values)
        for group in groups:
            group.write(itertools.islice(moved, len(group.types)))
        optimizer.iterations.assign_add(1)


class _Stacks:
    """Variables, those of one shape together.

    Args:
        variables: of float32.
        order: their indices; neighbours of one shape make a stack. By default
            all of one shape are neighbours.
    """

    def __init__(self, variables: Sequence, order: Sequence[int] | None = None):
        shapes = flat.shapes_of(variables)
        if order is None:
            order = sorted(range(len(shapes)), key=shapes.__getitem__)
        self._groups = [
            [variables[index] for index in group]
            for _, group in itertools.groupby(order, key=shapes.__getitem__)
        ]
        self._shapes = [(len(g), *g[0].shape) for g in self._groups]
        self._places = flat.slices_of(shapes, order)
        places = dict(zip(order, range(len(order)), strict=True))
        self._back = flat.slices_of(
            [shapes[index] for index in order],
            [places[index] for index in range(len(order))],
        )

    @property
    def types(self) -> list:
        """One for each stack."""
        import tensorflow as tf

        return [tf.float32] * len(self._groups)

    def read(self) -> list:
        """The values; the plain operations are traced fastest."""
        import tensorflow as tf

        ops = tf.raw_ops
        return [
            ops.Pack(
                values=[
                    ops.ReadVariableOp(
                        resource=variable.value.handle, dtype=tf.float32
                    )
                    for variable in group
                ],
                axis=0,
            )
            for group in self._groups
        ]

    def write(self, stacks) -> None:
        """Assigns all values."""
        import tensorflow as tf

        ops = tf.raw_ops
        for group, stack in zip(self._groups, stacks, strict=True):
            parts = ops.Unpack(value=stack, num=len(group), axis=0)
            for variable, part in zip(group, parts, strict=True):
                ops.AssignVariableOp(resource=variable.value.handle, value=part)

    def vector(self, stacks) -> np.ndarray:
        """Returns all values in the order of `variables`."""
        return flat.reordered(flat.join(stacks, xp=np), self._back)

    def parts(self, vector) -> list:
        """Returns stacks of such a vector."""
        return self.split(flat.reordered(vector, self._places))

    def split(self, vector) -> list:
        """Returns stacks of values that are in the order of `order`."""
        return flat.split(vector, self._shapes)
