"""Experiments and exports as frozen values."""

import warnings
from typing import TYPE_CHECKING, Any

from gnsmall_keras.config.export import QUANTIZATIONS as QUANTIZATIONS
from gnsmall_keras.config.export import TRAINED as TRAINED
from gnsmall_keras.config.export import ExportConfig as ExportConfig
from gnsmall_keras.config.export import check_compression as check_compression
from gnsmall_keras.config.images import Facts as Facts
from gnsmall_keras.config.images import count_fitted as count_fitted
from gnsmall_keras.config.images import settle_images as settle_images
from gnsmall_keras.config.kinds import KERNELS as KERNELS
from gnsmall_keras.config.kinds import KERNELS_VARIABLE as KERNELS_VARIABLE
from gnsmall_keras.config.kinds import LOOP_VARIABLE as LOOP_VARIABLE
from gnsmall_keras.config.kinds import LOOPS as LOOPS
from gnsmall_keras.config.kinds import Aspect as Aspect
from gnsmall_keras.config.kinds import Combine as Combine
from gnsmall_keras.config.kinds import Device as Device
from gnsmall_keras.config.kinds import Kernels as Kernels
from gnsmall_keras.config.kinds import Loop as Loop
from gnsmall_keras.config.kinds import Protocol as Protocol
from gnsmall_keras.config.kinds import check_backend as check_backend
from gnsmall_keras.config.kinds import (
    check_label_smoothing as check_label_smoothing,
)
from gnsmall_keras.config.kinds import check_label_weight as check_label_weight
from gnsmall_keras.config.kinds import check_temperature as check_temperature
from gnsmall_keras.config.run import AUTO as AUTO
from gnsmall_keras.config.run import DIGEST_LENGTH as DIGEST_LENGTH
from gnsmall_keras.config.run import KNOWN_DATA as KNOWN_DATA
from gnsmall_keras.config.run import MIXING as MIXING
from gnsmall_keras.config.run import TEACHING as TEACHING
from gnsmall_keras.config.run import Distilling as Distilling
from gnsmall_keras.config.run import Name as Name
from gnsmall_keras.config.run import RunConfig as RunConfig
from gnsmall_keras.config.run import complete as complete
from gnsmall_keras.config.together import check_together as check_together
from gnsmall_keras.config.together import fits as fits
from gnsmall_keras.config.weights import normalize_weights as normalize_weights

if TYPE_CHECKING:
    TrainConfig = RunConfig
    DistillConfig = Distilling

_OLDER = {"TrainConfig": RunConfig, "DistillConfig": Distilling}


def older_name(name: str) -> Any:
    """Returns the config that a name of older versions stands for.

    For a module's `__getattr__`: the warning is of the line that asked it.

    Raises:
        AttributeError: if there was no such name.
    """
    if name not in _OLDER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    strategy = '(strategy="kd")' if name == "DistillConfig" else "()"
    warnings.warn(
        f"{name} is deprecated: use RunConfig{strategy}.",
        DeprecationWarning,
        stacklevel=3,
    )
    return _OLDER[name]


def __getattr__(name: str) -> Any:
    return older_name(name)
