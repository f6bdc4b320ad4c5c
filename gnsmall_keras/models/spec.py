"""The networks as tables in paper units, and the counts they must have.

Source of every number: arXiv 2509.12380 and its authors' published code, see
docs/provenance.md. "gns" is GhostNetV3-Small, "gnd" the original GhostNetV3
with its first stride set to 1; "gns_nogate" is ours, "gns" without attention
gates.
"""

from collections.abc import Iterator
from typing import Annotated, NamedTuple

from gnsmall_keras.fields import Range, check

# Of CIFAR-10's pixels in [0, 1], per channel, as the paper uses them. Every
# source is normalised with them, so that a model file needs no numbers beside
# it.
PIXEL_MEAN = (0.4914, 0.4822, 0.4465)
PIXEL_STD = (0.2471, 0.2435, 0.2616)
# Of images that are read, in pixels of a side.
MIN_SIZE, MAX_SIZE, SIZE_STEP = 32, 128, 8
_GND_STEP = 16  # its maps are halved once more

STEM_CHANNELS = 16
HEAD_UNITS = 1280  # does not scale with the width
FIRST_GATED_BLOCK = 2  # blocks 0 and 1 have no attention gate
PAPER_WIDTHS = (1.0, 1.3, 1.6, 1.9, 2.2, 2.8, 3.4)
_Width = Annotated[
    float,
    Range(above=0, most=32, cure=f"the paper's widths are {PAPER_WIDTHS}"),
]


class Block(NamedTuple):
    """One ghost bottleneck in paper units (width 1.0)."""

    kernel: int
    hidden: int
    out: int
    se_ratio: float
    stride: int


# A row is a stage; its number and the block's place in it make the name, as in
# the original's state dict ("blocks.5.2" is `blocks_5_2` here).
GNS_STAGES: tuple[tuple[Block, ...], ...] = (
    # kernel, hidden, out, se_ratio, stride     output for a 32 x 32 input
    (Block(3, 16, 16, 0.00, 1),),  #            32 x 32
    (Block(3, 32, 20, 0.00, 2),),  #            16 x 16
    (Block(3, 40, 20, 0.00, 1),),
    (Block(3, 48, 32, 0.25, 1),),
    (Block(3, 64, 32, 0.25, 1),),
    (
        Block(3, 80, 48, 0.00, 2),  #             8 x 8
        Block(3, 96, 48, 0.00, 1),
        Block(3, 120, 64, 0.25, 1),
    ),
    (
        Block(3, 128, 80, 0.25, 1),
        Block(3, 160, 80, 0.25, 1),
    ),
)

GND_STAGES: tuple[tuple[Block, ...], ...] = (
    (Block(3, 16, 16, 0.00, 1),),  #            32 x 32
    (Block(3, 48, 24, 0.00, 2),),  #            16 x 16
    (Block(3, 72, 24, 0.00, 1),),
    (Block(5, 72, 40, 0.25, 2),),  #              8 x 8
    (Block(5, 120, 40, 0.25, 1),),
    (Block(3, 240, 80, 0.00, 2),),  #             4 x 4
    (
        Block(3, 200, 80, 0.00, 1),
        Block(3, 184, 80, 0.00, 1),
        Block(3, 184, 80, 0.00, 1),
        Block(3, 480, 112, 0.25, 1),
        Block(3, 672, 112, 0.25, 1),
    ),
    (Block(5, 672, 160, 0.25, 2),),  #            2 x 2
    (
        Block(5, 960, 160, 0.00, 1),
        Block(5, 960, 160, 0.25, 1),
        Block(5, 960, 160, 0.00, 1),
        Block(5, 960, 160, 0.25, 1),
    ),
)


class Counts(NamedTuple):
    """Pinned sizes of one network with 10 classes and 32 x 32 x 3 input."""

    parameters: int  # trainable, branched: as the paper counts
    deployed_parameters: int
    deployed_macs: int


