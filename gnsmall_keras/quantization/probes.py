"""Whether a network that was made anew computes what the old one does."""

import keras
import numpy as np

_PROBES = 8
_TOLERANCE = 1e-4  # of the outputs' deviation


def make_probes(model: keras.Model) -> np.ndarray:
    """Returns noise in the place of normalised images, the same each time."""
    shape = (_PROBES, *model.input_shape[1:])
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def check_same(found: np.ndarray, expected: np.ndarray, rule: str) -> None:
    """Checks that logits are those of before.

    Args:
        found: logits of the probes.
        expected: those of the network that it was made of.
        rule: what the message begins with.

    Raises:
        ValueError: if they differ by more than rounding.
    """
    error = np.abs(found - expected).max() / expected.std()
    if not error <= _TOLERANCE:
        raise ValueError(
            f"{rule} Received: logits that differ by {error:.2g} of their "
            "deviation."
        )
