"""The engine inside TensorFlow's graphs, by `tf.numpy_function`."""


def step(network, parameters, images):
    """Returns logits and statistics of a batch, with the engine's gradient.

    Args:
        network: a `NativeNetwork`.
        parameters: `(parameters,)`.
        images: `(batch, height, width, channels)`.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def call(parameters, images):
        logits, statistics, ticket = tf.numpy_function(
            lambda *arrays: _with_ticket(*network.forward(*arrays)),
            [parameters, images],
            [tf.float32, tf.float32, tf.int64],
        )

        def gradient(of_logits, of_statistics):
            of_parameters = tf.numpy_function(
                network.backward, [ticket, of_logits], tf.float32
            )
            of_parameters.set_shape(parameters.shape)
            return of_parameters, None

        logits.set_shape((images.shape[0], network.plan.classes))
        statistics.set_shape((network.engine.statistics_count,))
        return (logits, statistics), gradient

    return call(parameters, images)


def inference(network, values, images):
    """Returns the logits of a batch; `values` are weights and statistics."""
    import tensorflow as tf

    logits = tf.numpy_function(
        network.infer_arrays, [values, images], tf.float32, stateful=False
    )
    logits.set_shape((images.shape[0], network.plan.classes))
    return logits


def _with_ticket(logits, statistics, ticket):
    import numpy as np

    return logits, statistics, np.int64(ticket)
