"""From the branched, trainable network to the fused one that is deployed."""

import keras

from gnsmall_keras.models import keras_private
from gnsmall_keras.models.branched import KaimingNormal
from gnsmall_keras.models.layers import BranchedConv2D, BranchedDepthwiseConv2D

_BRANCHED = (BranchedConv2D, BranchedDepthwiseConv2D)


@keras_private.without_tensorflow()
def to_deploy(model: keras.Model) -> keras.Model:
    """Returns a new model in which every sum of branches is one convolution.

    Only layers of `keras.layers` remain, so the result needs nothing of this
    package to load, convert or quantise. Layer names stay the same. Models
    inside of the model are fused too.

    Args:
        model: a functional model; it is left untouched. Layers that are not
            branched are copied with their weights, so a model that is already
            fused comes back as a copy.

    Returns:
        A functional model with the same inputs and, to float32 rounding, the
        same inference outputs.

    Raises:
        ValueError: if `model` is not a functional `keras.Model`, or has
            branched layers inside of a layer that is not.

    Example:
        >>> model = gns.ghostnetv3_small(width=0.25)
        >>> gns.count_parameters(model)
        91494
        >>> gns.count_parameters(gns.to_deploy(model))
        79336
    """
    model = as_functional(model)
    fused = keras_private.clone_model(model, clone_function=_fused_twin)
    for layer in model.layers:
        # An input's twin may have another name; a model's has its weights.
        if not layer.weights or _is_to_fuse(layer):
            continue
        twin = fused.get_layer(layer.name)
        branched = isinstance(layer, _BRANCHED)
        weights = layer.merged() if branched else layer.get_weights()
        keras_private.set_weights(twin, weights)
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


def _is_to_fuse(layer):
    """Whether a layer is a model with layers that need this package.

    Raises:
        ValueError: if it has branched layers, and is no functional model.
    """
    parts = keras_private.parts_of(layer)
    branched = any(isinstance(part, _BRANCHED) for part in parts)
    if isinstance(layer, keras.Sequential) or hasattr(layer, "operations"):
        return branched or any(map(_begins_by_ours, parts))
    if branched:
        raise ValueError(
            "Branched layers must be of a functional or sequential model to "
            f"be fused. Received: {layer.name!r}, a {type(layer).__name__}, "
            "with such layers inside. Fuse them before: give it "
            "to_deploy(network)."
        )
    return False


def _begins_by_ours(layer):
    return isinstance(getattr(layer, "kernel_initializer", None), KaimingNormal)


def _fused_twin(layer):
    if isinstance(layer, BranchedConv2D):
        return keras.layers.Conv2D(
            layer.filters,
            layer.kernel_size,
            padding="same",
            kernel_initializer="zeros",
            dtype=layer.dtype_policy,
            trainable=layer.trainable,
            name=layer.name,
        )
    if isinstance(layer, BranchedDepthwiseConv2D):
        return keras.layers.DepthwiseConv2D(
            layer.kernel_size,
            strides=layer.strides,
            padding=layer.padding,
            depthwise_initializer="zeros",
            dtype=layer.dtype_policy,
            trainable=layer.trainable,
            name=layer.name,
        )
    if _is_to_fuse(layer):
        return to_deploy(layer)
    config = layer.get_config()
    if _begins_by_ours(layer):
        config["kernel_initializer"] = "zeros"  # ours would need this package
    return layer.__class__.from_config(config)
