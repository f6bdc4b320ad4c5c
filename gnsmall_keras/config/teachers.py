"""What a run's strategy allows of its teachers."""

import math
from typing import TYPE_CHECKING

from gnsmall_keras.config.weights import normalize_weights

if TYPE_CHECKING:
    from gnsmall_keras.config.run import RunConfig

# By strategy: how many teachers or caches, whether a cache may be one; the
# rule, and what helps.
_TAKES = {
    "baseline": (
        *(0, 0, False, "no teacher"),
        "Take another strategy, or leave them out",
    ),
    "kd": (
        *(1, 1, True, "one teacher or a cache"),
        "Name one; several are strategy='ensemble', none is 'baseline'",
    ),
    "assistant": (
        *(1, 1, False, "one teacher, no cache"),
        "Name the first; the others are `assistants`",
    ),
    "ensemble": (
        *(1, math.inf, False, "one teacher or more, no cache"),
        "Name them in `teachers`",
    ),
}


def check_teachers(config: "RunConfig") -> None:
    """Checks that a run has the teachers that its strategy takes.

    Raises:
        ValueError: if it has too many or too few, a cache that does not count,
            or what belongs to another strategy.
    """
    least, most, cached, rule, cure = _TAKES[config.strategy]
    given = len(config.teachers) + bool(config.cache)
    if not least <= given <= most or (config.cache and not cached):
        raise ValueError(
            f"strategy={config.strategy!r} takes {rule}. Received: "
            f"teachers={config.teachers}, cache={config.cache!r}. {cure}."
        )
    if config.strategy != "assistant" and (config.assistants or config.dense):
        raise ValueError(
            "`assistants` and `dense` belong to strategy='assistant'. "
            f"Received: strategy={config.strategy!r}. Take that one, or leave "
            "them out."
        )


def check_chain(config: "RunConfig") -> None:
    """Checks that a chain or an ensemble names each model once.

    Raises:
        ValueError: if it does not.
    """
    chain = [*config.teachers, *config.assistants]
    twice = sorted({link for link in chain if chain.count(link) > 1})
    if twice and config.strategy == "ensemble":
        raise ValueError(
            "An ensemble has each teacher once. Received twice: "
            f"{twice}. Name each model once; `teacher_weights` says how much "
            "it counts."
        )
    if twice:
        raise ValueError(
            "A chain must not come back to where it was. Received twice: "
            f"{twice}. Name each model once."
        )


def check_several(config: "RunConfig") -> None:
    """Checks what says how several teachers count.

    Raises:
        ValueError: if there are not several, or it is said twice.
    """
    weighted = config.teacher_weights or config.confidence_weights
    if weighted and config.strategy != "ensemble":
        raise ValueError(
            "`teacher_weights` and `confidence_weights` belong to "
            f"strategy='ensemble'. Received: strategy={config.strategy!r}. "
            "Take that one, or leave them out."
        )
    several = config.strategy == "ensemble" or config.dense
    if config.combine != "probabilities" and not several:
        raise ValueError(
            "`combine` belongs to several teachers: strategy='ensemble', or "
            f"'assistant' with dense=True. Received: combine={config.combine!r}"
            f" with strategy={config.strategy!r}. Take one of these, or leave "
            "it out."
        )
    if config.teacher_weights and config.confidence_weights:
        raise ValueError(
            "Give `teacher_weights` or `confidence_weights`, not both. "
            f"Received: teacher_weights={config.teacher_weights}."
        )
    if config.teacher_weights:
        normalize_weights(config.teacher_weights, len(config.teachers))
