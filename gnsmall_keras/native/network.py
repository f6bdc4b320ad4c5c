"""A GhostNet that the engine computes, for Keras's training step."""

import collections
import functools
import itertools
import os
import threading

import keras
import numpy as np
from keras import ops

from gnsmall_keras.models import flat
from gnsmall_keras.models.layers import MOMENTUM
from gnsmall_keras.native.engine import Engine
from gnsmall_keras.native.match import Match
from gnsmall_keras.native.plan import NetworkPlan

_TICKETS = 16  # forward passes that may wait for their backward pass
_LARGEST_TICKET = 2**31  # JAX has no longer whole numbers


class NativeNetwork:
    """What replaces the calls of a model, in training and in inference.

    Weights stay the model's own: each call reads them, and training writes the
    moving statistics, as the model itself would.

    Args:
        matched: of the model.
    """

    def __init__(self, matched: Match):
        self.plan = matched.plan
        self.engine = _engine_of(matched.plan, _threads())
        self._parameters = matched.parameters
        self._statistics = matched.statistics
        self._contexts: collections.OrderedDict = collections.OrderedDict()
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def train(self, images):
        """Returns the logits of a batch, with a gradient to all parameters.

        The moving statistics go on by this batch.

        Args:
            images: tensor `(batch, height, width, channels)`.

        Raises:
            ValueError: if it has another shape.
        """
        images = self._checked(images)
        parameters = flat.join(self._parameters)
        logits, found = _step()(self, parameters, images)
        moving = flat.join(self._statistics)
        moved = MOMENTUM * moving + (1 - MOMENTUM) * ops.stop_gradient(found)
        flat.assign(self._statistics, moved)
        return logits

    def infer(self, images):
        """Returns the logits of a batch in inference mode, a tensor.

        Args and errors as of `train`.
        """
        images = self._checked(images)
        values = flat.join([*self._parameters, *self._statistics])
        return _inference()(self, values, images)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Returns the logits of an array of images in inference mode."""
        values = [
            ops.convert_to_numpy(variable.value).ravel()
            for variable in (*self._parameters, *self._statistics)
        ]
        return self.infer_arrays(np.concatenate(values), images)

    def _checked(self, images):
        plan = self.plan
        expected = (plan.height, plan.width, plan.channels)
        if len(images.shape) != 4 or tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"Images must be (batch, {', '.join(map(str, expected))}), as "
                f"the network was built. Received: {tuple(images.shape)}. "
                "Resize them, or build a network for theirs."
            )
        return ops.cast(images, "float32")

    # What follows is on arrays, and called from inside the backends.

    def forward(self, parameters, images):
        """Returns logits, the batch's statistics, and a ticket for `backward`.

        Where an image is no number all is none, as in Keras: BatchNorm spreads
        it over the batch.
        """
        parameters, images = _array(parameters), _array(images)
        if _is_finite(images) and _is_finite(parameters):
            logits, found, context = self.engine.forward(parameters, images)
        else:
            logits = np.full(
                (len(images), self.plan.classes), np.nan, "float32"
            )
            found = np.full(self.engine.statistics_count, np.nan, "float32")
            context = None
        return logits, found, self._keep(context)

    def backward(self, ticket, gradient):
        """Returns the gradient of all parameters; a ticket is good for once."""
        with self._lock:
            context = self._contexts.pop(int(ticket), KeyError)
        if context is KeyError:
            raise ValueError(
                "A gradient can be asked for once, and before "
                f"{_TICKETS} other forward passes. Set kernels='keras'."
            )
        if context is None:
            count = self.engine.parameter_count
            return np.full(count, np.nan, "float32")
        return self.engine.backward(context, _array(gradient))

    def infer_arrays(self, values, images):
        """Returns logits, from parameters and statistics in one vector."""
        images, values = _array(images), _array(values)
        count = self.engine.parameter_count
        logits = self.engine.infer(values[:count], values[count:], images)
        if not (_is_finite(images) and _is_finite(values)):
            broken = ~np.isfinite(images).all(axis=(1, 2, 3))
            logits[broken | (not _is_finite(values))] = np.nan
        return logits

    def _keep(self, context):
        """Notes a forward pass; who never asks for its gradient gives way."""
        with self._lock:
            ticket = next(self._numbers) % _LARGEST_TICKET
            self._contexts[ticket] = context
            while len(self._contexts) > _TICKETS:
                self._contexts.popitem(last=False)
        return ticket


@functools.lru_cache(maxsize=8)
def _engine_of(plan: NetworkPlan, threads: int | None) -> Engine:
    return Engine(plan, threads=threads)


def _threads():
    """As many as OMP_NUM_THREADS says; None for all cores there are."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(given) if given.isdigit() and int(given) else None


def _array(values):
    return np.ascontiguousarray(values, np.float32)


def _is_finite(values):
    """The sum tells, nearly always, and is several times faster."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum()) or np.isfinite(values).all())


def _step():
    if keras.config.backend() == "tensorflow":
        from gnsmall_keras.native.on_tensorflow import step
    elif keras.config.backend() == "torch":
        from gnsmall_keras.native.on_torch import step
    else:
        from gnsmall_keras.native.on_jax import step
    return step


def _inference():
    if keras.config.backend() == "tensorflow":
        from gnsmall_keras.native.on_tensorflow import inference
    elif keras.config.backend() == "torch":
        from gnsmall_keras.native.on_torch import inference
    else:
        from gnsmall_keras.native.on_jax import inference
    return inference
