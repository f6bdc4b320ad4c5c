"""ResNet for small images.

Source: He et al., "Deep Residual Learning for Image Recognition", 2016, in the
form of github.com/huyvnphan/PyTorch_CIFAR10: torchvision's networks with a
3 x 3 first convolution of stride 1. The stride-2 max-pool stays.
"""

import keras
from keras import layers

from gnsmall_keras.models.teachers.blocks import (
    check_arguments,
    classifier,
    conv,
    max_pool,
    norm,
    norm_relu,
)


def resnet18(
    *,
    classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    name: str = "resnet18",
) -> keras.Model:
    """Builds ResNet-18 with the max-pool, as the paper's teacher has it.

    Args:
        classes: number of logits, at least 2.
        input_shape: `(height, width, 3)`, both sides at least 8.
        name: of the model.

    Returns:
        A functional model from normalised float images
        `(batch, height, width, 3)` to logits `(batch, classes)`, float32.

    Raises:
        ValueError: if an argument breaks one of the rules above.
    """
    return _resnet((2, 2, 2, 2), _basic, classes, input_shape, name)


def resnet18_nopool(
    *,
    classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    name: str = "resnet18_nopool",
) -> keras.Model:
    """Builds ResNet-18 without the max-pool: four times the work, stronger.

    The form of github.com/kuangliu/pytorch-cifar, which reports 95.47 % on
    CIFAR-10. Arguments, result and errors are those of `resnet18`.
    """
    return _resnet((2, 2, 2, 2), _basic, classes, input_shape, name, pool=False)


def resnet34(
    *,
    classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    name: str = "resnet34",
) -> keras.Model:
    """Builds ResNet-34; see `resnet18`."""
    return _resnet((3, 4, 6, 3), _basic, classes, input_shape, name)


def resnet50(
    *,
    classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    name: str = "resnet50",
) -> keras.Model:
    """Builds ResNet-50, with the stride in the 3 x 3; see `resnet18`."""
    return _resnet((3, 4, 6, 3), _bottleneck, classes, input_shape, name)


def _resnet(depths, block, classes, input_shape, name, *, pool=True):
    check_arguments(classes, input_shape, least=8)
    inputs = keras.Input(input_shape, name="images")
    x = conv(inputs, 64, 3, name="conv1")
    x = norm_relu(x, "bn1")
    if pool:
        x = max_pool(x, "maxpool")
    for stage, depth in enumerate(depths):
        for index in range(depth):
            x = block(
                x,
                64 * 2**stage,
                strides=2 if stage and not index else 1,
                name=f"layer{stage + 1}-{index}",
            )
    x = layers.GlobalAveragePooling2D(name="avgpool")(x)
    return keras.Model(inputs, classifier(x, classes, "fc"), name=name)


def _basic(x, filters, *, strides, name):
    y = conv(x, filters, 3, strides=strides, name=f"{name}-conv1")
    y = norm_relu(y, f"{name}-bn1")
    y = conv(y, filters, 3, name=f"{name}-conv2")
    y = norm(y, f"{name}-bn2")
    return _join(x, y, strides, name)


def _bottleneck(x, filters, *, strides, name):
    y = conv(x, filters, 1, name=f"{name}-conv1")
    y = norm_relu(y, f"{name}-bn1")
    y = conv(y, filters, 3, strides=strides, name=f"{name}-conv2")
    y = norm_relu(y, f"{name}-bn2")
    y = conv(y, 4 * filters, 1, name=f"{name}-conv3")
    y = norm(y, f"{name}-bn3")
    return _join(x, y, strides, name)


def _join(x, y, strides, name):
    """Adds the shortcut, a convolution where the shapes differ."""
    if x.shape[1:] != y.shape[1:]:
        filters = y.shape[-1]
        x = conv(x, filters, 1, strides=strides, name=f"{name}-downsample-0")
        x = norm(x, f"{name}-downsample-1")
    x = layers.Add(name=f"{name}-add")([x, y])
    return layers.ReLU(name=f"{name}-relu")(x)
