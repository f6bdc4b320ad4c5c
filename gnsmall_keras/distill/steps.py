"""The training step on each backend: the teacher answers, then Keras trains.

Whatever the backend, the teacher's targets are computed outside of the
student's gradient and put beside the images; Keras's own step does the rest.
"""

# Parts of a keras.Model.
# pyright: reportAttributeAccessIssue=false

import contextlib

import keras


class TensorFlowStep:
    """Before the gradient tape of Keras's step is opened."""

    def train_step(self, data):
        """Trains on one batch."""
        return super().train_step(self._with_targets(data))

    def test_step(self, data):
        """Evaluates one batch; the teacher runs if its agreement counts."""
        if self._agreement is not None:
            data = self._with_targets(data)
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

        with torch.no_grad():
            data = self._with_targets(data)
        return super().train_step(data)

    def test_step(self, data):
        """Evaluates one batch; the teacher runs if its agreement counts."""
        if self._agreement is not None:
            data = self._with_targets(data)
        return super().test_step(data)

    def _replicas(self):
        return 1


class JaxStep:
    """Outside of `value_and_grad`, with the teacher's weights in the state.

    Weights that a jitted function closes over would be constants to it. As
    non-trainable state they are arguments, and come back unchanged.
    """

    def train_step(self, state, data):
        """Trains on one batch."""
        return super().train_step(state, self._taught(state, data))

    def test_step(self, state, data):
        """Evaluates one batch; the teacher runs if its agreement counts."""
        if self._agreement is not None:
            data = self._taught(state, data)
        return super().test_step(state, data)

    def _taught(self, state, data):
        pairs = zip(self.non_trainable_variables, state[1], strict=True)
        with keras.StatelessScope(state_mapping=list(pairs)):
            return self._with_targets(data)

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
            if not self._jax_state_synced:  # not one step has run
                for variable, value in zip(variables, before, strict=True):
                    variable.assign(value)
                self.reset_metrics()
                self._jax_state_synced = True
            raise

    def _replicas(self):
        return 1


STEPS = {"tensorflow": TensorFlowStep, "torch": TorchStep, "jax": JaxStep}
