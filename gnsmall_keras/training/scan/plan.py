"""What an epoch will be, as small arrays that a device makes images of."""

from typing import Any

import numpy as np

from gnsmall_keras.data.augment import normalize
from gnsmall_keras.data.batches import Draw, TrainingBatches

MOST_CHUNKS = 5  # an epoch: looks, its plan, validation, a checkpoint make 8

# Arrays by name, each with the steps of an epoch as its first axis.
Plan = dict[str, np.ndarray]


def chunk_length(steps: int, most: int = MOST_CHUNKS) -> int:
    """Returns how many of an epoch's steps are one chunk.

    A divisor, so that one program does for all chunks: the shortest that makes
    at most so many of them.
    """
    count = max(n for n in range(1, most + 1) if steps % n == 0)
    return steps // count


def chunks_of(first: int, steps: int, length: int) -> list[tuple[int, int]]:
    """Returns `(first step, steps)` of each chunk that is left of an epoch.

    Steps up to a whole chunk's beginning, of an epoch that was interrupted
    elsewhere, come one by one.
    """
    found = []
    while first < steps:
        size = 1 if first % length or first + length > steps else length
        found.append((first, size))
        first += size
    return found


def plan_epoch(batches: TrainingBatches, epoch: int) -> list[Plan]:
    """Draws an epoch, as `batches` would: no image is another.

    Returns:
        The plan of all batches of one size; after it that of a last, shorter
        one, if there is one.
    """
    draws = [batches.draw(epoch, batch) for batch in range(len(batches))]
    shape = batches.images.shape[1:3]
    plans = [_plan_of(draw, shape) for draw in draws]
    whole = sum(len(draw.indices) == batches.batch_size for draw in draws)
    parts = plans[:whole], plans[whole:]
    return [
        {name: np.stack([plan[name] for plan in part]) for name in part[0]}
        for part in parts
        if part
    ]


def _plan_of(draw: Draw, shape: tuple[int, int]) -> Plan:
    """Arrays of one batch."""
    plan: dict[str, Any] = {"index": draw.indices.astype(np.int32)}
    if draw.crops is not None:
        plan["shifts"] = draw.crops.shifts.astype(np.uint8)
        plan["mirrored"] = draw.crops.mirrored
    if draw.mixed is None:
        return plan
    if draw.mixed.middles is not None:
        plan["middles"] = draw.mixed.middles.astype(np.int16)
    if draw.mixed.partners is not None:
        share, box = draw.mixed.share, draw.mixed.box
        plan["partners"] = draw.mixed.partners.astype(np.int32)
        # Rounded as NumPy rounds what it multiplies an array with.
        plan["shares"] = np.array([share, 1.0 - share], np.float32)
        plan["blended"] = np.bool_(box is None)
        plan["box"] = np.array(box or ((0, 0), (0, 0)), np.int16)
    return plan


def plan_in_order(images: int, batch_size: int) -> list[Plan]:
    """Returns the plan of `EvaluationBatches`: whole ones, then the rest."""
    order = np.arange(images, dtype=np.int32)
    whole = images // batch_size * batch_size
    parts = [order[:whole].reshape(-1, batch_size), order[None, whole:]]
    return [{"index": part} for part in parts if part.size]


def pixel_values(channels: int) -> np.ndarray:
    """Returns what `normalize` makes of each byte, `(256, channels)`.

    Looked up, not computed: a compiler may round once where NumPy rounds twice.
    """
    pixels = np.arange(256, dtype=np.uint8)
    return normalize(np.repeat(pixels[:, None], channels, axis=1))
