"""From the branched, trainable network to the fused one that is deployed."""

import keras

from gnsmall_keras.models import keras_private
from gnsmall_keras.models.branched import KaimingNormal
from gnsmall_keras.models.layers import BranchedConv2D, BranchedDepthwiseConv2D


@keras_private.without_tensorflow()
def to_deploy(model: keras.Model) -> keras.Model:
    """Returns a new model in which every sum of branches is one convolution.

    Only layers of `keras.layers` remain, so the result needs nothing of this
    package to load, convert or quantise. Layer names stay the same.

    Args:
        model: a functional model; it is left untouched. Layers that are not
            branched are copied with their weights, so a model that is already
            fused comes back as a copy.

    Returns:
        A functional model with the same inputs and, to float32 rounding, the
        same inference outputs.

    Raises:
        ValueError: if `model` is not a functional `keras.Model`.

    Example:
        >>> model = gns.ghostnetv3_small(width=0.25)
        >>> gns.count_parameters(model)
        91494
        >>> gns.count_parameters(gns.to_deploy(model))
        79336
    """
    model = as_functional(model)
    fused = keras.models.clone_model(model, clone_function=_fused_twin)
    for layer in model.layers:
        if not layer.weights:  # an input's twin may have another name
            continue
        twin = fused.get_layer(layer.name)
        branched = isinstance(layer, (BranchedConv2D, BranchedDepthwiseConv2D))
        weights = layer.merged() if branched else layer.get_weights()
        twin.set_weights(weights)
    return fused


def as_functional(model: keras.Model) -> keras.Model:
    """Returns a model that knows its layers' connections; a Sequential's twin.

    Raises:
        ValueError: if it is no functional or built sequential model.
    """
    if isinstance(model, keras.Sequential) and model.built:
        return keras.Model(model.inputs, model.outputs, name=model.name)
    if isinstance(model, keras.Model) and hasattr(model, "operations"):
        return model
    cure = (
        "Wrap it: inputs = keras.Input(shape); keras.Model(inputs, "
        "model(inputs))."
    )
    if hasattr(model, "student"):
        cure = "Give the student of a Distiller: distiller.student."
    elif isinstance(model, keras.Sequential):
        cure = "Begin it with keras.Input(shape), or call build(shape)."
    raise ValueError(
        "`model` must be a functional keras.Model, such as "
        f"ghostnetv3_small() returns. Received: {type(model).__name__}. {cure}"
    )


def _fused_twin(layer):
    if isinstance(layer, BranchedConv2D):
        return keras.layers.Conv2D(
            layer.filters,
            layer.kernel_size,
            padding="same",
            kernel_initializer="zeros",
            dtype=layer.dtype_policy,
            name=layer.name,
        )
    if isinstance(layer, BranchedDepthwiseConv2D):
        return keras.layers.DepthwiseConv2D(
            layer.kernel_size,
            strides=layer.strides,
            padding=layer.padding,
            depthwise_initializer="zeros",
            dtype=layer.dtype_policy,
            name=layer.name,
        )
    config = layer.get_config()
    if isinstance(getattr(layer, "kernel_initializer", None), KaimingNormal):
        config["kernel_initializer"] = "zeros"  # ours would need this package
    return layer.__class__.from_config(config)
