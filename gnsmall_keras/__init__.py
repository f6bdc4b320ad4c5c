"""GhostNetV3-Small in Keras 3: training, distillation, microcontrollers.

Public names are imported when they are first used, so that importing the
package loads no framework and chooses no backend.
"""

import importlib
from typing import TYPE_CHECKING, Any

from gnsmall_keras import version
from gnsmall_keras.quiet import quieten_notebook
from gnsmall_keras.registration import register_classes

if TYPE_CHECKING:
    from gnsmall_keras.config import ExportConfig as ExportConfig
    from gnsmall_keras.config import RunConfig as RunConfig
    from gnsmall_keras.data.augment import normalize as normalize
    from gnsmall_keras.data.dataset import Dataset as Dataset
    from gnsmall_keras.data.pixels import denormalization as denormalization
    from gnsmall_keras.data.sources import load_data as load_data
    from gnsmall_keras.devices.runtime import TFLiteModel as TFLiteModel
    from gnsmall_keras.distill.cache import cache_teacher as cache_teacher
    from gnsmall_keras.distill.checks import load_teacher as load_teacher
    from gnsmall_keras.distill.distiller import Distiller as Distiller
    from gnsmall_keras.distill.features import FeaturePair as FeaturePair
    from gnsmall_keras.distill.losses import (
        DistillationLoss as DistillationLoss,
    )
    from gnsmall_keras.distill.losses import (
        LabelCrossEntropy as LabelCrossEntropy,
    )
    from gnsmall_keras.distill.stored_teacher import (
        CachedTeacher as CachedTeacher,
    )
    from gnsmall_keras.distill.teachers import FrozenTeacher as FrozenTeacher
    from gnsmall_keras.distill.teachers import (
        TeacherEnsemble as TeacherEnsemble,
    )
    from gnsmall_keras.export.tflite import ExportReport as ExportReport
    from gnsmall_keras.export.tflite import export_tflite as export_tflite
    from gnsmall_keras.models.catalogue import list_models as list_models
    from gnsmall_keras.models.counting import count_blocks as count_blocks
    from gnsmall_keras.models.counting import count_macs as count_macs
    from gnsmall_keras.models.counting import (
        count_parameters as count_parameters,
    )
    from gnsmall_keras.models.deploy import to_deploy as to_deploy
    from gnsmall_keras.models.ghostnet import ghostnetv3 as ghostnetv3
    from gnsmall_keras.models.ghostnet import (
        ghostnetv3_small as ghostnetv3_small,
    )
    from gnsmall_keras.models.ghostnet import (
        ghostnetv3_small_nogate as ghostnetv3_small_nogate,
    )
    from gnsmall_keras.models.registry import create_model as create_model
    from gnsmall_keras.models.saving.files import load_model as load_model
    from gnsmall_keras.models.saving.files import save_model as save_model
    from gnsmall_keras.models.torch.weights import (
        load_torch_weights as load_torch_weights,
    )
    from gnsmall_keras.models.torch.weights import (
        to_torch_state_dict as to_torch_state_dict,
    )
    from gnsmall_keras.quantization.calibration import (
        calibration_split as calibration_split,
    )
    from gnsmall_keras.quantization.layer_errors import LayerError as LayerError
    from gnsmall_keras.quantization.qat import (
        QuantizationTraining as QuantizationTraining,
    )
    from gnsmall_keras.records.run import RunRecord as RunRecord
    from gnsmall_keras.records.run import read_records as read_records
    from gnsmall_keras.report.overview import Report as Report
    from gnsmall_keras.report.overview import read_report as read_report
    from gnsmall_keras.search.found import Fitted as Fitted
    from gnsmall_keras.search.search import fit as fit
    from gnsmall_keras.sweeps.plan import SweepConfig as SweepConfig
    from gnsmall_keras.sweeps.plan import read_sweep as read_sweep
    from gnsmall_keras.training.run import train as train

__version__ = version.__version__

register_classes()
quieten_notebook()

# What is where; the imports above say the same to editors.
_MODULES = {
    "config": "ExportConfig RunConfig",
    "data.augment": "normalize",
    "data.dataset": "Dataset",
    "data.sources": "load_data",
    "devices.runtime": "TFLiteModel",
    "distill.cache": "cache_teacher",
    "distill.checks": "load_teacher",
    "distill.distiller": "Distiller",
    "distill.features": "FeaturePair",
    "distill.losses": "DistillationLoss LabelCrossEntropy",
    "distill.stored_teacher": "CachedTeacher",
    "distill.teachers": "FrozenTeacher TeacherEnsemble",
    "export.tflite": "ExportReport export_tflite",
    "models.catalogue": "list_models",
    "models.counting": "count_blocks count_macs count_parameters",
    "models.deploy": "to_deploy",
    "models.saving.files": "load_model save_model",
    "models.ghostnet": "ghostnetv3 ghostnetv3_small ghostnetv3_small_nogate",
    "data.pixels": "denormalization",
    "models.registry": "create_model",
    "models.torch.weights": "load_torch_weights to_torch_state_dict",
    "quantization.calibration": "calibration_split",
    "quantization.layer_errors": "LayerError",
    "quantization.qat": "QuantizationTraining",
    "records.run": "RunRecord read_records",
    "report.overview": "Report read_report",
    "search.found": "Fitted",
    "search.search": "fit",
    "sweeps.plan": "SweepConfig read_sweep",
    "training.run": "train",
}
_PUBLIC = {
    name: module for module, names in _MODULES.items() for name in names.split()
}

__all__ = list(_PUBLIC)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in ("DistillConfig", "TrainConfig"):
        from gnsmall_keras.config import older_name

        return older_name(name)
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_PUBLIC[name]}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*_PUBLIC, *(n for n in globals() if n.startswith("__"))])
