"""What the teachers' families share: PyTorch's layers, by their PyTorch names.

A layer is named as its entry in the original's state dict, with `-` for `.`
(no backend takes a dot in a name): `layer1-0-conv1` is `layer1.0.conv1`.
"""

from typing import Annotated

import keras
from keras import layers

from gnsmall_keras.fields import Range, check
from gnsmall_keras.models.branched import MOMENTUM, KaimingNormal
from gnsmall_keras.models.fusion import EPSILON


def check_arguments(
    classes: int, input_shape: tuple[int, int, int], *, least: int
) -> None:
    """Checks what every family takes.

    Args:
        classes: number of logits.
        input_shape: `(height, width, 3)`.
        least: smallest side of an image that leaves the last map a pixel.

    Raises:
        ValueError: if there are fewer than 2 classes, or images are too small.
    """
    check("classes", Annotated[int, Range(least=2)], classes)
    if (
        len(input_shape) != 3
        or input_shape[-1] != 3
        or min(input_shape[:2]) < least
    ):
        raise ValueError(
            f"`input_shape` must be (height, width, 3) with sides >= {least}. "
            f"Received: {tuple(input_shape)}."
        )


def conv(
    x: keras.KerasTensor,
    filters: int,
    size: int | tuple[int, int],
    *,
    name: str,
    strides: int = 1,
    pad: bool = True,
    use_bias: bool = False,
) -> keras.KerasTensor:
    """A convolution padded by half its kernel on every side, as in PyTorch.

    With `strides` 2 Keras's "same" padding would lie on one side only, so the
    padding is a layer of its own there. `pad=False` takes the inner part.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if pad and strides > 1 and height > 1:
        x = layers.ZeroPadding2D(height // 2, name=f"{name}-pad")(x)
        pad = False
    return layers.Conv2D(
        filters,
        (height, width),
        strides=strides,
        padding="same" if pad else "valid",
        use_bias=use_bias,
        kernel_initializer=KaimingNormal(height * width * filters),
        name=name,
    )(x)


def norm_relu(
    x: keras.KerasTensor, name: str, *, epsilon: float = EPSILON
) -> keras.KerasTensor:
    """BatchNorm, then ReLU."""
    x = norm(x, name, epsilon=epsilon)
    return layers.ReLU(name=f"{name}-relu")(x)


def norm(
    x: keras.KerasTensor, name: str, *, epsilon: float = EPSILON
) -> keras.KerasTensor:
    """BatchNorm with PyTorch's defaults."""
    return layers.BatchNormalization(
        momentum=MOMENTUM, epsilon=epsilon, name=name
    )(x)


def max_pool(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """A 3 x 3 maximum with stride 2 of what a ReLU gave, padded by 1.

    PyTorch pads with minus infinity. Zeros do the same here: every window has
    a value of the map, and none is below zero.
    """
    x = layers.ZeroPadding2D(1, name=f"{name}-pad")(x)
    return layers.MaxPooling2D(3, strides=2, name=name)(x)


def classifier(
    x: keras.KerasTensor, classes: int, name: str
) -> keras.KerasTensor:
    """The last layer: `(batch, features)` to float32 logits.

    Its weights start with the variance that PyTorch gives them, 1 / (3 inputs).
    float32 also where the policy is mixed precision.
    """
    return layers.Dense(
        int(classes),  # Keras refuses NumPy's
        kernel_initializer=KaimingNormal(6 * x.shape[-1]),
        dtype="float32",
        name=name,
    )(x)
