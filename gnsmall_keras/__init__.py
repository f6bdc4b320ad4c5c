"""GhostNetV3-Small in Keras 3: training, distillation, microcontrollers.

Public names are imported when they are first used, so that importing the
package loads no framework and chooses no backend.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "CachedTeacher": "distill.cache",
    "Dataset": "data.dataset",
    "DistillConfig": "config",
    "Distiller": "distill.distiller",
    "ExportConfig": "config",
    "ExportReport": "export.tflite",
    "FeaturePair": "distill.features",
    "FrozenTeacher": "distill.teachers",
    "LabelCrossEntropy": "distill.losses",
    "LayerError": "quantization.layer_errors",
    "QuantizationTraining": "quantization.qat",
    "Report": "report.overview",
    "RunRecord": "records.run",
    "SweepConfig": "sweeps.plan",
    "TFLiteModel": "devices.runtime",
    "TeacherEnsemble": "distill.teachers",
    "TrainConfig": "config",
    "cache_teacher": "distill.cache",
    "calibration_split": "quantization.calibration",
    "count_blocks": "models.counting",
    "count_macs": "models.counting",
    "count_parameters": "models.counting",
    "create_model": "models.registry",
    "export_tflite": "export.tflite",
    "ghostnetv3": "models.ghostnet",
    "ghostnetv3_small": "models.ghostnet",
    "load_data": "data.sources",
    "load_model": "models.files",
    "load_teacher": "distill.checks",
    "load_torch_weights": "models.torch.weights",
    "normalize": "data.augment",
    "read_records": "records.run",
    "read_report": "report.overview",
    "read_sweep": "sweeps.plan",
    "save_model": "models.files",
    "to_deploy": "models.deploy",
    "to_torch_state_dict": "models.torch.weights",
    "train": "training.run",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_PUBLIC[name]}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
