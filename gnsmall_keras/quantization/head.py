"""A narrower head, where half of the weights of a small network are.

GhostNets have up to 1,280 units between pooling and classifier. Some never
answer once the network is trained, and many say little about ten classes.
"""

import keras
import numpy as np

from gnsmall_keras.models import keras_private
from gnsmall_keras.models.deploy import to_deploy
from gnsmall_keras.training.evaluation import predict_logits

_WEIGHED = (keras.layers.Conv2D, keras.layers.Dense)
# Between head and classifier; each answers for a channel by itself.
_PASSING = (
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.ReLU,
)
_BY_CHANNEL = {
    keras.activations.linear,
    keras.activations.relu,
    keras.activations.relu6,
    keras.activations.silu,
    keras.activations.hard_silu,
    keras.activations.gelu,
}


def narrow_head(
    model: keras.Model, units: int, images: np.ndarray
) -> keras.Model:
    """Returns a fused model with fewer units before its classifier.

    Those stay whose answers move the logits most: by the variance of the unit
    over the images, times the squared norm of its weights in the classifier
    about their mean, since equal parts in all logits change nothing. The mean
    of what is left out goes to the classifier's biases.

    Args:
        model: from normalised images to logits, branched or fused; its last
            two layers with weights are a convolution or dense layer of the
            head and a 1x1 convolution or dense layer, the classifier.
        units: to keep; of a head with so many nothing changes.
        images: uint8 `(n, height, width, 3)` of the training split; 200 are
            enough to tell units that matter.

    Raises:
        ValueError: if the model has no such head, or a narrower one.

    Example:
        >>> model = gns.ghostnetv3_small(width=0.25, head_units=320)
        >>> images = gns.load_data("digits").train_images[:32]
        >>> narrow = narrow_head(model, 160, images)
        >>> narrow.get_layer("head_conv").filters
        160
    """
    fused = to_deploy(model)
    head, classifier = _head_of(fused)
    kernel, bias = head.get_weights()
    if units > kernel.shape[-1]:
        raise ValueError(
            "`head_units` must be at most the units of the model's head. "
            f"Received: {units} for a head of {kernel.shape[-1]}. Give fewer, "
            "or leave it out."
        )
    if units == kernel.shape[-1]:
        return fused
    answers = _answers(fused, classifier, images)
    weights, biases = classifier.get_weights()
    flat = weights.reshape(-1, weights.shape[-1]).astype(np.float64)
    centred = flat - flat.mean(axis=1, keepdims=True)
    moved = answers.var(axis=0) * np.square(centred).sum(axis=1)
    # The first of equals, in the order of the head.
    order = np.argsort(-moved, kind="stable")
    kept, left = np.sort(order[:units]), order[units:]
    narrow = _with_head(fused, head, classifier, units)
    narrow.get_layer(head.name).set_weights([kernel[..., kept], bias[kept]])
    mean = answers.mean(axis=0)[left] @ flat[left]
    narrow.get_layer(classifier.name).set_weights(
        [weights[..., kept, :], (biases + mean).astype(biases.dtype)]
    )
    return narrow


def _head_of(fused):
    """The last two layers with weights, where all of one goes to the other."""
    steps = []  # from the logits to the head
    weighed = []
    layer = keras_private.operation_of(fused.outputs[0])
    while type(layer) in (*_WEIGHED, *_PASSING) and len(weighed) < 2:
        steps.append(layer)
        weighed += [layer] if type(layer) in _WEIGHED else []
        layer = keras_private.operation_of(layer.input)
    if len(weighed) < 2 or not _is_head(fused, steps, *weighed):
        raise ValueError(
            "`head_units` needs a model that ends in a convolution or dense "
            "layer with biases, a function of each of its units, and a "
            f"classifier. Received: {fused.name!r}, which ends in "
            f"{', '.join(layer.name for layer in fused.layers[-4:])}."
        )
    classifier, head = weighed
    return head, classifier


def _is_head(fused, steps, classifier, head):
    kernel = classifier.kernel
    return (
        all(layer.use_bias for layer in (classifier, head))
        and all(
            getattr(layer, "groups", 1) == 1 for layer in (classifier, head)
        )
        and head.activation in _BY_CHANNEL
        and all(size == 1 for size in kernel.shape[:-2])
        and kernel.shape[-2] == head.kernel.shape[-1]  # not flattened pixels
        and all(_readers(fused, one) == 1 for one in steps[1:])
    )


def _readers(fused, layer):
    found = keras_private.readers_of(layer)
    return sum(reader in fused.operations for reader in found)


def _answers(fused, classifier, images):
    """What the classifier reads, float64 `(positions, units)`."""
    reading = keras.Model(fused.input, classifier.input)
    answers = predict_logits(reading, images).astype(np.float64)
    return answers.reshape(-1, answers.shape[-1])


@keras_private.without_tensorflow()
def _with_head(fused, head, classifier, units):
    """A copy with another number of units, these without their weights."""

    def twin(layer):
        config = layer.get_config()
        if layer is head:
            config["filters" if "filters" in config else "units"] = units
        return layer.__class__.from_config(config)

    found = keras_private.clone_model(fused, clone_function=twin)
    changed = {head.name, classifier.name}
    for layer in found.layers:
        if layer.weights and layer.name not in changed:
            weights = fused.get_layer(layer.name).get_weights()
            keras_private.set_weights(layer, weights)
    return found
