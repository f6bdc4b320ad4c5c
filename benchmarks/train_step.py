"""Cost of a training step of GN-S 1.0: branched against fused, as a ratio.

Usage: KERAS_BACKEND=tensorflow python benchmarks/train_step.py [batch] [steps]

Both networks train in turn in one process, so that the machine's mood touches
both alike. Prints the median seconds of each and their ratio.
"""

import statistics
import sys
import time

import keras
import numpy as np

from gnsmall_keras import ghostnetv3_small, to_deploy
from gnsmall_keras.recipes import RECIPES
from gnsmall_keras.training.fit import compile_model


def main(batch_size: int, steps: int) -> None:
    """Trains both networks in turn and prints the ratio of their medians."""
    generator = np.random.default_rng(0)
    images = generator.normal(size=(batch_size, 32, 32, 3)).astype("float32")
    labels = generator.integers(0, 10, batch_size)
    branched = ghostnetv3_small(1.0)
    models = {"branched": branched, "fused": to_deploy(branched)}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for model in models.values():
        compile_model(model, RECIPES["paper"], steps=1000)
        model.train_on_batch(images, labels)
    for _ in range(steps):
        for name, model in models.items():
            began = time.perf_counter()
            model.train_on_batch(images, labels)
            seconds[name].append(time.perf_counter() - began)
    median = {name: statistics.median(s) for name, s in seconds.items()}
    print(
        f"{keras.config.backend()}, batch {batch_size}, n={steps}: branched "
        f"{median['branched']:.3f} s, fused {median['fused']:.3f} s, ratio "
        f"{median['branched'] / median['fused']:.2f}"
    )


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    main(*(given + [256, 7][len(given) :]))
