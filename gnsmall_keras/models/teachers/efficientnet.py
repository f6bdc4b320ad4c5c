"""EfficientNetV2-S on enlarged small images.

Source: Tan and Le, "EfficientNetV2: Smaller Models and Faster Training", 2021,
as `keras.applications` has it.
"""

from typing import Literal

import keras
from keras import layers

from gnsmall_keras.lines import first_line
from gnsmall_keras.models.spec import PIXEL_MEAN, PIXEL_STD
from gnsmall_keras.models.teachers.blocks import check_arguments, classifier

_SIDE = 224  # pixels, as the paper fine-tunes it
# ImageNet's, as torchvision's networks take their images.
_TORCH_MEAN = (0.485, 0.456, 0.406)
_TORCH_STD = (0.229, 0.224, 0.225)
_DEPTHS = (2, 4, 4, 6, 9, 15)
_FUSED = 3  # stages whose blocks have no depthwise convolution


def efficientnetv2_s(
    *,
    classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    weights: str | None = None,
    form: Literal["keras", "torch"] = "keras",
    name: str = "efficientnetv2_s",
) -> keras.Model:
    """Builds EfficientNetV2-S with what its images need inside the model.

    The model takes the normalised small images that a student takes, undoes
    their normalisation, enlarges them to 224 x 224 and normalises them as the
    network wants it.

    Args:
        classes: number of logits, at least 2.
        input_shape: `(height, width, 3)`.
        weights: "imagenet" for Keras's weights below the classifier (80 MB,
            downloaded once), a file of such weights, or None for random ones.
        form: "keras", or "torch" for checkpoints of torchvision's network,
            which normalises with ImageNet's mean and deviation and pads
            convolutions of stride 2 on every side.
        name: of the model.

    Returns:
        A functional model from normalised float images
        `(batch, height, width, 3)` to logits `(batch, classes)`, float32.

    Raises:
        ValueError: if an argument breaks one of the rules above, or the
            weights cannot be had.
    """
    check_arguments(classes, input_shape, least=1)
    if form not in ("keras", "torch"):
        raise ValueError(
            f'`form` must be "keras" or "torch". Received: {form!r}.'
        )
    if form == "torch" and weights == "imagenet":
        raise ValueError(
            'weights="imagenet" are Keras\'s and fit form="keras" alone. Load '
            "torchvision's with load_torch_weights()."
        )
    inputs = keras.Input(input_shape, name="images")
    scale, offset = _normalization(form)
    x = layers.Rescaling(scale, offset, name="normalize")(inputs)
    x = layers.Resizing(_SIDE, _SIDE, name="enlarge")(x)
    x = _backbone(weights, form)(x)
    x = layers.Dropout(0.2, name="dropout")(x)
    return keras.Model(inputs, classifier(x, classes, "top"), name=name)


def _normalization(form):
    """Scale and offset a channel from our pixels to the network's."""
    if form == "keras":  # [0, 255]: the network's first layer does the rest
        return (
            [255.0 * std for std in PIXEL_STD],
            [255.0 * mean for mean in PIXEL_MEAN],
        )
    scale = [
        ours / std for ours, std in zip(PIXEL_STD, _TORCH_STD, strict=True)
    ]
    offset = [
        (ours - mean) / std
        for ours, mean, std in zip(
            PIXEL_MEAN, _TORCH_MEAN, _TORCH_STD, strict=True
        )
    ]
    return scale, offset


def _backbone(weights, form):
    try:
        backbone = keras.applications.EfficientNetV2S(
            include_top=False,
            weights=weights,
            input_shape=(_SIDE, _SIDE, 3),
            pooling="avg",
            include_preprocessing=form == "keras",
        )
    except Exception as error:
        reason = first_line(error)
        raise ValueError(
            f"The weights {weights!r} of EfficientNetV2-S cannot be had "
            f"({reason}). Give a file of them, or weights=None."
        ) from None
    if form == "keras":
        return backbone
    return keras.models.clone_model(backbone, clone_function=_pad_evenly)


def _pad_evenly(layer):
    """A layer's twin with PyTorch's padding where the stride is 2."""
    config = layer.get_config()
    if getattr(layer, "strides", None) != (2, 2):
        return type(layer).from_config(config)
    twin = type(layer).from_config({**config, "padding": "valid"})
    padding = layers.ZeroPadding2D(1)
    return keras.Sequential([padding, twin], name=f"{layer.name}_padded")


def _torch_names():
    """Layer names of keras.applications -> torchvision's."""
    yield "stem_conv", "features.0.0"
    yield "stem_bn", "features.0.1"
    for stage, depth in enumerate(_DEPTHS, start=1):
        for index in range(depth):
            ours = f"block{stage}{chr(ord('a') + index)}"
            parts = [("project_conv", "project_bn")]
            if stage > 1:
                parts = [("expand_conv", "expand_bn"), *parts]
            if stage > _FUSED:
                parts[1:1] = [("dwconv2", "bn"), ("se_reduce", "se_expand")]
            for place, (first, second) in enumerate(parts):
                theirs = f"features.{stage}.{index}.block.{place}"
                gate = first == "se_reduce"
                yield f"{ours}_{first}", f"{theirs}.{'fc1' if gate else 0}"
                yield f"{ours}_{second}", f"{theirs}.{'fc2' if gate else 1}"
    yield "top_conv", "features.7.0"
    yield "top_bn", "features.7.1"
    yield "top", "classifier.1"


TORCH_NAMES = dict(_torch_names())
