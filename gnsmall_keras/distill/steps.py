"""The training step on each backend: the teacher answers, then Keras trains.

Whatever the backend, the teacher's targets are computed outside of the
student's gradient and put beside the images; Keras's own step does the rest.
"""

# Parts of a keras.Model.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

import contextlib
import re

import keras

from gnsmall_keras.config import check_backend
from gnsmall_keras.distill.labels import RULE, message
from gnsmall_keras.models import keras_private


class TensorFlowStep:
    """Before the gradient tape of Keras's step is opened."""

    def train_step(self, data):
        """Trains on one batch."""
        data = self._with_checked_labels(data)
        data = self._with_targets(data, training=True)
        if self._frozen.native:
            return self._native_step(data)
        return super().train_step(data)

    def make_train_function(self, force=False):
        """Prepares `fit`; see `keras.Model.make_train_function`."""
        before = self.train_function
        super().make_train_function(force)
        step = self.train_function
        # A teacher beside it may gain from an optimised graph.
        if step is before or not self._frozen.native or self.teacher:
            return
        from gnsmall_keras.native.on_tensorflow import graphs_as_they_are

        def run(iterator):
            with graphs_as_they_are():
                return step(iterator)

        self.train_function = run

    def _with_checked_labels(self, data):
        """A batch whose labels stop the graph if they are no classes."""
        import tensorflow as tf

        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        classes = self.student.output_shape[-1]
        if not self._has_class_labels(y) or self.jit_compile:
            return data  # XLA leaves assertions out
        values = tf.cast(tf.reshape(y, [-1]), "float32")
        least, largest = tf.reduce_min(values), tf.reduce_max(values)
        parts = values - tf.floor(values)
        # A replica's part of a batch may have no images, so no argmax.
        broken = tf.reduce_max(tf.where(parts > 0, values, values.dtype.min))
        inside = tf.where(largest < classes, broken, largest)
        wrong = tf.where(least < 0, least, inside)
        right = (least >= 0) & (largest < classes) & tf.reduce_all(parts == 0)
        with tf.control_dependencies(
            [tf.debugging.Assert(right, [RULE, wrong])]
        ):
            y = tf.identity(y)
        return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)

    @contextlib.contextmanager
    def _refusing_labels(self):
        """Says in plain words what an assertion in the graph has found."""
        import tensorflow as tf

        try:
            yield
        except tf.errors.InvalidArgumentError as error:
            # As a graph writes it, or TensorFlow without one.
            found = re.search(rf"{RULE}(?:\] \[|'\n)([-+.\w]+)", str(error))
            if found is None:
                raise
            classes = self.student.output_shape[-1]
            raise ValueError(message(float(found[1]), classes)) from None

    def test_step(self, data):
        """Evaluates one batch; the teacher runs where it counts."""
        data = self._with_checked_labels(data)
        if self._asks_teacher():
            data = self._with_targets(data, training=False)
        return super().test_step(data)

    def _replicas(self):
        """Into how many parts a distribution strategy splits the batch."""
        import tensorflow as tf

        return tf.distribute.get_strategy().num_replicas_in_sync


class TorchStep:
    """Without a graph behind the targets."""

    def train_step(self, data):
        """Trains on one batch."""
        import torch

        self._check_batch(data)
        self._follow_freezing()
        with torch.no_grad():
            data = self._with_targets(data, training=True)
        if self._frozen.native:
            return self._native_step(data)
        return super().train_step(data)

    def test_step(self, data):
        """Evaluates one batch; the teacher runs where it counts."""
        self._check_batch(data)
        if self._asks_teacher():
            data = self._with_targets(data, training=False)
        return super().test_step(data)

    def _check_batch(self, data):
        """Looks at labels that nobody has seen yet."""
        _, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        if not self._frozen.call.labels_checked:
            self._check_labels(y)

    def _refusing_labels(self):
        return contextlib.nullcontext()

    def _replicas(self):
        return 1


