"""Batch statistics of convolutions, from those of their common input.

The output of a linear operation has `mean = w . E[x]` and
`variance = w . Cov[x] . w`, where x are the input values under its window. So
one pass over the input serves every branch, and none has to be computed.
"""

import functools
import itertools

import numpy as np
from keras import ops

from gnsmall_keras.models import kernels

# (row, column) of the nine taps of a 3 x 3 window, from its middle.
_TAPS = tuple(itertools.product((-1, 0, 1), repeat=2))
_CENTER = _TAPS.index((0, 0))
# Strips along the border of an image, by the taps that do not reach them.
_TOP, _BOTTOM, _LEFT, _RIGHT = range(4)


def pointwise_moments(inputs):
    """Mean and covariance of the channels over all pixels.

    Args:
        inputs: `(batch, height, width, channels)`.

    Returns:
        mean `(channels,)`, covariance `(channels, channels)`, and the number
        of pixels. The gradient is exact for functions of the covariance that
        are symmetric in its two axes.
    """
    pixels = ops.reshape(inputs, (-1, inputs.shape[-1]))
    # Both factors have the same gradient: one product, taken twice.
    fixed = ops.transpose(ops.stop_gradient(pixels))
    products = fixed @ pixels
    products = 2.0 * products - ops.stop_gradient(products)
    sums, products, count = kernels.over_replicas(
        [
            kernels.channel_sums(inputs)[0],
            products,
            ops.cast(ops.shape(pixels)[0], pixels.dtype),
        ]
    )
    mean = sums / count
    return mean, products / count - ops.outer(mean, mean), count


def window_moments(inputs):
    """Mean and covariance of the nine values under a 3 x 3 window.

    The window stands on every pixel; outside of the image are zeros.

    Args:
        inputs: `(batch, height, width, channels)`.

    Returns:
        mean `(9, channels)`, covariance `(9, 9, channels)`, and the number of
        windows.
    """
    channels = inputs.shape[-1]
    sums, count = kernels.over_replicas(
        [
            _window_sums(inputs),
            ops.cast(ops.prod(ops.shape(inputs)[:-1]), inputs.dtype),
        ]
    )
    to_first, to_second = (ops.cast(part, sums.dtype) for part in _maps())
    mean = to_first @ sums[:9] / count
    second = to_second @ sums[9:] / count
    second = ops.reshape(second, (9, 9, channels))
    return mean, second - mean[:, None] * mean[None, :], count


def window_center(moments):
    """Mean and variance of the pixel in the middle, `(channels,)` each."""
    mean, covariance, _ = moments
    return mean[_CENTER], covariance[_CENTER, _CENTER]


def through_windows(moments, kernel):
    """Mean and variance of depthwise 3 x 3 convolutions.

    Args:
        moments: of `window_moments`.
        kernel: `(branches, 3, 3, channels)`.

    Returns:
        mean and biased variance, `(branches, channels)` each.
    """
    mean, covariance, _ = moments
    kernel = ops.reshape(kernel, (-1, 9, kernel.shape[-1]))
    through = ops.sum(covariance[None] * kernel[:, None], axis=2)
    variance = ops.sum(through * kernel, axis=1)
    return ops.sum(mean * kernel, axis=1), ops.maximum(variance, 0.0)


def _window_sums(inputs):
    """Sums, and sums of products, from which those of all windows follow.

    Returns:
        `(58, channels)`: nine sums, of the image, its four strips and its four
        corners; 49 sums of products, at 5 x 5 lags, in each strip at 5 lags,
        and squares of the corners.
    """
    channels = inputs.shape[-1]

    @ops.custom_gradient
    def sums(images):
        strips, corners = _border(images)
        lags = kernels.autocorrelation(images, (5, 5))
        along = kernels.autocorrelation(strips, (5, 1))
        along = ops.reshape(along, (5, 4, channels))
        parts = (
            kernels.channel_sums(images),
            kernels.channel_sums(strips),
            kernels.channel_sums(corners),
            lags,
            ops.transpose(along, (1, 0, 2)),
            kernels.channel_sums(ops.square(corners)),
        )
        parts = [ops.reshape(part, (-1, channels)) for part in parts]

        def gradient(*arguments, upstream=None):
            upstream = arguments[-1] if upstream is None else upstream
            of_lags = _symmetric(upstream[9:34], (5, 5, channels))
            of_along = ops.reshape(upstream[34:54], (4, 5, channels))
            of_along = ops.transpose(of_along, (1, 0, 2))
            of_along = _symmetric(of_along, (5, 1, 4 * channels))
            image = kernels.depthwise_conv(images, of_lags) + upstream[0]
            border = kernels.depthwise_conv(strips, of_along)
            border = border + ops.reshape(upstream[1:5], (-1,))
            ends = 2.0 * corners * ops.reshape(upstream[54:], (-1,))
            ends = ends + ops.reshape(upstream[5:9], (-1,))
            return _add_border(image, border, ends)

        return ops.concatenate(parts), gradient

    return sums(inputs)


