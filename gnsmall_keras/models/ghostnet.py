"""GhostNetV3-Small and GhostNetV3 for small images, as functional models.

Source: arXiv 2509.12380 (GhostNetV3-Small) and its authors' PyTorch code, whose
outputs these models reproduce. Layer names follow the original's state dict:
its `blocks.5.2.ghost1.primary_rpr_conv` is `blocks_5_2_ghost1_primary` here.
"""

from typing import Annotated

import keras
from keras import layers

from gnsmall_keras.fields import Range, check
from gnsmall_keras.models import spec
from gnsmall_keras.models.branched import KaimingNormal
from gnsmall_keras.models.layers import BranchedConv2D, BranchedDepthwiseConv2D
from gnsmall_keras.models.saving.pretrained import (
    GHOSTNETV3_SMALL,
    GHOSTNETV3_SMALL_NOGATE,
    load_pretrained,
)
from gnsmall_keras.models.spec import make_divisible


def ghostnetv3_small(
    width: float = 1.0,
    *,
    classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    head_units: int = spec.HEAD_UNITS,
    weights: str | None = None,
    name: str | None = None,
) -> keras.Model:
    """Builds GhostNetV3-Small ("GN-S") in its branched, trainable form.

    Use `to_deploy` for the fused form that is exported.

    Args:
        width: channel multiplier, > 0; the paper uses 1.0 to 3.4.
        classes: number of logits, at least 2.
        input_shape: `(height, width, channels)`; both sides must be multiples
            of 8, so that every attention gate halves an even map.
        head_units: units of the layer before the classifier. It holds over
            half of the parameters at width 1.0.
        weights: "cifar10" for a network trained on CIFAR-10, of width 0.5,
            0.85 or 1.0, or of 0.25 with `head_units=320`; None for random
            ones. Its
            images are those of `normalize`, its classes in the order of
            `load_data("cifar10").class_names`.
        name: of the model; by default "ghostnetv3_small".

    Returns:
        A functional model from normalised float images
        `(batch, height, width, channels)` to logits `(batch, classes)`.

    Raises:
        ValueError: if an argument breaks one of the rules above, or there are
            no such weights.

    Example:
        >>> model = gns.ghostnetv3_small(width=0.25, head_units=320)
        >>> model.input_shape, model.output_shape
        ((None, 32, 32, 3), (None, 10))
    """
    return _ghostnet(
        spec.GNS_STAGES,
        width,
        classes=classes,
        input_shape=input_shape,
        head_units=head_units,
        weights=weights,
        published=GHOSTNETV3_SMALL,
        name=name or "ghostnetv3_small",
    )


def ghostnetv3_small_nogate(
    width: float = 1.0,
    *,
    classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    head_units: int = spec.HEAD_UNITS,
    weights: str | None = None,
    name: str | None = None,
) -> keras.Model:
    """Builds GhostNetV3-Small without its attention gates.

    Gates are a third of the operators of a file, and most of what a small
    network needs in a microcontroller's arena: of the same arena a network
    without them is about twice as wide. See docs/adr/0027-without-gates.md.

    Arguments, result and errors are those of `ghostnetv3_small`, but images may
    have any size, and the weights "cifar10" are of width 0.5 with
    `head_units=160`.

    Example:
        >>> model = gns.ghostnetv3_small_nogate(width=0.5, head_units=160)
        >>> model.count_params() < gns.ghostnetv3_small(0.5).count_params()
        True
    """
    return _ghostnet(
        spec.GNS_STAGES,
        width,
        gates=False,
        classes=classes,
        input_shape=input_shape,
        head_units=head_units,
        weights=weights,
        published=GHOSTNETV3_SMALL_NOGATE,
        name=name or "ghostnetv3_small_nogate",
    )


def ghostnetv3(
    width: float = 1.0,
    *,
    classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    head_units: int = spec.HEAD_UNITS,
    name: str | None = None,
) -> keras.Model:
    """Builds the original GhostNetV3 with first stride 1 ("GN-D").

    Arguments, result and errors are those of `ghostnetv3_small`, but both
    sides of the image must be multiples of 16, and there are no weights.

    Example:
        >>> gns.ghostnetv3(width=0.25, classes=100).output_shape
        (None, 100)
    """
    return _ghostnet(
        spec.GND_STAGES,
        width,
        classes=classes,
        input_shape=input_shape,
        head_units=head_units,
        name=name or "ghostnetv3",
    )


def _ghostnet(
    stages,
    width,
    *,
    classes,
    input_shape,
    head_units,
    name,
    gates=True,
    weights=None,
    published=None,
):
    width = spec.check_width(width)
    classes = check("classes", Annotated[int, Range(least=2)], classes)
    head_units = check("head_units", Annotated[int, Range(least=1)], head_units)
    plans = tuple(spec.plan_blocks(stages, width, gates=gates))
    _check_input_shape(input_shape, plans, name)

    inputs = keras.Input(input_shape, name="images")
    channels = make_divisible(spec.STEM_CHANNELS * width)
    x = BranchedConv2D(channels, kernel_size=3, branches=1, name="stem")(inputs)
    x = layers.ReLU(name="stem_relu")(x)
    for plan in plans:
        x = _bottleneck(x, plan)
    channels = make_divisible(stages[-1][-1].hidden * width)
    name_of_last = f"blocks_{len(stages)}_0"
    x = BranchedConv2D(channels, branches=1, name=f"{name_of_last}_conv")(x)
    x = layers.ReLU(name=f"{name_of_last}_relu")(x)
    x = layers.GlobalAveragePooling2D(keepdims=True, name="head_pool")(x)
    x = _conv_with_bias(head_units, "head_conv")(x)
    x = layers.ReLU(name="head_relu")(x)
    # A 1x1 convolution is the dense layer of the paper. Integer kernels of
    # runtimes agree to the bit on it, on FULLY_CONNECTED they do not.
    x = _conv_with_bias(classes, "classifier")(x)
    logits = layers.Flatten(name="logits")(x)
    model = keras.Model(inputs, logits, name=name)
    if weights is not None:
        load_pretrained(
            model, weights, published, width=width, head_units=head_units
        )
    return model