class JaxStep:
    """Outside of `value_and_grad`, with the teacher's weights in the state.

    Weights that a jitted function closes over would be constants to it. As
    non-trainable state they are arguments, and come back unchanged.
    """

    def train_step(self, state, data):
        """Trains on one batch."""
        data = self._taught(state, data, training=True)
        with self._frozen.call.having(trains=True):
            return super().train_step(state, data)

    def test_step(self, state, data):
        """Evaluates one batch; the teacher runs where it counts."""
        if self._asks_teacher():
            data = self._taught(state, data, training=False)
        return super().test_step(state, data)

    def make_train_function(self, force=False):
        """Prepares `fit`, which then looks at the labels of each batch."""
        before = self.train_function
        super().make_train_function(force)
        step = self.train_function
        if step is not before:
            self.train_function = self._checking(step)

    def make_test_function(self, force=False):
        """Prepares `evaluate`, which looks at the labels as well."""
        before = self.test_function
        super().make_test_function(force)
        step = self.test_function
        if step is not before:
            self.test_function = self._checking(step)

    def _checking(self, step):
        return lambda state, batches: step(
            state, self._with_checked_labels(batches)
        )

    def _with_checked_labels(self, batches):
        for batch in batches:
            _, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
            if not self._frozen.call.labels_checked:
                self._check_labels(y)
            yield batch

    def _refusing_labels(self):
        return contextlib.nullcontext()

    def _taught(self, state, data, training):
        pairs = zip(self.non_trainable_variables, state[1], strict=True)
        with keras.StatelessScope(state_mapping=list(pairs)):
            return self._with_targets(data, training)

    @property
    def non_trainable_variables(self):
        """The student's, the Distiller's own and the teacher's."""
        return [*super().non_trainable_variables, *self._teacher_variables()]

    def fit(self, *args, **kwargs):
        """Trains; see `keras.Model.fit`.

        Also when it ends with an error, student and teacher have their
        weights: Keras takes them away while it trains.
        """
        if self._is_compiled():
            self.optimizer.build(self.trainable_variables)
        with self._keeping_weights():
            return super().fit(*args, **kwargs)

    @contextlib.contextmanager
    def fitting(self, labels, validation=None):
        """Checks labels, and cares for the weights of a loop as `fit` does.

        For a loop of one's own around `train_step`, by Keras's kernels.

        Args:
            labels: of all images to train on.
            validation: batches with `labels`, or None.

        Raises:
            ValueError: as `fit` does.
        """
        self._choose_kernels()
        self._check_labels(labels)
        self._check_validation(validation)
        self.optimizer.build(self.trainable_variables)
        with (
            self._frozen.working(),
            self._frozen.call.having(labels_checked=True),
            self._keeping_weights(),
        ):
            yield

    def evaluate(self, *args, **kwargs):
        """Evaluates; see `keras.Model.evaluate`, and `fit` on errors."""
        with self._keeping_weights():
            return super().evaluate(*args, **kwargs)

    def predict(self, *args, **kwargs):
        """Predicts; see `keras.Model.predict`, and `fit` on errors."""
        with self._keeping_weights():
            return super().predict(*args, **kwargs)

    def _is_compiled(self):
        """Whether there is an optimiser; Keras sets it in `compile` alone."""
        return getattr(self, "optimizer", None) is not None

    @contextlib.contextmanager
    def _keeping_weights(self):
        """Puts the weights back that Keras took and an error left away."""
        variables = [*self.trainable_variables, *self.non_trainable_variables]
        if self._is_compiled():
            variables += self.optimizer.variables
        before = [variable.value for variable in variables]
        try:
            yield
        except BaseException:
            self.jax_state_sync()  # `evaluate` leaves it to its caller
            if not keras_private.is_synced(self):  # not one step has run
                for variable, value in zip(variables, before, strict=True):
                    variable.assign(value)
                self.reset_metrics()
                keras_private.set_synced(self)
            raise

    def _replicas(self):
        return 1


check_backend(keras.config.backend())
STEPS = {"tensorflow": TensorFlowStep, "torch": TorchStep, "jax": JaxStep}
