"""What this package uses of Keras that Keras does not document.

Tested with Keras 3.15; tests/models/test_keras_private.py says what each name
must do.
"""

import contextlib
import sys
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np


def operation_of(tensor: keras.KerasTensor) -> keras.Operation:
    """Returns the operation that a symbolic tensor comes from."""
    return tensor._keras_history.operation


def tensors_before(tensor: keras.KerasTensor) -> list[keras.KerasTensor]:
    """Returns the symbolic tensors that a symbolic tensor is computed from."""
    history = tensor._keras_history
    node = history.operation._inbound_nodes[history.node_index]
    return list(node.arguments.keras_tensors)


def inputs_of(model: keras.Model) -> Any:
    """Returns a model's symbolic inputs in the form of its data.

    One, or a list or dict of several; None where they are not known.
    """
    functional = getattr(model, "_functional", None) or model
    inputs = getattr(functional, "_inputs_struct", None)
    if isinstance(inputs, list) and len(inputs) == 1:
        return inputs[0]
    return inputs


def parts_of(layer: keras.Operation) -> list[keras.layers.Layer]:
    """Returns the layers inside of a layer or model, at any depth."""
    if not isinstance(layer, keras.layers.Layer):
        return []
    return list(layer._flatten_layers(include_self=False))


def weights_to_train(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Returns what a layer or model would train if nothing were frozen."""
    own = [part._trainable_variables for part in (layer, *parts_of(layer))]
    return list({id(one): one for each in own for one in each}.values())


def clone_model(model: keras.Model, **options: Any) -> keras.Model:
    """As `keras.models.clone_model`; the clone is not compiled.

    Keras compiles it as the model is, and cannot where a loss, a metric or the
    optimiser is a function or class that is not registered.
    """
    compiled, model.compiled = model.compiled, False
    try:
        return keras.models.clone_model(model, **options)
    finally:
        model.compiled = compiled


def set_weights(
    layer: keras.layers.Layer, weights: Sequence[np.ndarray]
) -> None:
    """Sets a layer's or model's weights, and what is computed of them.

    A Normalization has its mean from its weights once, when it is adapted or
    read from a file.
    """
    layer.set_weights(weights)
    for part in (layer, *parts_of(layer)):
        if isinstance(part, keras.layers.Normalization):
            part.finalize_state()


def readers_of(layer: keras.Operation) -> list[keras.Operation]:
    """Returns the operations that read a layer's output, once each."""
    readers = [node.operation for node in layer._outbound_nodes]
    return list(dict.fromkeys(readers))


def is_called_once(layer: keras.Operation) -> bool:
    """Whether a layer has one symbolic input, in whatever models it is."""
    return len(layer._inbound_nodes) == 1


def nodes_of(model: keras.Model) -> list[Any]:
    """Returns the calls of a functional model's operations; else none."""
    by_depth = getattr(model, "_nodes_by_depth", {})
    return [node for nodes in by_depth.values() for node in nodes]


def compiled_loss(model: keras.Model):
    """Returns the loss given to `compile`, as a function; None without one."""
    return model._compile_loss


def scale_loss(model: keras.Model, loss):
    """Returns a regulariser's loss as Keras adds it on several devices."""
    return model._aggregate_additional_loss(loss)


def is_stateless() -> bool:
    """Whether variables have the values of a `keras.StatelessScope` here."""
    from keras.src.backend.common.stateless_scope import in_stateless_scope

    return in_stateless_scope()


def is_synced(model: keras.Model) -> bool:
    """Whether a model on JAX has its weights, not a step that is running."""
    return model._jax_state_synced


def set_synced(model: keras.Model) -> None:
    """Notes that a model on JAX was given its weights again."""
    model._jax_state_synced = True


def bring_state(model: keras.Model, state: Any) -> None:
    """Gives a model on JAX the values that it takes when it is asked for them.

    Args:
        model: any.
        state: a dict, or what has its `get`, which is called when they are
            needed: values of "trainable_variables", "non_trainable_variables",
            "optimizer_variables" and "metrics_variables", or some of them.
    """
    model._jax_state = state
    model._jax_state_synced = False


def schedule_of(optimizer: keras.Optimizer) -> Any:
    """Returns the schedule of an optimiser's learning rate."""
    return optimizer._learning_rate


def drop_state(model: keras.Model) -> None:
    """Has a model on JAX forget what `bring_state` gave to it."""
    model._jax_state = None
    model._jax_state_synced = True


def set_random_seed(seed: int) -> None:
    """As `keras.utils.set_random_seed`, without importing TensorFlow."""
    with without_tensorflow():
        keras.utils.set_random_seed(seed)


@contextlib.contextmanager
def without_tensorflow():
    """Has Keras believe that TensorFlow is not installed.

    Keras imports it on every backend, to seed it or to ask whether a value in a
    config is one of its types: most of the time to a first step, and half of
    a process's memory. Where it is imported already nothing changes.
    """
    from keras.src.utils.module_utils import tensorflow

    if keras.config.backend() == "tensorflow" or "tensorflow" in sys.modules:
        yield
        return
    before = tensorflow._available
    tensorflow._available = False
    try:
        yield
    finally:
        tensorflow._available = before


class Optimizer(keras.optimizers.Optimizer):
    """A Keras optimiser, with what subclasses here need to know."""

    def _backend_update_step(self, gradients, variables, learning_rate):
        self.update_all(gradients, variables, learning_rate)

    def update_all(self, gradients, variables, learning_rate):
        """Moves all variables: by `update_step`, one after the other."""
        super()._backend_update_step(gradients, variables, learning_rate)

    def decays(self, variable) -> bool:
        """Whether a variable was not excluded from weight decay."""
        return self._use_weight_decay(variable)

    def index_of(self, variable) -> int:
        """Returns a variable's place among those of `build`."""
        return self._get_variable_index(variable)

    @property
    def built_variables(self) -> list[Any]:
        """The variables of `build`, in its order."""
        return list(self._trainable_variables)

    @property
    def averages(self) -> list[keras.Variable]:
        """Their moving averages; an empty list without `use_ema`."""
        return self._model_variables_moving_average if self.use_ema else []
