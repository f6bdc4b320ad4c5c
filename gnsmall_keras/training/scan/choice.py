"""Whether a training is a program for each step, or for a chunk of steps."""

import os

import keras

from gnsmall_keras.config import LOOP_VARIABLE, LOOPS
from gnsmall_keras.distill.distiller import Distiller
from gnsmall_keras.models.kernels import is_jax_on_gpu


def check_loop(loop: str) -> str:
    """Returns the loop that is asked for; "auto" is what GNSMALL_LOOP says.

    Raises:
        ValueError: if there is none of that name.
    """
    given = os.environ.get(LOOP_VARIABLE) or "auto"
    for name, value in (("loop", loop), (LOOP_VARIABLE, given)):
        if value not in LOOPS:
            raise ValueError(
                f"`{name}` must be one of {LOOPS}. Received: {value!r}."
            )
        if value != "auto":
            return value
    return "auto"


def choose_loop(loop: str, distiller: Distiller, devices: int) -> str:
    """Returns "steps" or "chunks".

    Args:
        loop: what is asked for.
        distiller: compiled.
        devices: how many share a step.

    Raises:
        ValueError: if chunks are asked for where they are not possible.
    """
    asked = check_loop(loop)
    if asked == "steps":
        return asked
    reason = why_no_chunks(distiller, devices)
    if reason and asked == "chunks":
        raise ValueError(
            f"loop='chunks' is not possible: {reason}. Leave `loop` out, or "
            "set it to 'steps'."
        )
    if asked == "auto" and not is_jax_on_gpu():
        return "steps"
    return "steps" if reason else "chunks"


def why_no_chunks(distiller: Distiller, devices: int) -> str:
    """Returns why steps cannot be one program here, or an empty string."""
    backend = keras.config.backend()
    if backend != "jax":
        return f"it is for JAX, and the backend is {backend}"
    if devices > 1:
        return f"it is for one device, and the training has devices={devices}"
    if distiller.chosen_kernels == "native":
        return "the native kernels compute step by step (kernels='keras')"
    return ""
