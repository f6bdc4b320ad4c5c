"""A network as the engine takes it: numbers, and where its weights are."""

from collections.abc import Iterator
from typing import NamedTuple

from gnsmall_keras.models import spec

_BRANCHES = 3


class NetworkPlan(NamedTuple):
    """Sizes of one network; all in pixels and channels."""

    height: int
    width: int
    channels: int  # of an image
    classes: int
    stem: int  # channels of the stem
    blocks: tuple[spec.BlockPlan, ...]
    last: int  # channels of the last convolution, before pooling
    head_units: int


class Weight(NamedTuple):
    """A weight by its Keras layer, its name in it and its shape."""

    layer: str
    name: str
    shape: tuple[int, ...]


def parameters_of(plan: NetworkPlan) -> tuple[Weight, ...]:
    """Returns the trainable weights, in the order of the flat vector."""
    return tuple(_select(plan, trainable=True))


def statistics_of(plan: NetworkPlan) -> tuple[Weight, ...]:
    """Returns the moving statistics, in the order of the flat vector."""
    return tuple(_select(plan, trainable=False))


def numbers_of(plan: NetworkPlan) -> list[int]:
    """Returns the plan as `gns_create` takes it."""
    numbers = [
        plan.height,
        plan.width,
        plan.channels,
        plan.classes,
        plan.stem,
        plan.last,
        plan.head_units,
    ]
    for block in plan.blocks:
        numbers += [
            block.kernel,
            block.hidden,
            block.out,
            block.squeeze,
            block.stride,
            int(block.gate),
        ]
    return numbers


def _select(plan: NetworkPlan, *, trainable: bool) -> Iterator[Weight]:
    for weight in _weights(plan):
        if ("_moving_" not in weight.name) == trainable:
            yield weight


def _weights(plan: NetworkPlan) -> Iterator[Weight]:
    yield from _conv("stem", plan.channels, plan.stem, size=3)
    channels = plan.stem
    for block in plan.blocks:
        yield from _block(block, channels)
        channels = block.out
    # As in models/ghostnet.py, the last layer counts as one more stage.
    stage = int(plan.blocks[-1].name.split("_")[1]) + 1
    yield from _conv(f"blocks_{stage}_0_conv", channels, plan.last)
    yield from _dense("head_conv", plan.last, plan.head_units)
    yield from _dense("classifier", plan.head_units, plan.classes)


def _block(block: spec.BlockPlan, channels: int) -> Iterator[Weight]:
    name, hidden = block.name, block.hidden
    yield from _ghost(f"{name}_ghost1", channels, hidden)
    if block.gate:
        gate = f"{name}_ghost1_gate"
        yield from _conv(f"{gate}_conv", channels, hidden)
        yield from _depthwise(f"{gate}_row", (1, 5), hidden)
        yield from _depthwise(f"{gate}_column", (5, 1), hidden)
    size = (block.kernel, block.kernel)
    if block.stride == 2:
        yield from _depthwise(
            f"{name}_dw", size, hidden, branches=_BRANCHES, groups=("scale",)
        )
    if block.squeeze:
        yield from _dense(f"{name}_se_reduce", hidden, block.squeeze)
        yield from _dense(f"{name}_se_expand", block.squeeze, hidden)
    yield from _ghost(f"{name}_ghost2", hidden, block.out)
    if block.stride != 1 or channels != block.out:
        yield from _depthwise(f"{name}_shortcut_dw", size, channels)
        yield from _conv(f"{name}_shortcut_conv", channels, block.out)


def _ghost(name: str, channels: int, filters: int) -> Iterator[Weight]:
    half = (filters + 1) // 2
    groups = ("identity",) if channels == half else ()
    yield from _conv(
        f"{name}_primary", channels, half, branches=_BRANCHES, groups=groups
    )
    yield from _depthwise(
        f"{name}_cheap",
        (3, 3),
        half,
        branches=_BRANCHES,
        groups=("scale", "identity"),
    )


def _conv(
    name: str,
    channels: int,
    filters: int,
    *,
    size: int = 1,
    branches: int = 1,
    groups: tuple[str, ...] = (),
) -> Iterator[Weight]:
    shape = (branches, size, size, channels, filters)
    yield Weight(name, "kernel", shape)
    yield from _norm(name, "conv", (branches, filters))
    for group in groups:
        yield from _norm(name, group, (filters,))


def _depthwise(
    name: str,
    size: tuple[int, int],
    channels: int,
    *,
    branches: int = 1,
    groups: tuple[str, ...] = (),
) -> Iterator[Weight]:
    yield Weight(name, "kernel", (branches, *size, channels))
    if "scale" in groups:
        yield Weight(name, "scale_kernel", (channels,))
    yield from _norm(name, "conv", (branches, channels))
    for group in groups:
        yield from _norm(name, group, (channels,))


def _norm(name: str, group: str, shape: tuple[int, ...]) -> Iterator[Weight]:
    for suffix in ("gamma", "beta", "moving_mean", "moving_variance"):
        yield Weight(name, f"{group}_{suffix}", shape)


def _dense(name: str, channels: int, filters: int) -> Iterator[Weight]:
    yield Weight(name, "kernel", (1, 1, channels, filters))
    yield Weight(name, "bias", (filters,))
