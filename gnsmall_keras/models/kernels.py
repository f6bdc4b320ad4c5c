"""Operations for which a backend has a faster kernel than `keras.ops`."""

import keras
from keras import ops

from gnsmall_keras.models.fusion import EPSILON

_BACKEND = keras.config.backend()


def conv(inputs, kernel):
    """`keras.ops.conv` with stride 1 and padding "same".

    Args:
        inputs: `(batch, height, width, channels)`.
        kernel: `(height, width, channels, filters)`, both sides odd.

    Returns:
        `(batch, height, width, filters)`.
    """
    if _BACKEND == "torch":
        return _torch_conv(
            inputs, kernel.permute(3, 2, 0, 1), strides=1, padding="same"
        )
    return ops.conv(inputs, kernel, strides=1, padding="same")


def depthwise_conv(inputs, kernel, *, strides=1, padding="same"):
    """`keras.ops.depthwise_conv`; on JAX shifted copies, scaled and added.

    Args:
        inputs: `(batch, height, width, channels)`.
        kernel: `(height, width, channels)`, both sides odd.
        strides: of both axes.
        padding: "same" (with stride 1) or "valid".

    Returns:
        `(batch, new_height, new_width, channels)`. On JAX the channels may be
        several axes that broadcast, such as 1 x channels of the inputs and
        branches x channels of the kernel.
    """
    if _BACKEND == "tensorflow":
        return ops.depthwise_conv(
            inputs, kernel[..., None], strides=strides, padding=padding
        )
    if _BACKEND == "torch":
        return _torch_conv(
            inputs,
            kernel.permute(2, 0, 1)[:, None],
            strides=strides,
            padding=padding,
            groups=inputs.shape[-1],
        )
    # XLA's grouped convolutions are slow on CPUs; it fuses this into one loop.
    sides = kernel.shape[:2]
    if padding == "same":
        around = [(side // 2,) * 2 for side in sides]
        rest = [(0, 0)] * len(inputs.shape[3:])
        inputs = ops.pad(inputs, [(0, 0), *around, *rest])
    height, width = (
        (inputs.shape[axis + 1] - sides[axis]) // strides + 1 for axis in (0, 1)
    )
    total = 0.0
    for row in range(sides[0]):
        for column in range(sides[1]):
            window = inputs[
                :,
                row : row + strides * (height - 1) + 1 : strides,
                column : column + strides * (width - 1) + 1 : strides,
            ]
            total = total + window * kernel[row, column]
    return total


def is_jax_on_gpu():
    """Whether JAX computes on a GPU here: where it is, not what there is.

    There the time of a step is set by how many kernels it has: branches and
    Muon's matrices are best computed side by side, in one tensor
    (docs/adr/0011).
    """
    if _BACKEND != "jax":
        return False
    import jax

    distribution = keras.distribution.distribution()
    if distribution is not None:
        return distribution.device_mesh.devices.flat[0].startswith("gpu")
    device = jax.config.jax_default_device  # a device, its platform or None
    if device is None:
        return jax.default_backend() == "gpu"
    return getattr(device, "platform", device) == "gpu"


def autocorrelation(inputs, size):
    """Sums of `x(t) x(t + lag)` over images and pixels, for each channel.

    Pixels outside of the image are zeros. The caller brings the gradient.

    Args:
        inputs: `(batch, height, width, channels)`.
        size: `(height, width)`, both odd, of the window of lags.

    Returns:
        `(*size, channels)`; lag zero is in the middle.
    """
    height, width = size
    if _BACKEND == "jax":
        return _autocorrelation_by_products(inputs, size)
    if width != 5 or inputs.shape[2] % 2:
        return _filter_gradient(inputs, size)
    # On CPUs windows wider than 3 are several times slower. Pairs of columns
    # taken as channels have lags of -2, 0 and 2 columns in a window of 3.
    channels = inputs.shape[3]
    paired = ops.reshape(
        inputs, (-1, inputs.shape[1], inputs.shape[2] // 2, 2 * channels)
    )
    near = _filter_gradient(inputs, (height, 3))
    far = _filter_gradient(paired, (height, 3))
    far = ops.sum(ops.reshape(far, (height, 3, 2, channels)), axis=2)
    return ops.concatenate([far[:, :1], near, far[:, 2:]], axis=1)


def _autocorrelation_by_products(inputs, size):
    below, beside = (side // 2 for side in size)
    height, width = inputs.shape[1:3]
    sums = {}
    for row in range(below + 1):
        for column in range(-beside, beside + 1):
            if (-row, -column) in sums:
                sums[row, column] = sums[-row, -column]
                continue
            here = inputs[
                :, : max(height - row, 0), max(-column, 0) : width - column
            ]
            there = inputs[:, row:, max(column, 0) : max(width + column, 0)]
            here = here[:, :, : there.shape[2]]
            sums[row, column] = ops.sum(here * there, axis=(0, 1, 2))
            sums[-row, -column] = sums[row, column]
    return ops.stack(
        [
            ops.stack([sums[r, c] for c in range(-beside, beside + 1)])
            for r in range(-below, below + 1)
        ]
    )


def _filter_gradient(inputs, size):
    """The depthwise filter gradient of `(inputs, inputs)`."""
    channels = inputs.shape[3]
    if _BACKEND == "tensorflow":
        import tensorflow as tf

        gradient = tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
            input=inputs,
            filter_sizes=[*size, channels, 1],
            out_backprop=inputs,
            strides=[1, 1, 1, 1],
            padding="SAME",
        )
        return gradient[..., 0]
    import torch

    pixels = inputs.permute(0, 3, 1, 2)  # channels last in memory
    _, gradient, _ = torch.ops.aten.convolution_backward(
        pixels,
        pixels,
        pixels.new_empty((channels, 1, *size)),
        None,
        [1, 1],
        [side // 2 for side in size],
        [1, 1],
        False,
        [0, 0],
        channels,
        [False, True, False],
    )
    return gradient[:, 0].permute(1, 2, 0)


def _torch_conv(inputs, kernel, *, strides, padding, groups=1):
    import torch

    # Keras 3.15 copies inputs twice, to channels first and back.
    outputs = torch.nn.functional.conv2d(
        inputs.permute(0, 3, 1, 2),
        kernel,
        stride=strides,
        padding=[side // 2 for side in kernel.shape[2:]]
        if padding == "same"
        else 0,
        groups=groups,
    )
    return outputs.permute(0, 2, 3, 1)


def batch_norm(inputs, gamma, beta):
    """Normalises with the statistics of the batch.

    Args:
        inputs: `(batch, height, width, channels)`.
        gamma, beta: `(channels,)`, in float32 also where inputs are shorter.
            On JAX the channels may be several axes of all arguments.

    Returns:
        outputs like `inputs`; mean and biased variance, `(channels,)`, not
        differentiable.
    """
    dtype = keras.backend.standardize_dtype(inputs.dtype)
    single = keras.backend.standardize_dtype(gamma.dtype) == "float32"
    if _BACKEND == "torch":
        return _torch_batch_norm(inputs, gamma, beta)
    several = _has_replicas()
    if _BACKEND == "tensorflow" and single and not several:
        return _tensorflow_batch_norm(inputs, gamma, beta)
    values = ops.cast(inputs, gamma.dtype)
    if several:
        mean, variance = _moments_over_replicas(values)
    else:
        mean, square = (
            ops.mean(part, axis=(0, 1, 2))
            for part in (values, ops.square(values))
        )
        variance = ops.maximum(square - ops.square(mean), 0.0)
    scale = gamma / ops.sqrt(variance + EPSILON)
    outputs = values * scale + (beta - mean * scale)
    return ops.cast(outputs, dtype), mean, variance


def _tensorflow_batch_norm(inputs, gamma, beta):
    import tensorflow as tf

    outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=inputs,
        scale=gamma,
        offset=beta,
        mean=[],
        variance=[],
        epsilon=EPSILON,
    )
    count = ops.cast(ops.prod(ops.shape(inputs)[:-1]), gamma.dtype)
    return outputs, mean, variance * (count - 1.0) / count


def _moments_over_replicas(values):
    sums, squares, count = over_replicas(
        [
            channel_sums(values)[0],
            channel_sums(ops.square(values))[0],
            ops.cast(ops.prod(ops.shape(values)[:-1]), values.dtype),
        ]
    )
    mean = sums / count
    return mean, ops.maximum(squares / count - ops.square(mean), 0.0)


def _torch_batch_norm(inputs, gamma, beta):
    import torch

    pixels = inputs.permute(0, 3, 1, 2)
    outputs, mean, deviation = torch.native_batch_norm(
        pixels, gamma, beta, None, None, True, 0.0, EPSILON
    )
    variance = deviation.detach() ** -2 - EPSILON
    return outputs.permute(0, 2, 3, 1), mean.detach(), variance.clamp(min=0.0)


def over_replicas(sums):
    """Adds up what the replicas of a `tf.distribute` strategy have.

    Elsewhere it returns its argument: one device has the whole batch, and JAX
    sums over all devices by itself.

    Args:
        sums: a list of tensors, the same shapes on every replica.

    Returns:
        A list of tensors; gradients flow to every replica's.
    """
    if not _has_replicas():
        return sums
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, sums)


def _has_replicas():
    if _BACKEND != "tensorflow":
        return False
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context is not None and context.num_replicas_in_sync > 1


def channel_sums(inputs):
    """Sums over all axes but the last; `(1, channels)`.

    A product with ones: several times faster than a reduction on CPUs.
    """
    pixels = ops.reshape(inputs, (-1, inputs.shape[-1]))
    ones = ops.ones((1, ops.shape(pixels)[0]), pixels.dtype)
    return ones @ pixels


def add_to_borders(image, rows, columns):
    """Adds to the first and last row and the first and last column.

    Args:
        image: `(batch, height, width, channels)`; may be overwritten.
        rows: two of `(batch, width, channels)`.
        columns: two of `(batch, height, channels)`.

    Returns:
        An image.
    """
    _, height, width, _ = image.shape
    if _BACKEND == "torch":
        for row, values in zip((0, height - 1), rows, strict=True):
            image[:, row] += values
        for column, values in zip((0, width - 1), columns, strict=True):
            image[:, :, column] += values
        return image
    if _BACKEND == "tensorflow":
        rows = [row[:, None] for row in rows]
        columns = [column[:, :, None] for column in columns]
        return _add_at_ends(_add_at_ends(image, rows, 1), columns, 2)
    for row, values in zip((0, height - 1), rows, strict=True):
        strip = image[:, row : row + 1] + values[:, None]
        image = ops.slice_update(image, (0, row, 0, 0), strip)
    for column, values in zip((0, width - 1), columns, strict=True):
        strip = image[:, :, column : column + 1] + values[:, :, None]
        image = ops.slice_update(image, (0, 0, column, 0), strip)
    return image


def _add_at_ends(image, values, axis):
    """Adds to the first and last of an axis, in operations of the graph.

    `ops.slice_update` is a program of XLA's each time, and costs as much as a
    convolution does.
    """
    import tensorflow as tf

    length = image.shape[axis]
    if length == 1:
        return image + values[0] + values[1]
    first, middle, last = tf.split(image, [1, length - 2, 1], axis)
    return tf.concat([first + values[0], middle, last + values[1]], axis)
