"""One run by chunks of steps."""

import contextlib
from collections.abc import Iterator

import keras
import numpy as np

from gnsmall_keras.data.augment import pad
from gnsmall_keras.data.batches import EvaluationBatches, TrainingBatches
from gnsmall_keras.training.fitting import Fitting
from gnsmall_keras.training.scan import plan
from gnsmall_keras.training.scan.images import Shape
from gnsmall_keras.training.scan.loop import Part, Run, ScanLoop


def fit_by_chunks(fitting: Fitting) -> None:
    """Trains from the last checkpoint to the end, as Keras's `fit` would.

    Raises:
        MemoryError: if the device's memory is not enough.
        OSError: if the device fails.
    """
    before = fitting.before
    if before.epochs >= fitting.epochs:
        return
    distiller, batches = fitting.distiller, fitting.batches
    with (
        plain_errors(),
        distiller.fitting(batches.labels, fitting.validation),
    ):
        loop = ScanLoop(
            [run_of(fitting)],
            training_part(batches, batches.images, batches.labels),
            validation_part(fitting.validation, distiller),
            fitting.stage.stop,
        )
        loop.train(before.epochs, before.steps, fitting.epochs)


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Says in plain words what a device could not do."""
    from jax.errors import JaxRuntimeError

    try:
        yield
    except JaxRuntimeError as error:
        first = str(error).partition("\n")[0]
        if "RESOURCE_EXHAUSTED" in first:
            raise MemoryError(
                f"The device has too little for a chunk of steps: {first}. "
                "Lower `batch_size`, or set loop='steps'; the last checkpoint "
                "is kept."
            ) from None
        raise OSError(
            f"The device failed: {first}. The last checkpoint is kept; the "
            "same command goes on once the device is there."
        ) from None


def run_of(fitting: Fitting, **own) -> Run:
    """Returns a training as a loop has it; `own` are its own data there."""
    callbacks = keras.callbacks.CallbackList(
        fitting.callbacks,
        epochs=fitting.epochs,
        steps=len(fitting.batches),
        model=fitting.distiller,
    )
    return Run(fitting.distiller, fitting.batches, callbacks, **own)


def training_part(
    batches: TrainingBatches, images: np.ndarray, labels: np.ndarray
) -> Part:
    """Returns images to train on, with the borders of their crops.

    Args:
        batches: of one run.
        images, labels: its own, or those of several runs.
    """
    views = batches.views
    height, width = images.shape[1:3]
    return Part(
        _data(pad(images, views) if views.augment else images, labels),
        Shape(height, width, batches.classes or 0, batches.mixing.cutout),
    )


def validation_part(batches: EvaluationBatches | None, model) -> Part | None:
    """Returns images to validate on, with the plan of reading them."""
    if batches is None:
        return None
    height, width = batches.images.shape[1:3]
    return Part(
        _data(batches.images, batches.labels),
        Shape(height, width, model.student.output_shape[-1]),
        plan.plan_in_order(len(batches.images), batches.batch_size),
    )


def _data(images, labels):
    return {
        "images": images,
        "labels": np.asarray(labels, np.int32),
        "values": plan.pixel_values(images.shape[-1]),
    }