# (network, width) -> counts. tests/models/test_networks.py checks every row and
# that every published width has one.
COUNTS: dict[tuple[str, float], Counts] = {
    ("gns", 0.25): Counts(91_494, 79_336, 982_176),
    ("gns", 0.5): Counts(195_038, 160_850, 2_818_176),
    ("gns", 0.75): Counts(327_150, 260_200, 5_492_512),
    ("gns", 1.0): Counts(483_554, 374_174, 8_962_176),
    ("gns", 1.3): Counts(712_198, 536_712, 14_311_328),
    ("gns", 1.6): Counts(973_606, 719_316, 20_829_312),
    ("gns", 1.9): Counts(1_277_070, 927_000, 29_022_944),
    ("gns", 2.2): Counts(1_617_674, 1_159_656, 38_014_304),
    ("gns", 2.8): Counts(2_426_850, 1_701_424, 59_466_208),
    ("gns", 3.4): Counts(3_380_066, 2_331_712, 86_629_408),
    ("gns_nogate", 0.25): Counts(86_022, 74_428, 860_832),
    ("gns_nogate", 0.5): Counts(179_630, 146_546, 2_470_656),
    ("gns_nogate", 0.75): Counts(296_862, 231_580, 4_800_160),
    ("gns_nogate", 1.0): Counts(434_050, 326_878, 7_823_744),
    ("gnd", 1.0): Counts(6_860_838, 4_857_526, 16_223_168),
}


class BlockPlan(NamedTuple):
    """One ghost bottleneck with the width applied; all sizes in channels."""

    name: str
    kernel: int
    hidden: int
    out: int
    squeeze: int  # 0: no squeeze-excite
    stride: int
    gate: bool


def make_divisible(value: float) -> int:
    """Rounds to a multiple of 4, never below 90 % of `value`."""
    rounded = max(4, int(value + 2) // 4 * 4)
    return rounded + 4 if rounded < 0.9 * value else rounded


def check_width(width: float) -> float:
    """Returns `width` as a float.

    Raises:
        ValueError: if `width` is not a number above 0 and at most 32.
    """
    return check("width", _Width, width)


def pixel_moments(channels: int) -> tuple[tuple[float, ...], ...]:
    """Returns mean and deviation of each channel of pixels in [0, 1].

    Those of one channel, grey, are the averages over the three.
    """
    if channels == len(PIXEL_MEAN):
        return PIXEL_MEAN, PIXEL_STD
    if channels != 1:
        raise ValueError(
            "Images must have 3 channels (RGB) or 1 (grey). Received: "
            f"{channels}."
        )
    mean, std = (sum(each) / len(each) for each in (PIXEL_MEAN, PIXEL_STD))
    return (mean,), (std,)


def check_image_size(size: int, model: str = "") -> None:
    """Checks the pixels of a side.

    Args:
        size: in pixels.
        model: the network that takes the images.

    Raises:
        ValueError: if it is outside the range, or no multiple of the step.
    """
    step = _GND_STEP if model == "gnd" else SIZE_STEP
    whole = isinstance(size, int) and not isinstance(size, bool)  # pyright: ignore[reportUnnecessaryIsInstance]
    if not whole or not MIN_SIZE <= size <= MAX_SIZE or size % step:
        of = f" for {model}" if step == _GND_STEP else ""
        raise ValueError(
            f"`image_size` must be a multiple of {step}{of} from {MIN_SIZE} to "
            f"{MAX_SIZE}. Received: {size!r}. Take, for example, 32, 64 or 96."
        )


def plan_blocks(
    stages: tuple[tuple[Block, ...], ...], width: float, *, gates: bool = True
) -> Iterator[BlockPlan]:
    """Yields every bottleneck of `stages` with its channels at `width`.

    Args:
        stages: of the network.
        width: channel multiplier.
        gates: whether there are attention gates.
    """
    index = 0
    for stage_index, stage in enumerate(stages):
        for block_index, block in enumerate(stage):
            hidden = make_divisible(block.hidden * width)
            squeeze = (
                make_divisible(hidden * block.se_ratio) if block.se_ratio else 0
            )
            yield BlockPlan(
                name=f"blocks_{stage_index}_{block_index}",
                kernel=block.kernel,
                hidden=hidden,
                out=make_divisible(block.out * width),
                squeeze=squeeze,
                stride=block.stride,
                gate=gates and index >= FIRST_GATED_BLOCK,
            )
            index += 1
