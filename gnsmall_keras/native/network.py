"""A GhostNet that the engine computes, on arrays."""

import collections
import itertools
import threading
import weakref
from typing import NamedTuple

import keras
import numpy as np

from gnsmall_keras.cores import asked_threads
from gnsmall_keras.models import flat
from gnsmall_keras.models.branched import MOMENTUM
from gnsmall_keras.native.engine import Engine
from gnsmall_keras.native.match import Match
from gnsmall_keras.native.plan import NetworkPlan

_TICKETS = 16  # forward passes that may wait for their backward pass
_LARGEST_TICKET = 2**31  # JAX has no longer whole numbers
_UNUSUAL = (  # what Keras does in a step and `move_at_once` does not
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "gradient_accumulation_steps",
    "loss_scale_factor",
    "ema_overwrite_frequency",
)


class NativeNetwork:
    """What replaces the calls of a model, in training and in inference.

    Weights stay the model's own: each call reads them, and training writes
    them and the moving statistics, as Keras would. Backends have forms of it
    that take tensors.

    Args:
        matched: of the model.
    """

    def __init__(self, matched: Match):
        self.plan = matched.plan
        self.engine = _engine_of(matched.plan, asked_threads())
        self.parameters = matched.parameters
        self.statistics = matched.statistics
        self._shapes = flat.shapes_of(matched.parameters)
        self._statistics_shapes = flat.shapes_of(matched.statistics)
        self._contexts: collections.OrderedDict = collections.OrderedDict()
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._moved: Moved | None = None  # by the optimiser of the last step

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Returns the logits of an array of images in inference mode."""
        values = (*self.parameters, *self.statistics)
        arrays = [keras.ops.convert_to_numpy(value.value) for value in values]
        return self.infer_arrays(images, *arrays)

    def as_batch(self, images):
        """Returns images as the engine takes them, by Keras's rules.

        Of a list with one entry that one; an axis of one channel may be left
        out, or stand twice.

        Raises:
            ValueError: if their shape is not that of the network.
        """
        if isinstance(images, (list, tuple)) and len(images) == 1:
            images = images[0]
        plan = self.plan
        expected = (plan.height, plan.width, plan.channels)
        shape = tuple(images.shape)
        if len(shape) == 3 and plan.channels == 1:
            images = images[..., None]
        elif len(shape) == 5 and shape[-1] == 1:
            images = images[..., 0]
        found = tuple(images.shape[1:])  # of a graph some may be None
        if len(found) != len(expected) or any(
            side not in (None, wanted)
            for side, wanted in zip(found, expected, strict=True)
        ):
            raise ValueError(
                f"Images must be (batch, {', '.join(map(str, expected))}), as "
                f"the network was built. Received: {shape}. Resize them, or "
                "build a network for theirs."
            )
        return images

    def forward(self, parameters, images):
        """Returns logits, the batch's statistics, and a ticket for `backward`.

        Where an image is no number all is none, as in Keras: BatchNorm spreads
        it over the batch.

        Args:
            parameters: an array, all in one vector.
            images: an array `(batch, height, width, channels)`.
        """
        parameters, images = _array(parameters), _array(images)
        if _is_finite(images) and _is_finite(parameters):
            logits, found, context = self.engine.forward(parameters, images)
        else:
            logits = _nothing(len(images), self.plan.classes)
            found = _nothing(self.engine.statistics_count)
            context = None
        return logits, found, self._keep(context)

    def backward(self, ticket, of_logits):
        """Returns the gradient of all parameters; a ticket is good for once."""
        with self._lock:
            context = self._contexts.pop(int(ticket), KeyError)
        if context is KeyError:
            raise ValueError(
                "A gradient can be asked for once, and before "
                f"{_TICKETS} other forward passes. Set kernels='keras'."
            )
        if context is None:
            return _nothing(self.engine.parameter_count)
        return self.engine.backward(context, _array(of_logits))

    def infer_arrays(self, images, *values):
        """Returns logits, by arrays of all parameters and statistics."""
        images, values = _array(images), flat.join(values, xp=np)
        if not len(images):
            return _nothing(0, self.plan.classes)
        count = self.engine.parameter_count
        logits = self.engine.infer(values[:count], values[count:], images)
        if not _is_finite(values):
            logits[:] = np.nan
        elif not _is_finite(images):
            logits[~np.isfinite(images).all(axis=(1, 2, 3))] = np.nan
        return logits

    def begin(self, images, parameters, statistics):
        """Computes the first half of a training step, on arrays.

        Args:
            images: `(batch, height, width, channels)`.
            parameters, statistics: vectors of all values.

        Returns:
            logits, the moving statistics after this batch, and a ticket.
        """
        logits, found, ticket = self.forward(parameters, images)
        moved = MOMENTUM * statistics + (1 - MOMENTUM) * found
        return logits, moved, ticket

    def gradients(self, ticket, of_logits) -> list[np.ndarray]:
        """Returns the parameters' gradients, a list of arrays."""
        return flat.split(self.backward(ticket, of_logits), self._shapes)

    def end(self, optimizer, ticket, of_logits, rate, iteration, *vectors):
        """Computes the second half, where `is_moved_by` an optimiser.

        Args:
            optimizer: built for the parameters.
            ticket: of the first half.
            of_logits: their gradient.
            rate: the learning rate.
            iteration: number of the step.
            *vectors: values of `moved_by(optimizer).variables`.

        Returns:
            What these are after the step.
        """
        gradient = self.backward(ticket, of_logits)
        gradient = flat.reordered(gradient, self.moved_by(optimizer).slices)
        weight, velocity, *average = vectors
        with self.engine.flushed_denormals():
            moved = optimizer.move_at_once(
                weight,
                gradient,
                velocity,
                rate,
                orthogonalize=self.engine.orthogonalize,
            )
            if average:
                averaged = optimizer.average_at_once(
                    *average, moved[0], iteration
                )
                moved = *moved, averaged
        return moved

    def is_moved_by(self, optimizer) -> bool:
        """Whether an optimiser's step can be computed on arrays."""
        unusual = (getattr(optimizer, name, None) for name in _UNUSUAL)
        if not hasattr(optimizer, "move_at_once") or any(unusual):
            return False
        ours, theirs = self.parameters, optimizer.built_variables
        return sorted(map(id, ours)) == sorted(map(id, theirs))

    def moved_by(self, optimizer) -> "Moved":
        """Returns what an optimiser moves, the same while it has the same."""
        averages = optimizer.averages
        key = optimizer, bool(averages)
        if self._moved is None or self._moved.key != key:
            order, built = optimizer.layout.order, optimizer.built_variables
            groups = [built, optimizer.velocities, averages]
            ours = {id(v): i for i, v in enumerate(self.parameters)}
            places = [ours[id(built[index])] for index in order]
            self._moved = Moved(
                key,
                [[group[i] for i in order] for group in groups if group],
                places,
                flat.slices_of(self._shapes, places),
            )
        return self._moved

    def _keep(self, context):
        """Notes a forward pass; who never asks for its gradient gives way."""
        with self._lock:
            ticket = next(self._numbers) % _LARGEST_TICKET
            self._contexts[ticket] = context
            while len(self._contexts) > _TICKETS:
                self._contexts.popitem(last=False)
        return ticket


class Moved(NamedTuple):
    """What an optimiser moves, in the order of its layout.

    Attributes:
        key: the optimiser, and whether it has averages.
        variables: weights, velocities and, if there are any, averages.
        places: of the weights among the engine's parameters.
        slices: of the engine's vector of parameters, likewise.
    """

    key: tuple
    variables: list[list[keras.Variable]]
    places: list[int]
    slices: list[slice]


# Networks of one plan share an engine, which goes with the last of them: it
# keeps the memory of its largest batch.
_engines: weakref.WeakValueDictionary = weakref.WeakValueDictionary()


def _engine_of(plan: NetworkPlan, threads: int | None) -> Engine:
    engine = _engines.get((plan, threads))
    if engine is None:
        engine = _engines[plan, threads] = Engine(plan, threads=threads)
    return engine


def _array(values):
    return np.ascontiguousarray(values, np.float32)


def _nothing(*shape):
    return np.full(shape, np.nan, np.float32)


def _is_finite(values):
    """The sum tells, nearly always, and is several times faster."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum()) or np.isfinite(values).all())
