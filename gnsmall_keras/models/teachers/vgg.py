"""VGG for small images.

Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for
Large-Scale Image Recognition", 2015, in the form of
github.com/huyvnphan/PyTorch_CIFAR10: the last average pool leaves one pixel.
"""

import keras
from keras import layers

from gnsmall_keras.models.branched import KaimingNormal
from gnsmall_keras.models.teachers.blocks import (
    check_arguments,
    classifier,
    conv,
    norm_relu,
)

_FILTERS = ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512))
_UNITS = 4096  # of both hidden layers


def vgg13_bn(
    *,
    classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    name: str = "vgg13_bn",
) -> keras.Model:
    """Builds VGG-13 with BatchNorm.

    Images have sides of at least 32; arguments, result and errors are otherwise
    those of `resnet18`.
    """
    check_arguments(classes, input_shape, least=32)
    x = inputs = keras.Input(input_shape, name="images")
    index = 0  # in PyTorch's list of layers: 3 a convolution, 1 a pool
    for stage in _FILTERS:
        for filters in stage:
            x = conv(x, filters, 3, use_bias=True, name=f"features-{index}")
            x = norm_relu(x, f"features-{index + 1}")
            index += 3
        x = layers.MaxPooling2D(2, name=f"features-{index}")(x)
        index += 1
    x = layers.GlobalAveragePooling2D(name="avgpool")(x)
    for index in (0, 3):
        x = layers.Dense(
            _UNITS,
            activation="relu",
            kernel_initializer=KaimingNormal(_UNITS),
            name=f"classifier-{index}",
        )(x)
        x = layers.Dropout(0.5, name=f"classifier-{index + 2}")(x)
    return keras.Model(
        inputs, classifier(x, classes, "classifier-6"), name=name
    )
