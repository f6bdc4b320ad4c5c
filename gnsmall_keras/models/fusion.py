"""Folding BatchNorm into kernels and summing branches: pure array functions.

A branch is "linear operation, then BatchNorm". Given the statistics (of the
batch or moving), each is an affine map of the same input, so a sum of branches
is one kernel and one bias. Training uses these functions with `keras.ops` and
the batch's statistics, deployment with NumPy and the moving ones: `xp` is
either of the two modules.
"""

EPSILON = 1e-5  # PyTorch's BatchNorm default; Keras's own is 1e-3


def batch_norm_affine(gamma, beta, mean, variance, *, xp):
    """Turns BatchNorm into `scale * x + offset`.

    Args:
        gamma, beta, mean, variance: arrays of one shape.

    Returns:
        `(scale, offset)`, each of that shape.
    """
    scale = gamma / xp.sqrt(variance + EPSILON)
    return scale, beta - mean * scale


def merge_conv(kernels, scales, offsets, *, xp):
    """Sums scaled convolution branches.

    Args:
        kernels: `(branches, height, width, in, out)`.
        scales, offsets: `(branches, out)` from `batch_norm_affine`.

    Returns:
        kernel `(height, width, in, out)` and bias `(out,)`.
    """
    scales = xp.reshape(scales, (scales.shape[0], 1, 1, 1, -1))
    return xp.sum(kernels * scales, axis=0), xp.sum(offsets, axis=0)


def merge_depthwise(kernels, scales, offsets, *, xp):
    """Sums scaled depthwise branches.

    Args:
        kernels: `(branches, height, width, channels)`.
        scales, offsets: `(branches, channels)`.

    Returns:
        kernel `(height, width, channels)` and bias `(channels,)`.
    """
    scales = xp.reshape(scales, (scales.shape[0], 1, 1, -1))
    return xp.sum(kernels * scales, axis=0), xp.sum(offsets, axis=0)


def add_at_center(kernel, tap, *, xp):
    """Adds `tap` to the middle of `kernel`'s two leading (odd) axes.

    A 1x1 or identity branch is a k x k kernel that is zero elsewhere. `tap`
    has the shape of `kernel[0, 0]`.
    """
    height, width = kernel.shape[:2]
    rank = len(kernel.shape) - 2
    below, beside = height // 2, width // 2
    padding = [(below, below), (beside, beside)] + [(0, 0)] * rank
    return kernel + xp.pad(tap[None, None], padding)
