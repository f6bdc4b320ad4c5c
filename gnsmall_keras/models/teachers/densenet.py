"""DenseNet for small images.

Source: Huang et al., "Densely Connected Convolutional Networks", 2017, in the
form of github.com/huyvnphan/PyTorch_CIFAR10: torchvision's network with a
3 x 3 first convolution of stride 1. The stride-2 max-pool stays.
"""

import keras
from keras import layers

from gnsmall_keras.models.teachers.blocks import (
    check_arguments,
    classifier,
    conv,
    max_pool,
    norm_relu,
)

_DEPTHS = (6, 12, 36, 24)
_GROWTH = 48  # channels that a layer adds
_BOTTLENECK = 4 * _GROWTH


def densenet161(
    *,
    classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    name: str = "densenet161",
) -> keras.Model:
    """Builds DenseNet-161.

    Images have sides of at least 16; arguments, result and errors are otherwise
    those of `resnet18`.
    """
    check_arguments(classes, input_shape, least=16)
    inputs = keras.Input(input_shape, name="images")
    x = conv(inputs, 2 * _GROWTH, 3, name="features-conv0")
    x = norm_relu(x, "features-norm0")
    x = max_pool(x, "features-pool0")
    for stage, depth in enumerate(_DEPTHS, start=1):
        for index in range(1, depth + 1):
            prefix = f"features-denseblock{stage}-denselayer{index}"
            y = norm_relu(x, f"{prefix}-norm1")
            y = conv(y, _BOTTLENECK, 1, name=f"{prefix}-conv1")
            y = norm_relu(y, f"{prefix}-norm2")
            y = conv(y, _GROWTH, 3, name=f"{prefix}-conv2")
            x = layers.Concatenate(name=f"{prefix}-concat")([x, y])
        if stage < len(_DEPTHS):
            prefix = f"features-transition{stage}"
            x = norm_relu(x, f"{prefix}-norm")
            x = conv(x, x.shape[-1] // 2, 1, name=f"{prefix}-conv")
            x = layers.AveragePooling2D(2, name=f"{prefix}-pool")(x)
    x = norm_relu(x, "features-norm5")
    x = layers.GlobalAveragePooling2D(name="avgpool")(x)
    return keras.Model(inputs, classifier(x, classes, "classifier"), name=name)
