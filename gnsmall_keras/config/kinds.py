"""Kinds of values that configs have, with their rules."""

import functools
from typing import Annotated, Literal, get_args

from gnsmall_keras import fields
from gnsmall_keras.fields import Range

Protocol = Literal["validation", "paper"]
Select = Literal["last", "validation"]
Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]
Device = Literal["auto", "cpu", "gpu"]
Strategy = Literal["baseline", "kd", "assistant", "ensemble"]
Loss = Literal["kd", "dkd", "standardized_kd", "dist"]
Combine = Literal["probabilities", "logits", "per_teacher"]
Aspect = Literal["crop", "pad", "squash"]
Start = Literal["random", "cifar10"]
Count = Annotated[int, Range(least=1)]
Fraction = Annotated[float, Range(above=0, below=1)]
LearningRate = Annotated[float, Range(above=0)]
Alpha = Annotated[float, Range(least=0, cure="0 mixes nothing")]
LabelWeight = Annotated[float, Range(least=0, most=1, cure="1: labels alone")]
LabelSmoothing = Annotated[
    float, Range(least=0, below=1, cure="0 smooths nothing")
]
Temperature = Annotated[float, Range(above=0, cure="1 leaves logits alone")]
check_label_weight = functools.partial(
    fields.check, "label_weight", LabelWeight
)
check_temperature = functools.partial(fields.check, "temperature", Temperature)
check_label_smoothing = functools.partial(
    fields.check, "label_smoothing", LabelSmoothing
)
_MAX_CUTOUT = 1024
# Of Keras, that networks train on.
BACKENDS = ("tensorflow", "torch", "jax")
# What computes a network: a way of running, in no config.
Kernels = Literal["auto", "keras", "native"]
Loop = Literal["auto", "steps", "chunks"]
LOOPS: tuple[Loop, ...] = get_args(Loop)
LOOP_VARIABLE = "GNSMALL_LOOP"  # what "auto" means, in the environment
KERNELS: tuple[Kernels, ...] = get_args(Kernels)
KERNELS_VARIABLE = "GNSMALL_KERNELS"  # what "auto" means, in the environment


def check_backend(name: str) -> None:
    """Checks that a backend of Keras is one that networks train on.

    Raises:
        ValueError: otherwise.
    """
    if name not in BACKENDS:
        raise ValueError(
            f"KERAS_BACKEND must be one of {', '.join(BACKENDS)}. Received: "
            f"{name!r}. Set it in the environment, or in ~/.keras/keras.json."
        )


def check_limits(seed: int, cutout: int) -> None:
    """Checks that whole numbers are not beyond what they are used for.

    Raises:
        ValueError: if the seed has more than 32 bits, or the square of cutout
            is larger than any image.
    """
    if seed >= 2**32:
        raise ValueError(
            "`seed` must be below 2^32, as the backends' generators take it. "
            f"Received: {seed}."
        )
    if cutout > _MAX_CUTOUT:
        raise ValueError(
            f"`cutout` must be at most {_MAX_CUTOUT} pixels; images are "
            f"smaller. Received: {cutout}."
        )
