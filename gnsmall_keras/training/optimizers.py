"""The paper's optimiser: PyTorch's SGD with coupled weight decay."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("gnsmall_keras")
class CoupledSGD(keras.optimizers.Optimizer):
    """SGD as `torch.optim.SGD(nesterov=True)` computes it.

    `keras.optimizers.SGD` differs twice: its `weight_decay` is decoupled from
    the gradient, and its velocity contains the learning rate, so that a
    schedule changes the momentum of past gradients. Here

        g = gradient + weight_decay * w
        v = momentum * v + g
        w = w - learning_rate * (g + momentum * v)

    Args:
        learning_rate: float or a Keras `LearningRateSchedule`.
        momentum: in [0, 1).
        weight_decay: coupled L2 factor, >= 0. Call
            `exclude_from_weight_decay` before `build` to spare variables.
        **kwargs: of `keras.optimizers.Optimizer`.
    """

    def __init__(
        self,
        learning_rate=0.01,
        *,
        momentum=0.9,
        weight_decay=0.0,
        name="coupled_sgd",
        **kwargs,
    ):
        # The base class would apply `weight_decay` in its decoupled form.
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.momentum = momentum
        self.coupled_weight_decay = weight_decay

    def build(self, variables):
        """Creates a velocity of zeros for each of `variables`."""
        if self.built:
            return
        super().build(variables)
        self.velocities = self.add_optimizer_variables(variables, "velocity")

    def update_step(self, gradient, variable, learning_rate):
        """Moves `variable` one step against `gradient`."""
        learning_rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        if self.coupled_weight_decay and self._use_weight_decay(variable):
            gradient = gradient + self.coupled_weight_decay * variable
        velocity = self.velocities[self._get_variable_index(variable)]
        updated = self.momentum * velocity + gradient
        self.assign(velocity, updated)
        step = learning_rate * (gradient + self.momentum * updated)
        self.assign_sub(variable, step)

    def get_config(self):
        """Returns the arguments of `__init__`."""
        config = super().get_config()
        config["momentum"] = self.momentum
        config["weight_decay"] = self.coupled_weight_decay
        return config
