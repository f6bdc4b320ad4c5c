"""Memory that tensors share which do not live at once."""

_ALIGNMENT = 16


def plan_arena(lifetimes: dict[int, tuple[int, int]], sizes: dict[int, int]):
    """Places tensors so that those alive at once do not overlap.

    Args:
        lifetimes: first and last operator of each tensor.
        sizes: in bytes.

    Returns:
        Their offsets, and the bytes in all. The largest go first, each to the
        lowest place that is free.
    """
    offsets: dict[int, int] = {}
    for tensor in sorted(sizes, key=lambda each: (-sizes[each], each)):
        first, last = lifetimes[tensor]
        taken = sorted(
            (offsets[other], offsets[other] + sizes[other])
            for other in offsets
            if lifetimes[other][0] <= last and first <= lifetimes[other][1]
        )
        place = 0
        for start, end in taken:
            if place + sizes[tensor] <= start:
                break
            place = max(place, -(-end // _ALIGNMENT) * _ALIGNMENT)
        offsets[tensor] = place
    total = max(offsets[each] + sizes[each] for each in offsets)
    return offsets, total
