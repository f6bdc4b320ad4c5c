"""What a .tflite file does on the runtimes that are installed."""

from pathlib import Path
from typing import Any

import keras
import numpy as np

from gnsmall_keras.devices.checks import count_partitions
from gnsmall_keras.devices.runtime import TFLiteModel, installed_runtimes
from gnsmall_keras.training import evaluation

# On so many the runtimes are compared; microcontroller kernels take some 16 ms
# an image on a PC.
COMPARED_IMAGES = 500


def measure(
    path: Path,
    deployed: keras.Model,
    images: np.ndarray,
    labels: np.ndarray | None,
    target: str,
) -> dict[str, Any]:
    """Runs a file on every runtime that can; returns fields of its report.

    Args:
        path: of the file.
        deployed: the float network that it was made of.
        images: uint8; with none of them, nothing is compared.
        labels: class indices of `images`.
        target: as in `ExportConfig`.

    Raises:
        ValueError: if it tells no two images apart.
    """
    litert, reference = (
        TFLiteModel(path, runtime=runtime)
        for runtime in ("litert", "litert-reference")
    )
    micro, faults = _on_micro(path, target)
    compared = images[:COMPARED_IMAGES]
    measured: dict[str, Any] = {
        "faults": faults,
        "xnnpack_partitions": count_partitions(path.read_bytes()),
        "arena_bytes": micro.arena_bytes if micro else None,
        "evaluated_images": len(images),
        "compared_images": len(compared),
        "float_accuracy": None,
        "accuracy": None,
        "micro_accuracy": None,
        "agreement": None,
        "xnnpack_difference_lsb": None,
        "xnnpack_agreement": None,
        "micro_difference_lsb": None,
    }
    if not len(images):
        return measured
    floats = evaluation.predict_logits(deployed, images)
    found = litert.predict_raw(images)
    _check_varied(found, images, path)
    measured["agreement"] = evaluation.agreement(found, floats)
    if labels is not None:
        measured["float_accuracy"] = evaluation.accuracy(floats, labels)
        measured["accuracy"] = evaluation.accuracy(found, labels)
    integers = np.issubdtype(found.dtype, np.integer)
    of_reference = reference.predict_raw(compared) if integers else None
    if integers:
        of_xnnpack = found[: len(compared)]
        measured["xnnpack_difference_lsb"] = _largest_difference(
            of_xnnpack, of_reference
        )
        measured["xnnpack_agreement"] = evaluation.agreement(
            of_xnnpack, of_reference
        )
    if micro:
        of_micro = micro.predict_raw(compared)
        if integers:
            measured["micro_difference_lsb"] = _largest_difference(
                of_micro, of_reference
            )
        if labels is not None:
            measured["micro_accuracy"] = evaluation.accuracy(
                of_micro, labels[: len(compared)]
            )
    return measured


def _check_varied(found, images, path):
    """A network that diverged says the same of every image."""
    if (images == images[0]).all() or (found != found[0]).any():
        return
    raise ValueError(
        f"{path.name} gives all {len(images):,} test images the same outputs: "
        "the training diverged or learned nothing. Train again, at a lower "
        "rate (--recipe finetune, --peak-learning-rate 0.01)."
    )


def _on_micro(path, target):
    """The file on TFLite Micro, or None, and what is wrong with that.

    Nothing is, of a file for other devices, or where it is not installed.
    """
    if "tflite-micro" not in installed_runtimes():
        return None, []
    try:
        return TFLiteModel(path, runtime="tflite-micro"), []
    except ValueError as error:
        return None, [str(error)] if target == "micro" else []


def _largest_difference(values, others):
    return int(np.abs(values.astype(np.int64) - others).max())
