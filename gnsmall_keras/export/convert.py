"""Keras to .tflite, in a process of its own on the TensorFlow backend.

`convert` starts the process, whatever backend the caller runs; the rest of
the file is what happens inside it (`python -m gnsmall_keras.export.convert`).
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

from gnsmall_keras.data.augment import MEAN, STD

_ERROR_LINES = 15  # of a failed worker's output


def convert(
    model: keras.Model,
    *,
    calibration_images: np.ndarray,
    input_dtype: str,
    probabilities: bool = False,
) -> bytes:
    """Returns `model` as an integer .tflite file.

    The file takes raw pixels of one image and does the normalisation itself.
    Calibration images are changed in two values so that the whole range of
    pixels is seen: the input's scale is then 1 and int8 means pixel - 128.

    Args:
        model: fused, of `keras.layers` alone, from normalised images to
            logits.
        calibration_images: uint8 `(n, height, width, 3)`.
        input_dtype: "int8" or "uint8".
        probabilities: whether to end in a softmax.

    Raises:
        ValueError: if TensorFlow cannot convert the model.
    """
    images = calibration_images.copy()
    images[0, 0, 0, :2] = 0, 255
    with tempfile.TemporaryDirectory(prefix="gnsmall-") as folder:
        work = Path(folder)
        model.save(work / "model.keras")
        np.save(work / "calibration.npy", images)
        job = {"input_dtype": input_dtype, "probabilities": probabilities}
        (work / "job.json").write_text(json.dumps(job))
        environment = {
            **os.environ,
            "KERAS_BACKEND": "tensorflow",
            "CUDA_VISIBLE_DEVICES": "",
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }
        done = subprocess.run(
            [sys.executable, "-m", "gnsmall_keras.export.convert", folder],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            lines = "\n".join(done.stderr.splitlines()[-_ERROR_LINES:])
            raise ValueError(
                "TensorFlow could not convert the model; its last lines "
                f"were:\n{lines}"
            )
        return (work / "model.tflite").read_bytes()


def _work(folder):
    import tensorflow as tf

    job = json.loads((folder / "job.json").read_text())
    model = keras.saving.load_model(folder / "model.keras", compile=False)
    images = np.load(folder / "calibration.npy").astype(np.float32)
    model = _from_pixels(model, probabilities=job["probabilities"])
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([x[None]] for x in images)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    dtype = {"int8": tf.int8, "uint8": tf.uint8}[job["input_dtype"]]
    converter.inference_input_type = dtype
    converter.inference_output_type = dtype
    (folder / "model.tflite").write_bytes(converter.convert())


def _from_pixels(model, *, probabilities):
    """Puts the normalisation in front, as one operator, for a batch of one.

    A softmax is put behind if probabilities are asked for.
    """
    shape = model.input_shape[1:]
    pixels = keras.Input(batch_shape=(1, *shape), name="pixels")
    normalize = keras.layers.DepthwiseConv2D(1, name="normalize")
    outputs = model(normalize(pixels))
    if probabilities:
        outputs = keras.layers.Softmax(name="probabilities")(outputs)
    scale = (1.0 / (255.0 * STD)).reshape(1, 1, -1, 1)
    normalize.set_weights([scale, -MEAN / STD])
    return keras.Model(pixels, outputs, name=model.name)


if __name__ == "__main__":
    _work(Path(sys.argv[1]))
