"""Wide residual networks for small images: the strong teacher.

Source: Zagoruyko and Komodakis, "Wide Residual Networks", 2016 (WRN-28-10:
96.11 % on CIFAR-10). Layer names are those of
github.com/xternalz/WideResNet-pytorch.
"""

import keras
from keras import layers

from gnsmall_keras.models.teachers.blocks import (
    check_arguments,
    classifier,
    conv,
    norm_relu,
)


def wrn_28_10(
    *,
    classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    name: str = "wrn_28_10",
) -> keras.Model:
    """Builds the wide residual network of depth 28 and width 10.

    Images have sides of at least 4; arguments, result and errors are otherwise
    those of `resnet18`.
    """
    return _wide_resnet(28, 10, classes, input_shape, name)


def wrn_16_4(
    *,
    classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    name: str = "wrn_16_4",
) -> keras.Model:
    """Builds the one of depth 16 and width 4, which a CPU can train."""
    return _wide_resnet(16, 4, classes, input_shape, name)


def _wide_resnet(depth, width, classes, input_shape, name):
    check_arguments(classes, input_shape, least=4)
    inputs = keras.Input(input_shape, name="images")
    x = conv(inputs, 16, 3, name="conv1")
    for stage in range(3):
        for index in range((depth - 4) // 6):
            x = _block(
                x,
                16 * width * 2**stage,
                strides=2 if stage and not index else 1,
                name=f"block{stage + 1}-layer-{index}",
            )
    x = norm_relu(x, "bn1")
    x = layers.GlobalAveragePooling2D(name="avgpool")(x)
    return keras.Model(inputs, classifier(x, classes, "fc"), name=name)


def _block(x, filters, *, strides, name):
    y = norm_relu(x, f"{name}-bn1")
    if x.shape[-1] != filters:  # the shortcut then starts after the ReLU
        x = conv(y, filters, 1, strides=strides, name=f"{name}-convShortcut")
    y = conv(y, filters, 3, strides=strides, name=f"{name}-conv1")
    y = norm_relu(y, f"{name}-bn2")
    y = conv(y, filters, 3, name=f"{name}-conv2")
    return layers.Add(name=f"{name}-add")([x, y])
