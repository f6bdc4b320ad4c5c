"""PyTorch's SGD with coupled weight decay, and Muon for 1x1 kernels."""

import collections
from typing import Any

import keras
from keras import ops

from gnsmall_keras.models import kernels


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
        **kwargs: of `keras.optimizers.Optimizer`. With `use_ema` the averages
            stay beside the weights until `exchange_averages`.
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

    def finalize_variable_values(self, var_list):
        """Leaves the weights alone at the end of `fit`.

        Keras would put the averages over them; but a `fit` may be the rest of
        an epoch, after which training goes on.
        """

    def exchange_averages(self):
        """Puts averages in the weights' place, or back; without them nothing.

        Value by value: `keras.callbacks.SwapEMAWeights` adds and subtracts on
        TensorFlow, so that weights come back rounded.
        """
        if not self.use_ema:
            return
        for variable, average in zip(
            self._trainable_variables,
            self._model_variables_moving_average,
            strict=True,
        ):
            value = ops.convert_to_numpy(variable.value)
            variable.assign(average.value)
            average.assign(value)

    def get_config(self):
        """Returns the arguments of `__init__`."""
        config = super().get_config()
        config["momentum"] = self.momentum
        config["weight_decay"] = self.coupled_weight_decay
        return config


@keras.saving.register_keras_serializable("gnsmall_keras")
class PointwiseMuon(CoupledSGD):
    """Muon on the kernels of 1x1 convolutions, `CoupledSGD` on the rest.

    A 1x1 kernel is a matrix (one for each branch). Its step is the momentum
    with all singular values made one (Jordan et al., "Muon", 2024), by Keras's
    Newton-Schulz iteration, scaled to values of about `muon_scale`:

        w = w - learning_rate * muon_scale * (sqrt(max(in, out)) * step
                                              + muon_weight_decay * w)

    Args:
        learning_rate, momentum, weight_decay: of `CoupledSGD`.
        muon_scale: > 0, of a matrix's step.
        muon_weight_decay: >= 0, decoupled from the gradient.
        **kwargs: of `keras.optimizers.Optimizer`.
    """

    def __init__(
        self,
        learning_rate=0.01,
        *,
        momentum=0.9,
        weight_decay=0.0,
        muon_scale=0.2,
        muon_weight_decay=0.0,
        name="pointwise_muon",
        **kwargs,
    ):
        super().__init__(
            learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
            name=name,
            **kwargs,
        )
        self.muon_scale = muon_scale
        self.muon_weight_decay = muon_weight_decay
        self._muon = keras.optimizers.Muon()

    def build(self, variables):
        """Creates the velocities, and notes which variables are matrices."""
        super().build(variables)
        # Steps on TensorFlow come with variables that have no path.
        self._matrices = [_is_pointwise(variable) for variable in variables]

    def update_step(self, gradient, variable, learning_rate):
        """Moves `variable` one step against `gradient`."""
        if not self._is_matrix(variable):
            super().update_step(gradient, variable, learning_rate)
            return
        momentum = self._update_velocity(gradient, variable)
        self._move(variable, self._make_orthogonal(momentum), learning_rate)

    def _backend_update_step(self, gradients, variables, learning_rate):
        """Moves all variables; on JAX with a GPU all matrices at once.

        The number of kernels sets a step's time there (docs/adr/0011).
        """
        if not kernels.is_jax_on_gpu():
            super()._backend_update_step(gradients, variables, learning_rate)
            return
        matrices, momenta = [], []
        for gradient, variable in zip(gradients, variables, strict=True):
            if self._is_matrix(variable):
                matrices.append(variable)
                momenta.append(self._update_velocity(gradient, variable))
            else:
                super().update_step(gradient, variable, learning_rate)
        steps = _in_stacks(self._make_orthogonal, momenta)
        for variable, step in zip(matrices, steps, strict=True):
            self._move(variable, step, learning_rate)

    def _is_matrix(self, variable):
        return self._matrices[self._get_variable_index(variable)]

    def _update_velocity(self, gradient, variable):
        """Updates it; returns Nesterov's step, not yet orthogonal."""
        gradient = ops.cast(gradient, variable.dtype)
        velocity = self.velocities[self._get_variable_index(variable)]
        updated = self.momentum * velocity + gradient
        self.assign(velocity, updated)
        return gradient + self.momentum * updated

    def _make_orthogonal(self, momentum):
        return self._muon.zeropower_via_newtonschulz5(momentum, steps=5)

    def _move(self, variable, step, learning_rate):
        scale = max(variable.shape[-2:]) ** 0.5
        rate = ops.cast(learning_rate, variable.dtype) * self.muon_scale
        step = scale * step + self.muon_weight_decay * variable
        self.assign_sub(variable, rate * step)

    def get_config(self):
        """Returns the arguments of `__init__`."""
        config = super().get_config()
        config["muon_scale"] = self.muon_scale
        config["muon_weight_decay"] = self.muon_weight_decay
        return config


def exchange_averages(model):
    """Exchanges a compiled model's weights and their averages, if it has any.

    Twice leaves all as it was, bit for bit.
    """
    optimizer = model.optimizer
    # Keras wraps it where precision is mixed_float16.
    getattr(optimizer, "inner_optimizer", optimizer).exchange_averages()


def _is_pointwise(variable):
    """Whether it is `(1, 1, in, out)`, or `(branches, 1, 1, in, out)`.

    The classifier's is not: its outputs are no features.
    """
    shape = variable.shape
    return (
        len(shape) in (4, 5)
        and tuple(shape[-4:-2]) == (1, 1)
        and variable.name == "kernel"
        and "classifier" not in variable.path
    )


def _in_stacks(make_orthogonal, matrices):
    """Returns `make_orthogonal` of each of `(..., rows, columns)`.

    They are laid on their longer side, and those of up to 16, 32, 64, ... rows
    are stacked, filled up with zeros, which stay zero.
    """
    stacks = collections.defaultdict(list)
    for index, matrix in enumerate(matrices):
        rows = min(matrix.shape[-2:])
        stacks[max(rows - 1, 15).bit_length()].append(index)
    results: list[Any] = [None] * len(matrices)
    for indices in stacks.values():
        lying: list[Any] = [_lay(matrices[index]) for index in indices]
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
            shape = matrices[index].shape
            if shape[-2] > shape[-1]:
                part = ops.transpose(part, (0, 2, 1))
            results[index] = ops.reshape(part, shape)
    return results


def _lay(matrix):
    """Returns `(..., rows, columns)` as a stack, with rows <= columns."""
    matrix = ops.reshape(matrix, (-1, *matrix.shape[-2:]))
    if matrix.shape[1] > matrix.shape[2]:
        matrix = ops.transpose(matrix, (0, 2, 1))
    return matrix
