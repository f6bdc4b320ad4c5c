"""Augmented images per second that the input pipeline feeds to an empty step.

Usage: KERAS_BACKEND=tensorflow python benchmarks/input_pipeline.py [recipe]

`model.fit` runs over 50,000 made-up images of the size of CIFAR-10 with a model
that only takes the mean of its input, for two epochs; the second one is timed.
The ratio is to reading the same pixels without any augmentation.
"""

import sys
import time

import keras
import numpy as np

from gnsmall_keras.config import RunConfig
from gnsmall_keras.data.dataset import Dataset
from gnsmall_keras.training.experiment import resolve
from gnsmall_keras.training.splits import Split, batches

IMAGES = 50_000


class _Clock(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds = time.perf_counter() - self.began


def _rate(config):
    generator = np.random.default_rng(0)
    shape = (IMAGES, 32, 32, 3)
    images = generator.integers(0, 256, shape, np.uint8)
    labels = np.zeros(IMAGES)
    learning = resolve(config).learning
    split, none = Split(images, labels), Split(images[:0], labels[:0])
    dataset = Dataset("noise", *split, *none, class_names=("noise",))
    data = batches(split, learning, dataset)
    inputs = keras.Input(shape[1:])
    outputs = keras.layers.GlobalAveragePooling2D()(inputs)
    model = keras.Model(inputs, keras.ops.mean(outputs, axis=1))
    model.compile(optimizer="sgd", loss="mse", jit_compile=False)
    clock = _Clock()
    model.fit(data, epochs=2, shuffle=False, verbose=0, callbacks=[clock])
    return IMAGES / clock.seconds


def main(recipe: str) -> None:
    """Prints the rate, and its ratio to that without augmentation."""
    options = {"recipe": recipe, "batch_size": 256}
    augmented = _rate(RunConfig(**options))
    plain = _rate(RunConfig(**options, augment=False))
    print(
        f"{keras.config.backend()}, recipe {recipe}, batch 256: "
        f"{augmented:,.0f} augmented images/s; {augmented / plain:.2f} of "
        f"{plain:,.0f} without augmentation"
    )


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["best"]))
