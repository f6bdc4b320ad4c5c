"""What a .tflite file does on the runtimes that are installed."""

import re
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np

from gnsmall_keras.devices.checks import count_partitions
from gnsmall_keras.devices.runtime import TFLiteModel, installed_runtimes
from gnsmall_keras.training import evaluation
from gnsmall_keras.writing import UNFINISHED

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

    LiteRT's reference kernels lack some operators, as ELU; files with these
    are warned of, and not compared with them.

    Args:
        path: of the file, which messages call by its name in the end.
        deployed: the float network that it was made of.
        images: uint8; with none of them, nothing is compared.
        labels: class indices of `images`.
        target: as in `ExportConfig`.

    Raises:
        ValueError: if it tells no two images apart.
    """
    try:
        return _measure(path, deployed, images, labels, target)
    except ValueError as error:
        name = path.name.removeprefix(UNFINISHED)
        raise ValueError(str(error).replace(path.name, name)) from None


def _measure(path, deployed, images, labels, target):
    litert = TFLiteModel(path)
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
    reference = _on_reference(path) if integers else None
    of_reference = reference.predict_raw(compared) if reference else None
    if of_reference is not None:
        of_xnnpack = found[: len(compared)]
        measured["xnnpack_difference_lsb"] = _largest_difference(
            of_xnnpack, of_reference
        )
        measured["xnnpack_agreement"] = evaluation.agreement(
            of_xnnpack, of_reference
        )
    if micro:
        of_micro = micro.predict_raw(compared)
        if of_reference is not None:
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


def _on_reference(path):
    """The file on LiteRT's reference kernels; None if one is not there."""
    try:
        return TFLiteModel(path, runtime="litert-reference")
    except ValueError as error:
        lacking = re.search(r"find op for builtin opcode '(\w+)'", str(error))
        if not lacking:
            raise
        warnings.warn(
            f"LiteRT's reference kernels have no {lacking[1]}: XNNPACK and "
            "TensorFlow Lite Micro are not compared with them.",
            stacklevel=6,  # of who exports
        )
        return None


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
