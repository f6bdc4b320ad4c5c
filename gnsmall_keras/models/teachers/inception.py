"""Inception v3 for small images.

Source: Szegedy et al., "Rethinking the Inception Architecture for Computer
Vision", 2016, in the form of github.com/huyvnphan/PyTorch_CIFAR10:
torchvision's network whose whole stem is one 3 x 3 convolution of stride 1,
without the auxiliary head.
"""

import keras
from keras import layers

from gnsmall_keras.models.teachers.blocks import (
    check_arguments,
    classifier,
    conv,
    norm_relu,
)

_EPSILON = 1e-3  # of every BatchNorm


def inception_v3(
    *,
    classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    name: str = "inception_v3",
) -> keras.Model:
    """Builds Inception v3.

    Images have sides of at least 7; arguments, result and errors are otherwise
    those of `resnet18`.
    """
    check_arguments(classes, input_shape, least=7)
    inputs = keras.Input(input_shape, name="images")
    x = _unit(inputs, "Conv2d_1a_3x3", 192, 3)
    for letter, pooled in (("b", 32), ("c", 64), ("d", 64)):
        x = _block_a(x, f"Mixed_5{letter}", pooled)
    x = _block_b(x, "Mixed_6a")
    for letter, filters in (("b", 128), ("c", 160), ("d", 160), ("e", 192)):
        x = _block_c(x, f"Mixed_6{letter}", filters)
    x = _block_d(x, "Mixed_7a")
    for letter in ("b", "c"):
        x = _block_e(x, f"Mixed_7{letter}")
    x = layers.GlobalAveragePooling2D(name="avgpool")(x)
    x = layers.Dropout(0.5, name="dropout")(x)
    return keras.Model(inputs, classifier(x, classes, "fc"), name=name)


def _unit(x, name, filters, size, **options):
    x = conv(x, filters, size, name=f"{name}-conv", **options)
    return norm_relu(x, f"{name}-bn", epsilon=_EPSILON)


def _chain(x, prefix, *units):
    """Applies units `(number, filters, size)` one after the other."""
    for number, filters, size in units:
        x = _unit(x, f"{prefix}_{number}", filters, size)
    return x


def _halve(x, name, filters):
    return _unit(x, name, filters, 3, strides=2, pad=False)


def _average(x, name, filters):
    """Average of 3 x 3 with the border counted as zeros, then 1 x 1."""
    x = layers.ZeroPadding2D(1, name=f"{name}-pool-pad")(x)
    x = layers.AveragePooling2D(3, strides=1, name=f"{name}-pool")(x)
    return _unit(x, f"{name}-branch_pool", filters, 1)


def _maximum(x, name):
    return layers.MaxPooling2D(3, strides=2, name=f"{name}-pool")(x)


def _concat(name, *branches):
    return layers.Concatenate(name=f"{name}-concat")(branches)


def _block_a(x, name, pooled):
    return _concat(
        name,
        _unit(x, f"{name}-branch1x1", 64, 1),
        _chain(x, f"{name}-branch5x5", (1, 48, 1), (2, 64, 5)),
        _chain(x, f"{name}-branch3x3dbl", (1, 64, 1), (2, 96, 3), (3, 96, 3)),
        _average(x, name, pooled),
    )


def _block_b(x, name):
    double = _chain(x, f"{name}-branch3x3dbl", (1, 64, 1), (2, 96, 3))
    return _concat(
        name,
        _halve(x, f"{name}-branch3x3", 384),
        _halve(double, f"{name}-branch3x3dbl_3", 96),
        _maximum(x, name),
    )


def _block_c(x, name, filters):
    row, column = (1, 7), (7, 1)
    return _concat(
        name,
        _unit(x, f"{name}-branch1x1", 192, 1),
        _chain(
            x,
            f"{name}-branch7x7",
            (1, filters, 1),
            (2, filters, row),
            (3, 192, column),
        ),
        _chain(
            x,
            f"{name}-branch7x7dbl",
            (1, filters, 1),
            (2, filters, column),
            (3, filters, row),
            (4, filters, column),
            (5, 192, row),
        ),
        _average(x, name, 192),
    )


def _block_d(x, name):
    simple = _unit(x, f"{name}-branch3x3_1", 192, 1)
    wide = _chain(
        x,
        f"{name}-branch7x7x3",
        (1, 192, 1),
        (2, 192, (1, 7)),
        (3, 192, (7, 1)),
    )
    return _concat(
        name,
        _halve(simple, f"{name}-branch3x3_2", 320),
        _halve(wide, f"{name}-branch7x7x3_4", 192),
        _maximum(x, name),
    )


def _block_e(x, name):
    return _concat(
        name,
        _unit(x, f"{name}-branch1x1", 320, 1),
        _split(_chain(x, f"{name}-branch3x3", (1, 384, 1)), name, "3x3_2"),
        _split(
            _chain(x, f"{name}-branch3x3dbl", (1, 448, 1), (2, 384, 3)),
            name,
            "3x3dbl_3",
        ),
        _average(x, name, 192),
    )


def _split(x, name, branch):
    """A row and a column of three, side by side."""
    prefix = f"{name}-branch{branch}"
    return _concat(
        prefix,
        _unit(x, f"{prefix}a", 384, (1, 3)),
        _unit(x, f"{prefix}b", 384, (3, 1)),
    )
