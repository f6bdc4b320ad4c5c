"""Experiments and exports as frozen values."""

import warnings
from typing import TYPE_CHECKING, Any

from gnsmall_keras.config.export import (
    QUANTIZATIONS,
    ExportConfig,
    Quantization,
)
from gnsmall_keras.config.run import (
    DIGEST_LENGTH,
    MIXING,
    TEACHING,
    Combine,
    Device,
    Distilling,
    Name,
    Protocol,
    RunConfig,
    check_label_weight,
    check_temperature,
    complete,
    normalize_weights,
)

if TYPE_CHECKING:
    TrainConfig = RunConfig
    DistillConfig = Distilling

__all__ = [
    "DIGEST_LENGTH",
    "MIXING",
    "QUANTIZATIONS",
    "TEACHING",
    "Combine",
    "Device",
    "Distilling",
    "ExportConfig",
    "Name",
    "Protocol",
    "Quantization",
    "RunConfig",
    "check_label_weight",
    "check_temperature",
    "complete",
    "normalize_weights",
]
_OLDER = {"TrainConfig": RunConfig, "DistillConfig": Distilling}


def older_name(name: str, *, stacklevel: int) -> Any:
    """Returns the config that a name of older versions stands for.

    Raises:
        AttributeError: if there was no such name.
    """
    if name not in _OLDER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    strategy = '(strategy="kd")' if name == "DistillConfig" else "()"
    warnings.warn(
        f"{name} is deprecated: use RunConfig{strategy}.",
        DeprecationWarning,
        stacklevel=stacklevel,
    )
    return _OLDER[name]


def __getattr__(name: str) -> Any:
    return older_name(name, stacklevel=3)
