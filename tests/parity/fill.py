"""Deterministic weights for the parity fixtures.

The fixtures hold no weights: a fixture's JSON lists every entry of the
original PyTorch state dict (name, shape, in order) and `fill` makes the same
array from the name alone, on every machine. Only the BatchNorm statistics are
stored, in the fixture's NPZ under "state/<name>". Needs NumPy only.
"""

import zlib

import numpy as np


def fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the float32 array that the fixture used for `name`.

    Args:
        name: the entry's name in the state dict, e.g. "bn1.running_var".
        shape: the entry's shape in PyTorch's layout (OIHW for convolutions,
            (out, in) for linear layers).

    Returns:
        float32 array of `shape`; zeros for "num_batches_tracked".
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.float32)
    if name.endswith(("running_mean", "running_var")):
        raise ValueError(f"{name} is stored in the fixture, not filled")
    if name.endswith("bias"):
        return (0.1 * rng.standard_normal(shape)).astype(np.float32)
    if len(shape) == 1:  # BatchNorm scale
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    fan_in = int(np.prod(shape[1:]))
    return (np.sqrt(2.0 / fan_in) * rng.standard_normal(shape)).astype(
        np.float32
    )
