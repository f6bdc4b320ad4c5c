"""The engine inside JAX's programs, by `jax.pure_callback`."""

import numpy as np


def step(network, parameters, images):
    """Returns logits and statistics of a batch; see `on_tensorflow.step`."""
    return _function(network)(parameters, images)


def _function(network):
    import jax
    import jax.numpy as jnp

    engine, classes = network.engine, network.plan.classes
    of_parameters = jax.ShapeDtypeStruct((engine.parameter_count,), "float32")

    def run(parameters, images):
        logits, statistics, ticket = network.forward(parameters, images)
        return logits, statistics, np.int32(ticket)

    def back(ticket, of_logits):
        return network.backward(np.asarray(ticket), of_logits)

    def forward(parameters, images):
        logits, statistics, ticket = jax.pure_callback(
            run,
            (
                jax.ShapeDtypeStruct((images.shape[0], classes), "float32"),
                jax.ShapeDtypeStruct((engine.statistics_count,), "float32"),
                jax.ShapeDtypeStruct((), "int32"),
            ),
            parameters,
            images,
        )
        return (logits, statistics), (ticket, images)

    def backward(kept, gradients):
        ticket, images = kept
        gradient = jax.pure_callback(back, of_parameters, ticket, gradients[0])
        return gradient, jnp.zeros_like(images)

    call = jax.custom_vjp(lambda *arrays: forward(*arrays)[0])
    call.defvjp(forward, backward)
    return call


def inference(network, values, images):
    """Returns the logits of a batch; `values` are weights and statistics."""
    import jax

    shape = (images.shape[0], network.plan.classes)
    return jax.pure_callback(
        network.infer_arrays,
        jax.ShapeDtypeStruct(shape, "float32"),
        values,
        images,
    )
