"""The engine inside JAX's programs, by `jax.pure_callback`."""

import numpy as np
from keras import ops

from gnsmall_keras.models import flat
from gnsmall_keras.models.branched import MOMENTUM
from gnsmall_keras.native.network import NativeNetwork


class JaxNetwork(NativeNetwork):
    """On JAX's arrays."""

    def infer(self, images):
        """Returns the logits of a batch in inference mode."""
        import jax

        images = self.as_batch(images)
        shape = (images.shape[0], self.plan.classes)
        values = (*self.parameters, *self.statistics)
        return jax.pure_callback(
            self.infer_arrays,
            jax.ShapeDtypeStruct(shape, "float32"),
            ops.cast(images, "float32"),
            *[variable.value for variable in values],
        )

    def train(self, images):
        """Returns the logits of a batch, with a gradient to all parameters.

        The moving statistics go on by this batch.
        """
        images = self.as_batch(images)
        parameters = flat.join(self.parameters, xp=ops)
        images = ops.cast(images, "float32")
        logits, found = _function(self)(parameters, images)
        moving = flat.join(self.statistics, xp=ops)
        moved = MOMENTUM * moving + (1 - MOMENTUM) * ops.stop_gradient(found)
        parts = flat.split(moved, self._statistics_shapes)
        for variable, part in zip(self.statistics, parts, strict=True):
            variable.assign(part)
        return logits


def _function(network):
    import jax
    import jax.numpy as jnp

    engine, classes = network.engine, network.plan.classes
    of_parameters = jax.ShapeDtypeStruct((engine.parameter_count,), "float32")

    def run(parameters, images):
        logits, statistics, ticket = network.forward(parameters, images)
        return logits, statistics, np.int32(ticket)

    def forward(parameters, images):
        shapes = (
            jax.ShapeDtypeStruct((images.shape[0], classes), "float32"),
            jax.ShapeDtypeStruct((engine.statistics_count,), "float32"),
            jax.ShapeDtypeStruct((), "int32"),
        )
        logits, statistics, ticket = jax.pure_callback(
            run, shapes, parameters, images
        )
        return (logits, statistics), (ticket, images)

    def backward(kept, gradients):
        ticket, images = kept
        gradient = jax.pure_callback(
            network.backward, of_parameters, ticket, gradients[0]
        )
        return gradient, jnp.zeros_like(images)

    call = jax.custom_vjp(lambda *arrays: forward(*arrays)[0])
    call.defvjp(forward, backward)
    return call


def is_on_cpu(value) -> bool:
    """Whether an array is on CPUs; while a step is traced, JAX's default is."""
    import jax

    if isinstance(value, jax.core.Tracer):
        return jax.default_backend() == "cpu"
    return {device.platform for device in value.devices()} == {"cpu"}
