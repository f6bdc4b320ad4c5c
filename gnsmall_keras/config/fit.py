"""What a search for the best network of a device may use, as a frozen value."""

import dataclasses
from typing import Annotated, Literal

from gnsmall_keras import fields
from gnsmall_keras.config.kinds import Aspect, Count, Fraction
from gnsmall_keras.devices.targets import BUDGETS
from gnsmall_keras.fields import Range
from gnsmall_keras.models.spec import check_image_size

BudgetName = Literal["256k", "512k", "1m"]
Seconds = Annotated[float, Range(above=0)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Images, limits of a device, and how long to try.

    Raises:
        ValueError: if a value breaks its rule.
    """

    data: str
    """A path to images, or "digits", "cifar10" or "cifar100"."""
    budget: BudgetName | None = None
    """Memory of a microcontroller: 256 KB of flash and 64 KB of arena, 512 and
    128 KB, or 1 MB and 256 KB; 72 KB of the flash are for code. None: 1 MB.
    `max_bytes` and `max_arena` each replace one of its limits."""
    max_bytes: Count | None = None
    """Most bytes of the .tflite file; None: the budget's."""
    max_arena: Count | None = None
    """Most bytes of working memory on TensorFlow Lite Micro; None: the
    budget's."""
    seconds: Seconds = 1800.0
    """Time limit; the best network found by then is exported."""
    sizes: Count = 3
    """How many sizes of the network are tried, the largest that fit."""
    image_size: int = 32
    """Pixels of a side, a multiple of 8 from 32 to 128."""
    channels: Literal[3, 1] = 3
    """Channels of the images: 3 is RGB, 1 is grey."""
    aspect: Aspect = "crop"
    """How images become square: "crop" (the middle), "pad" (black borders) or
    "squash"."""
    flip: bool | None = None
    """Whether a mirrored image keeps its class; None: not for digits."""
    skip_broken: bool = False
    """Whether to go on without images that cannot be read."""
    validation_fraction: Fraction = 0.15
    """Part of the training images that networks are compared on, where these
    have no validation split."""
    seed: Annotated[int, Range(least=0)] = 0
    """Seed of the split, initial weights, data order and augmentation."""

    def __post_init__(self):
        fields.settle(self)
        check_image_size(self.image_size, "gns")

    @property
    def file_bytes(self) -> int:
        """The most that a file may have."""
        return self.max_bytes or self._budget.file_bytes

    @property
    def arena_bytes(self) -> int:
        """The largest arena."""
        return self.max_arena or self._budget.arena_bytes

    @property
    def _budget(self):
        return BUDGETS[self.budget or "1m"]
