"""Less of a network before it becomes a file.

Fewer units, no gates that are constant, and weights that pack better.
"""

import dataclasses

import keras
import numpy as np

from gnsmall_keras.config import ExportConfig
from gnsmall_keras.data.dataset import Dataset
from gnsmall_keras.export.equalized import with_equalized_channels
from gnsmall_keras.export.gates import fold_gates
from gnsmall_keras.models.deploy import to_deploy
from gnsmall_keras.quantization.calibration import calibration_split
from gnsmall_keras.quantization.compression import Compression, compress
from gnsmall_keras.quantization.head import narrow_head
from gnsmall_keras.quantization.qat import prepare_training
from gnsmall_keras.records.run import RunRecord


def make_small(
    deployed: keras.Model, config: ExportConfig, images: np.ndarray
) -> tuple[keras.Model, list[str]]:
    """Returns a fused network without some units, and without some gates.

    Args:
        deployed: fused.
        config: what kind of file it is for; says how many units stay.
        images: that tell which do, uint8 `(n, height, width, 3)`.

    Returns:
        The network, and the names of the gates that it does without.
    """
    if config.head_units is not None:
        deployed = narrow_head(deployed, config.head_units, images)
    return fold_gates(deployed)


def make_packable(
    network: keras.Model,
    dataset: Dataset,
    config: ExportConfig,
    run: RunRecord | None,
) -> tuple[keras.Model, list[str]]:
    """Returns the fused network with weights that pack better.

    It is made small first: a factor of a gate, or of a channel, would give a
    kernel of few values many. The float network teaches it.

    Args:
        network: branched or fused.
        dataset: its training split is learned from.
        config: of the file, with `compress`.
        run: that the network came of.

    Returns:
        The network, and the names of the gates that it does without.
    """
    teaching = dataclasses.replace(
        config,
        compress="",
        quantization="int8-qat",
        qat_images=config.compress_images,
    )
    training = prepare_training(network, dataset, teaching, run)
    images = calibration_split(dataset, config.calibration_size)
    small, gates = make_small(to_deploy(network), config, images)
    if config.calibration == "mse":
        small = with_equalized_channels(small, images)
    how = Compression.parse(config.compress)
    return compress(small, how, training), gates