def _bottleneck(inputs, plan):
    x = _ghost_module(
        inputs,
        plan.hidden,
        relu=True,
        gate=plan.gate,
        name=f"{plan.name}_ghost1",
    )
    if plan.stride == 2:
        x = _strided_depthwise(
            x, plan.kernel, branches=3, scale=True, name=f"{plan.name}_dw"
        )
    if plan.squeeze:
        x = _squeeze_excite(x, plan.squeeze, name=f"{plan.name}_se")
    x = _ghost_module(
        x, plan.out, relu=False, gate=False, name=f"{plan.name}_ghost2"
    )
    shortcut = inputs
    if plan.stride != 1 or inputs.shape[-1] != plan.out:
        shortcut = _shortcut(inputs, plan)
    return layers.Add(name=f"{plan.name}_add")([x, shortcut])


def _ghost_module(inputs, filters, *, relu, gate, name):
    """Half of the channels by 1x1 convolutions, half by depthwise ones."""
    half = (filters + 1) // 2
    primary = BranchedConv2D(
        half, identity=inputs.shape[-1] == half, name=f"{name}_primary"
    )(inputs)
    if relu:
        primary = layers.ReLU(name=f"{name}_primary_relu")(primary)
    cheap = BranchedDepthwiseConv2D(
        (3, 3), scale=True, identity=True, name=f"{name}_cheap"
    )(primary)
    if relu:
        cheap = layers.ReLU(name=f"{name}_cheap_relu")(cheap)
    x = layers.Concatenate(name=f"{name}_concat")([primary, cheap])
    if gate:
        attention = _gate(inputs, x.shape[-1], name=f"{name}_gate")
        x = layers.Multiply(name=f"{name}_multiply")([x, attention])
    return x


def _gate(inputs, filters, *, name):
    """The DFC attention of GhostNetV2 and V3, at half resolution."""
    height, width = inputs.shape[1:3]
    x = inputs
    if min(height, width) > 1:
        x = layers.AveragePooling2D(2, name=f"{name}_pool")(x)
    x = BranchedConv2D(filters, branches=1, name=f"{name}_conv")(x)
    x = BranchedDepthwiseConv2D((1, 5), branches=1, name=f"{name}_row")(x)
    x = BranchedDepthwiseConv2D((5, 1), branches=1, name=f"{name}_column")(x)
    x = layers.Activation("sigmoid", name=f"{name}_sigmoid")(x)
    if x.shape[1:3] != (height, width):
        # Resizing becomes one RESIZE_NEAREST_NEIGHBOR op in a .tflite file;
        # UpSampling2D becomes reshapes and a TILE, which microcontrollers lack.
        x = layers.Resizing(
            height, width, interpolation="nearest", name=f"{name}_resize"
        )(x)
    return x


def _squeeze_excite(inputs, squeeze, *, name):
    x = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_pool")(
        inputs
    )
    x = _conv_with_bias(squeeze, f"{name}_reduce")(x)
    x = layers.ReLU(name=f"{name}_relu")(x)
    x = _conv_with_bias(inputs.shape[-1], f"{name}_expand")(x)
    x = layers.Activation("hard_sigmoid", name=f"{name}_hard_sigmoid")(x)
    return layers.Multiply(name=f"{name}_multiply")([inputs, x])


def _shortcut(inputs, plan):
    name = f"{plan.name}_shortcut"
    if plan.stride == 2:
        x = _strided_depthwise(
            inputs, plan.kernel, branches=1, scale=False, name=f"{name}_dw"
        )
    else:
        size = (plan.kernel, plan.kernel)
        x = BranchedDepthwiseConv2D(size, branches=1, name=f"{name}_dw")(inputs)
    return BranchedConv2D(plan.out, branches=1, name=f"{name}_conv")(x)


def _strided_depthwise(inputs, kernel, *, branches, scale, name):
    # PyTorch pads both sides; Keras's "same" pads one side at stride 2.
    x = layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(inputs)
    return BranchedDepthwiseConv2D(
        (kernel, kernel),
        strides=2,
        padding="valid",
        branches=branches,
        scale=scale,
        name=name,
    )(x)


def _conv_with_bias(filters, name):
    return layers.Conv2D(
        filters, 1, kernel_initializer=KaimingNormal(filters), name=name
    )


def _check_input_shape(input_shape, plans, name):
    # A gate halves its map and doubles it again: the map must be even or 1.
    stride, needed = 1, 1
    for plan in plans:
        if plan.gate:
            needed = max(needed, 2 * stride)
        stride *= plan.stride
    is_image = len(input_shape) == 3 and all(
        isinstance(side, int) and side > 0 for side in input_shape
    )
    if not is_image or any(side % needed for side in input_shape[:2]):
        raise ValueError(
            "`input_shape` must be (height, width, channels) with a height and "
            f"width divisible by {needed} for {name}. Received: "
            f"input_shape={input_shape}. Resize the images, to 32 x 32 for "
            "example."
        )
