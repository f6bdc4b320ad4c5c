"""The engine inside TensorFlow's graphs, by `tf.numpy_function`.

The graph has an operation to read and one to write each variable, and two
calls of the engine: it is traced in a fraction of the time that branches take.
"""

from typing import Any, NamedTuple

import numpy as np

from gnsmall_keras.native.network import NativeNetwork


class _Begun(NamedTuple):
    logits: Any
    ticket: Any
    parameters: list


class TensorFlowNetwork(NativeNetwork):
    """On TensorFlow's tensors."""

    def infer(self, images):
        """Returns the logits of a batch in inference mode."""
        import tensorflow as tf

        self.check_images(images)
        values = _read([*self.parameters, *self.statistics])
        logits = tf.numpy_function(
            self.infer_arrays, [tf.cast(images, "float32"), *values], tf.float32
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
        parameters, statistics = map(_read, (self.parameters, self.statistics))

        def begin(images, *arrays):
            count = len(parameters)
            logits, moved, ticket = self.begin(
                images, arrays[:count], arrays[count:]
            )
            return [logits, np.int64(ticket), *moved]

        logits, ticket, *moved = tf.numpy_function(
            begin,
            [tf.cast(images, "float32"), *parameters, *statistics],
            [tf.float32, tf.int64, *[tf.float32] * len(statistics)],
        )
        _write(self.statistics, moved)
        logits.set_shape((images.shape[0], self.plan.classes))
        return _Begun(logits, ticket, parameters)

    def _move(self, optimizer, begun, of_logits):
        import tensorflow as tf

        variables = self.moved_variables(optimizer)
        weights = self.in_order_of(optimizer, begun.parameters)
        values = [*weights, *_read(variables[len(weights) :])]

        def end(ticket, of_logits, rate, iteration, *arrays):
            return self.end(
                optimizer, ticket, of_logits, rate, iteration, arrays
            )

        moved = tf.numpy_function(
            end,
            [
                begun.ticket,
                of_logits,
                tf.cast(optimizer.learning_rate, "float32"),
                tf.identity(optimizer.iterations.value),
                *values,
            ],
            [tf.float32] * len(values),
        )
        _write(variables, moved)
        optimizer.iterations.assign_add(1)


def _read(variables):
    """The values of variables; the plain operation is traced fastest."""
    import tensorflow as tf

    return [
        tf.raw_ops.ReadVariableOp(
            resource=variable.value.handle, dtype=tf.float32
        )
        for variable in variables
    ]


def _write(variables, values):
    import tensorflow as tf

    for variable, value in zip(variables, values, strict=True):
        tf.raw_ops.AssignVariableOp(resource=variable.value.handle, value=value)