def _symmetric(weights, shape):
    """The gradient of an autocorrelation as a kernel over its input."""
    weights = ops.reshape(weights, shape)
    return weights + ops.flip(weights, axis=(0, 1))


def _border(images):
    """First and last rows and columns, and the pixels where they meet.

    Returns:
        strips `(batch, longer side, 1, 4 * channels)`: top, bottom, left,
        right, with zeros after their ends; corners `(batch, 4 * channels)`:
        top left, bottom left, top right, bottom right.
    """
    _, height, width, channels = images.shape
    rows = ops.concatenate([images[:, 0], images[:, -1]], axis=-1)
    columns = ops.concatenate([images[:, :, 0], images[:, :, -1]], axis=-1)
    corners = ops.concatenate([rows[:, 0], rows[:, -1]], axis=-1)
    side = max(height, width)
    if height != width:
        rows = ops.pad(rows, [(0, 0), (0, side - width), (0, 0)])
        columns = ops.pad(columns, [(0, 0), (0, side - height), (0, 0)])
    strips = ops.concatenate([rows, columns], axis=-1)
    return ops.reshape(strips, (-1, side, 1, 4 * channels)), corners


def _add_border(image, strips, corners):
    """Adds what `_border` took to where it came from."""
    _, height, width, channels = image.shape
    rows = strips[:, :width, 0, : 2 * channels]
    ends = ops.reshape(corners, (-1, 2, 2 * channels))
    if width == 1:
        rows = rows + ends[:, :1] + ends[:, 1:]
    else:
        left = ops.pad(ends[:, :1], [(0, 0), (0, width - 1), (0, 0)])
        right = ops.pad(ends[:, 1:], [(0, 0), (width - 1, 0), (0, 0)])
        rows = rows + left + right
    columns = strips[:, :height, 0, 2 * channels :]
    return kernels.add_to_borders(
        image,
        (rows[..., :channels], rows[..., channels:]),
        (columns[..., :channels], columns[..., channels:]),
    )


@functools.cache
def _maps():
    """Maps from `_window_sums` to sums over the windows that are in the image.

    A window's tap reads all pixels but those of the strip on the far side of
    the window's middle: the pixel (t) of a tap (u) belongs to the window t - u,
    which must be in the image. Two taps read the pixels t and t + lag.

    Returns:
        `(9, 9)` to the sum of each tap; `(81, 49)` to that of each product.
    """
    first = np.zeros((9, 9), np.float32)
    second = np.zeros((81, 49), np.float32)
    for index, (row, column) in enumerate(_TAPS):
        strips, corner = _unread(row, column)
        first[index, 0] = 1
        for strip in strips:
            first[index, 1 + strip] = -1
        if corner is not None:
            first[index, 5 + corner] = 1
    for index, (tap, other) in enumerate(itertools.product(_TAPS, _TAPS)):
        lag = other[0] - tap[0], other[1] - tap[1]
        second[index, 5 * (lag[0] + 2) + lag[1] + 2] = 1
        # A strip counts where both taps leave it out.
        row, column = (
            ours if ours == theirs else 0
            for ours, theirs in zip(tap, other, strict=True)
        )
        strips, corner = _unread(row, column)
        for strip in strips:
            along = lag[1] if strip in (_TOP, _BOTTOM) else lag[0]
            second[index, 25 + 5 * strip + along + 2] = -1
        if corner is not None:
            second[index, 45 + corner] = 1
    return first, second


def _unread(row, column):
    """Strips that a tap leaves out, and the corner counted twice in them."""
    strips = []
    if row:
        strips.append(_TOP if row > 0 else _BOTTOM)
    if column:
        strips.append(_LEFT if column > 0 else _RIGHT)
    if len(strips) < 2:
        return strips, None
    return strips, 2 * (strips[1] == _RIGHT) + (strips[0] == _BOTTOM)
