"""Weights that pack better, by tensorflow-model-optimization.

Weights of few values, or half of them zero, take the same flash and the same
operators, and fewer bytes once compressed: what an update over the air costs.
tfmot knows tf_keras alone, so that a process of its own does it
(`quantization.twin`).
"""

import contextlib
import importlib.util
import json
from collections.abc import Iterator
from typing import NamedTuple

import keras

from gnsmall_keras.child import Worker, working
from gnsmall_keras.config import check_compression
from gnsmall_keras.quantization.qat import QuantizationTraining

MODEL_FILE, JOB_FILE = "model.keras", "job.json"
RESULT_FILE = "model.tflite"
_TWIN = "gnsmall_keras.quantization.twin"
_TRAINING = "gnsmall_keras.quantization.tfmot_training"
_ENVIRONMENT = {
    "KERAS_BACKEND": "tensorflow",
    "TF_USE_LEGACY_KERAS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}


class Compression(NamedTuple):
    """How weights are made to pack better.

    Attributes:
        kind: "cluster" or "prune".
        amount: of values for each kernel, or the share of zeros.
    """

    kind: str
    amount: float

    @classmethod
    def parse(cls, text: str) -> "Compression":
        """Reads "cluster:32" or "prune:0.5".

        Raises:
            ValueError: as `config.check_compression`.
        """
        return cls(*check_compression(text))


def compress(
    model: keras.Model,
    compression: Compression,
    training: QuantizationTraining,
) -> keras.Model:
    """Returns a copy of a fused network with weights that pack better.

    The network is fine-tuned while its weights are clustered or pruned.

    Args:
        model: fused, of `keras.layers` alone.
        compression: what is done to kernels of convolutions and dense layers.
        training: on what; its teacher, the float network, is needed.

    Raises:
        ValueError: if tfmot is not installed, or knows a layer not.
    """
    with _twin(_TWIN, model, training) as worker:
        (worker.folder / JOB_FILE).write_text(json.dumps(compression._asdict()))
        worker.finish("tensorflow-model-optimization failed")
        return keras.saving.load_model(
            worker.folder / MODEL_FILE, compile=False
        )


def quantize_by_tfmot(
    model: keras.Model, training: QuantizationTraining, input_dtype: str
) -> bytes:
    """Returns the int8 file of tfmot's own quantisation-aware training.

    Args:
        model: fused, of `keras.layers` alone, from normalised images to logits.
        training: on what; its teacher, the float network, is needed.
        input_dtype: of input and output, "int8" or "uint8".

    Raises:
        ValueError: as `compress`.
    """
    with _twin(_TRAINING, model, training) as worker:
        (worker.folder / JOB_FILE).write_text(
            json.dumps({"dtype": input_dtype})
        )
        worker.finish("tensorflow-model-optimization failed")
        return (worker.folder / RESULT_FILE).read_bytes()


@contextlib.contextmanager
def _twin(
    module: str, model: keras.Model, training: QuantizationTraining
) -> Iterator[Worker]:
    """A process with tf_keras, and what it works on in its folder."""
    check_tfmot()
    if training.teacher is None:
        raise ValueError(
            "`training` must have a teacher, as the float network. "
            "Received: None."
        )
    with working(module, _ENVIRONMENT, speaks=True) as worker:
        model.save(worker.folder / MODEL_FILE)
        training.save(worker.folder)
        yield worker


def check_tfmot() -> None:
    """Checks that tensorflow-model-optimization is installed.

    Raises:
        ValueError: otherwise, with the extra that has it.
    """
    missing = [
        name
        for name in ("tensorflow_model_optimization", "tf_keras")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise ValueError(
            "tensorflow-model-optimization compresses and quantises on "
            f"tf_keras. Missing: {', '.join(missing)}. Run: pip install "
            "'gnsmall-keras[tfmot]'"
        )
