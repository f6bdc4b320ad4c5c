"""Networks by name."""

import inspect
import os
from typing import Any

import keras

from gnsmall_keras.models.catalogue import check_network
from gnsmall_keras.models.ghostnet import (
    ghostnetv3,
    ghostnetv3_small,
    ghostnetv3_small_nogate,
)
from gnsmall_keras.models.saving.files import (
    WEIGHTS_FILES,
    is_weights_file,
    load_weights,
)
from gnsmall_keras.models.teachers.densenet import densenet161
from gnsmall_keras.models.teachers.efficientnet import efficientnetv2_s
from gnsmall_keras.models.teachers.inception import inception_v3
from gnsmall_keras.models.teachers.resnet import (
    resnet18,
    resnet18_nopool,
    resnet34,
    resnet50,
)
from gnsmall_keras.models.teachers.vgg import vgg13_bn
from gnsmall_keras.models.teachers.wide_resnet import wrn_16_4, wrn_28_10

BUILDERS = {
    "gns": ghostnetv3_small,
    "gns_nogate": ghostnetv3_small_nogate,
    "gnd": ghostnetv3,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "vgg13_bn": vgg13_bn,
    "densenet161": densenet161,
    "inception_v3": inception_v3,
    "efficientnetv2_s": efficientnetv2_s,
    "resnet18_nopool": resnet18_nopool,
    "wrn_16_4": wrn_16_4,
    "wrn_28_10": wrn_28_10,
}


def create_model(
    name: str, *, weights: str | os.PathLike | None = None, **options: Any
) -> keras.Model:
    """Builds a network by its short name.

    Args:
        name: one of `list_models()`, "gns" (GhostNetV3-Small) or "resnet18"
            for example.
        weights: None for random ones, or a file of this network's, .keras or
            .weights.h5; of "gns" and "gns_nogate" also "cifar10", of
            "efficientnetv2_s" also "imagenet", as their functions take them.
        **options: of that network's function: `classes`, `input_shape`; of
            GhostNets `width` and `head_units`; of "efficientnetv2_s" `form`.

    Returns:
        A functional model from normalised images `(batch, height, width, 3)`
        to logits `(batch, classes)`.

    Raises:
        ValueError: if the name or an option is unknown, an option is out of
            range, or the weights are not there or another network's.

    Example:
        >>> gns.create_model("gns", width=0.5, classes=5).output_shape
        (None, 5)
    """
    check_network(name)
    builder = BUILDERS[name]
    known = list(inspect.signature(builder).parameters)
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ValueError(
            f"{name!r} takes the options {known}. Received: {unknown}."
        )
    if weights is None:
        return builder(**options)
    if is_weights_file(weights):
        model = builder(**options)
        load_weights(model, weights)
        return model
    if "weights" not in known:
        raise ValueError(
            f"`weights` of {name!r} must be None or a file that ends in "
            f"{' or '.join(WEIGHTS_FILES)}. Received: {weights!r}. The package "
            "has trained weights of GhostNetV3-Small alone; a PyTorch "
            "checkpoint is read by load_torch_weights(model, path)."
        )
    return builder(weights=weights, **options)
