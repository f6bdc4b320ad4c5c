"""PyTorch's SGD with coupled weight decay, and Muon for 1x1 kernels."""

import functools
import math
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from gnsmall_keras.models import flat, keras_private, kernels
from gnsmall_keras.training.optimizers.stacks import (
    by_shape,
    in_order,
    in_stacks,
)

_STEPS = 5  # of Newton and Schulz's iteration


class Layout(NamedTuple):
    """How all variables lie in one vector.

    First those with coupled decay, then others, then matrices that Muon turns;
    those of one kind and shape lie side by side.

    Attributes:
        order: indices of the variables, as the optimiser was built for them.
        shapes: theirs, in this order.
        decayed: number of values with coupled decay.
        matrices: the last shapes.
    """

    order: list[int]
    shapes: list[tuple[int, ...]]
    decayed: int
    matrices: list[tuple[int, ...]]


@keras.saving.register_keras_serializable("gnsmall_keras")
class CoupledSGD(keras_private.Optimizer):
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

    Attributes:
        updates_at_once: whether a step moves all variables as one vector, by
            the same arithmetic in a fraction of the operations. For one
            device; JAX alone asks for it, elsewhere arrays are moved.
    """

    updates_at_once = False

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
        if self.coupled_weight_decay and self.decays(variable):
            gradient = gradient + self.coupled_weight_decay * variable
        velocity = self.velocities[self.index_of(variable)]
        updated = self.momentum * velocity + gradient
        self.assign(velocity, updated)
        step = learning_rate * (gradient + self.momentum * updated)
        self.assign_sub(variable, step)

    def update_all(self, gradients, variables, learning_rate):
        """Moves all variables."""
        everything = len(variables) == len(self.built_variables)
        if not (self.updates_at_once and everything):
            super().update_all(gradients, variables, learning_rate)
            return
        order, shapes = self.layout.order, self.layout.shapes
        weight, gradient, velocity = (
            flat.join([values[index] for index in order], xp=ops)
            for values in (variables, gradients, self.velocities)
        )
        moved = self.move_at_once(weight, gradient, velocity, learning_rate)
        for targets, vector in zip(
            (variables, self.velocities), moved, strict=True
        ):
            values = in_order(flat.split(vector, shapes), order)
            for variable, value in zip(targets, values, strict=True):
                variable.assign(value)

    def move_at_once(
        self, weight, gradient, velocity, rate, *, orthogonalize=None
    ):
        """Returns weights and velocities after a step, as `update_step` does.

        Args:
            weight, gradient, velocity: vectors of all values, in the order of
                `layout`.
            rate: the learning rate.
            orthogonalize: what computes Newton-Schulz iterations of arrays,
                `native.engine.Engine.orthogonalize`. None where the vectors
                are tensors.
        """
        xp = np if orthogonalize else ops
        decayed, matrices = self.layout.decayed, self.layout.matrices
        if decayed:
            decay = self.coupled_weight_decay * weight[:decayed]
            gradient = xp.concatenate(
                [gradient[:decayed] + decay, gradient[decayed:]]
            )
        velocity = self.momentum * velocity + gradient
        step = gradient + self.momentum * velocity
        weight = self._moved(weight, step, matrices, rate, orthogonalize)
        return weight, velocity

    @functools.cached_property
    def layout(self) -> Layout:
        """How vectors of all values are laid out; Keras is slow to tell it."""
        shapes = flat.shapes_of(self.built_variables)
        groups: tuple[list[int], ...] = [], [], []
        for index, variable in enumerate(self.built_variables):
            if self._is_matrix(variable):
                groups[2].append(index)
            elif self.coupled_weight_decay and self.decays(variable):
                groups[0].append(index)
            else:
                groups[1].append(index)
        for group in groups:
            group.sort(key=shapes.__getitem__)
        order = [index for group in groups for index in group]
        return Layout(
            order,
            [shapes[index] for index in order],
            sum(math.prod(shapes[index]) for index in groups[0]),
            [shapes[index] for index in groups[2]],
        )

    def _is_matrix(self, variable):
        return False

    def _moved(self, weight, step, matrices, rate, orthogonalize):
        """Where a step takes all weights; the last are matrices of shapes."""
        return weight - rate * step

    def average_at_once(self, average, weight, iteration):
        """Returns averages of weights after a step; arrays."""
        momentum = np.float32(self.ema_momentum * (iteration != 0))
        return momentum * average + (1 - momentum) * weight

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
        pairs = zip(self.built_variables, self.averages, strict=True)
        for variable, average in pairs:
            value = variable.value
            if keras.config.backend() != "jax":  # whose arrays never change
                value = ops.convert_to_numpy(value)
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

    A 1x1 kernel is a matrix (one for each branch). So is, by its shape, a
    depthwise 1x5 kernel of one branch, `(1, 1, 5, channels)`: those of the row
    convolutions in the ghost modules' gates, not of the 5x1 after them. The
    published networks were trained so. A matrix's step is the momentum with
    all singular values made one (Jordan et al., "Muon", 2024), by Keras's
    Newton-Schulz iteration, scaled to values of about `muon_scale`:

        w = w - learning_rate * muon_scale * (sqrt(max(in, out)) * step
                                              + muon_weight_decay * w)

    Args:
        learning_rate, momentum, weight_decay: of `CoupledSGD`.
        muon_scale: > 0, of a matrix's step.
        muon_weight_decay: >= 0, decoupled from the gradient.
        muon_gates: whether the kernels of squeeze-and-excite are matrices too;
            those of the ghost modules' gates are in any case, but for the 5x1.
            Such a step is as long however small the gradient is; at a high
            rate it drives hard gates to where no gradient reaches them.
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
        muon_gates=True,
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
        self.muon_gates = muon_gates
        self._muon = keras.optimizers.Muon()

    def build(self, variables):
        """Creates the velocities, and notes which variables are matrices."""
        super().build(variables)
        # Steps on TensorFlow come with variables that have no path.
        self._matrices = [
            _is_pointwise(variable)
            and (self.muon_gates or not _is_of_gate(variable))
            for variable in variables
        ]

    def update_step(self, gradient, variable, learning_rate):
        """Moves `variable` one step against `gradient`."""
        if not self._is_matrix(variable):
            super().update_step(gradient, variable, learning_rate)
            return
        momentum = self._update_velocity(gradient, variable)
        self._move(variable, self._make_orthogonal(momentum), learning_rate)

    def update_all(self, gradients, variables, learning_rate):
        """Moves all variables; on JAX with a GPU all matrices at once.

        The number of kernels sets a step's time there (docs/adr/0011).
        """
        if self.updates_at_once or not kernels.is_jax_on_gpu():
            super().update_all(gradients, variables, learning_rate)
            return
        matrices, momenta = [], []
        for gradient, variable in zip(gradients, variables, strict=True):
            if self._is_matrix(variable):
                matrices.append(variable)
                momenta.append(self._update_velocity(gradient, variable))
            else:
                super().update_step(gradient, variable, learning_rate)
        steps = in_stacks(self._make_orthogonal, momenta)
        for variable, step in zip(matrices, steps, strict=True):
            self._move(variable, step, learning_rate)

    def _moved(self, weight, step, matrices, rate, orthogonalize):
        if not matrices:
            return weight - rate * step
        rest = weight.shape[0] - sum(map(math.prod, matrices))
        if orthogonalize:
            xp = np
            turned = orthogonalize(
                step[rest:], matrices, self._polynomial, steps=_STEPS
            )
            steps = flat.split(turned, matrices)
        else:
            xp = ops
            steps = by_shape(
                self._newton_schulz, flat.split(step[rest:], matrices)
            )
        scales = [max(shape[-2:]) ** 0.5 for shape in matrices]
        scaled = [s * scale for s, scale in zip(steps, scales, strict=True)]
        turned = flat.join(scaled, xp=xp)
        turned = turned + self.muon_weight_decay * weight[rest:]
        return xp.concatenate(
            [
                weight[:rest] - rate * step[:rest],
                weight[rest:] - rate * self.muon_scale * turned,
            ]
        )

    def _newton_schulz(self, x):
        """Keras's iteration on a stack of matrices with rows <= columns."""
        a, b, c = self._polynomial
        norm = ops.sqrt(ops.sum(ops.square(x), axis=(-2, -1), keepdims=True))
        x = x / (norm + 1e-7)
        for _ in range(_STEPS):
            square = x @ ops.swapaxes(x, -2, -1)
            x = a * x + (b * square + c * square @ square) @ x
        return x

    @property
    def _polynomial(self):
        return self._muon.muon_a, self._muon.muon_b, self._muon.muon_c

    def _is_matrix(self, variable):
        return self._matrices[self.index_of(variable)]

    def _update_velocity(self, gradient, variable):
        """Updates it; returns Nesterov's step, not yet orthogonal."""
        gradient = ops.cast(gradient, variable.dtype)
        velocity = self.velocities[self.index_of(variable)]
        updated = self.momentum * velocity + gradient
        self.assign(velocity, updated)
        return gradient + self.momentum * updated

    def _make_orthogonal(self, momentum):
        return self._muon.zeropower_via_newtonschulz5(momentum, steps=_STEPS)

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
        config["muon_gates"] = self.muon_gates
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

    `(1, 1, 5, channels)` looks the same: one branch, `(1, 5)`, depthwise. The
    classifier's is not: its outputs are no features.
    """
    shape = variable.shape
    return (
        len(shape) in (4, 5)
        and tuple(shape[-4:-2]) == (1, 1)
        and variable.name == "kernel"
        and "classifier" not in variable.path
    )


def _is_of_gate(variable):
    """Whether it belongs to a squeeze-and-excite module."""
    return any(part in variable.path for part in ("_se_reduce", "_se_expand"))
