"""A float .tflite network as integers; runs in the export process."""

from collections.abc import Sequence

import numpy as np

from gnsmall_keras.export.graph import Graph
from gnsmall_keras.quantization.calibration import find_extremes, set_ranges
from gnsmall_keras.quantization.equalize import equalize


def prepare(
    network: Graph,
    images: np.ndarray,
    calibration: str,
    *,
    equalized: bool = False,
) -> None:
    """Gives a float network all that quantisation needs to know.

    Args:
        network: changed in place: its ranges and, with "mse", its channels'
            factors, which leave what it computes as it was.
        images: calibration images, uint8 `(n, height, width, 3)`.
        calibration: "minmax", or "mse", which equalises channels first.
        equalized: whether they have been equalised before.
    """
    if calibration == "mse" and not equalized:
        equalize_on_images(network, images)
    set_ranges(network, images, calibration)


def equalize_on_images(
    network: Graph, images: np.ndarray, fixed: Sequence[int] = ()
) -> None:
    """Rescales channels by the magnitudes that they have on some images.

    Args:
        network: float; changed in place.
        images: uint8 `(n, height, width, 3)`.
        fixed: tensors whose channels stay as they are.
    """
    lows, highs = find_extremes(network.to_bytes(), images)
    magnitudes = {
        tensor: np.maximum(np.abs(lows[tensor]), np.abs(highs[tensor]))
        for tensor in lows
    }
    equalize(network, magnitudes, fixed=fixed)


def to_integers(
    network: Graph, *, input_dtype: str, float_layers: Sequence[str] = ()
) -> bytes:
    """Returns the int8 file of a prepared network.

    Weights have a scale for each channel, those of dense layers one for all:
    Edge TPUs and older kernels of microcontrollers know no other.

    Args:
        network: float, with ranges.
        input_dtype: of input and output, "int8" or "uint8".
        float_layers: layers of the Keras model whose operators stay float.

    Raises:
        ValueError: if there is no such layer.
    """
    import tensorflow as tf
    from tensorflow.lite.python import convert

    dtype = tf.as_dtype(input_dtype)
    return convert.mlir_quantize(
        network.to_bytes(),
        input_data_type=dtype,
        output_data_type=dtype,
        denylisted_nodes=_nodes(network, float_layers),
        disable_per_channel_for_dense_layers=True,
    )


def _nodes(network, layers):
    known = {operator.layer for operator in network.operators}
    unknown = sorted(set(layers) - known)
    if unknown:
        raise ValueError(
            "`float_layers` must be layers of the fused model that are "
            f"operators of the file. Received: {unknown}. There are: "
            f"{', '.join(sorted(known))}."
        )
    return [
        network.name(operator.outputs[0])
        for operator in network.operators
        if operator.layer in layers
    ]
