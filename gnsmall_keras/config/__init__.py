"""Experiments and exports as frozen values."""

import warnings
from typing import TYPE_CHECKING, Any

from gnsmall_keras.config.export import QUANTIZATIONS as QUANTIZATIONS
from gnsmall_keras.config.export import ExportConfig as ExportConfig
from gnsmall_keras.config.run import DIGEST_LENGTH as DIGEST_LENGTH
from gnsmall_keras.config.run import KERNELS as KERNELS
from gnsmall_keras.config.run import KERNELS_VARIABLE as KERNELS_VARIABLE
from gnsmall_keras.config.run import MIXING as MIXING
from gnsmall_keras.config.run import TEACHING as TEACHING
from gnsmall_keras.config.run import Combine as Combine
from gnsmall_keras.config.run import Device as Device
from gnsmall_keras.config.run import Distilling as Distilling
from gnsmall_keras.config.run import Kernels as Kernels
from gnsmall_keras.config.run import Name as Name
from gnsmall_keras.config.run import Protocol as Protocol
from gnsmall_keras.config.run import RunConfig as RunConfig
from gnsmall_keras.config.run import check_label_weight as check_label_weight
from gnsmall_keras.config.run import check_temperature as check_temperature
from gnsmall_keras.config.run import complete as complete
from gnsmall_keras.config.run import normalize_weights as normalize_weights

if TYPE_CHECKING:
    TrainConfig = RunConfig
    DistillConfig = Distilling

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
