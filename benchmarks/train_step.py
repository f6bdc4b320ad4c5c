"""Cost of a training step of GN-S 1.0, as ratios of three forms of it.

Usage: KERAS_BACKEND=tensorflow python benchmarks/train_step.py [batch] [steps]

"plain" computes every branch by itself, "branched" is the network as it is
trained, "fused" as it is deployed. All train in turn in one process, so that
the machine's mood touches them alike; medians and ratios are printed.
"""

import statistics
import sys
import time

import keras
import numpy as np

from gnsmall_keras import ghostnetv3_small, to_deploy
from gnsmall_keras.models.plain import to_branches
from gnsmall_keras.recipes import RECIPES
from gnsmall_keras.training.fit import compile_model


def main(batch_size: int, steps: int) -> None:
    """Trains the forms in turn and prints the ratios of their medians."""
    generator = np.random.default_rng(0)
    images = generator.normal(size=(batch_size, 32, 32, 3)).astype("float32")
    labels = generator.integers(0, 10, batch_size)
    branched = ghostnetv3_small(1.0)
    models = {
        "plain": to_branches(branched),
        "branched": branched,
        "fused": to_deploy(branched),
    }
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for model in models.values():
        compile_model(model, RECIPES["paper"], steps=1000)
        for _ in range(2):
            model.train_on_batch(images, labels)
    for _ in range(steps):
        for name, model in models.items():
            began = time.perf_counter()
            model.train_on_batch(images, labels)
            seconds[name].append(time.perf_counter() - began)
    median = {name: statistics.median(s) for name, s in seconds.items()}
    print(
        f"{keras.config.backend()}, batch {batch_size}, n={steps}: "
        + ", ".join(f"{name} {s:.3f} s" for name, s in median.items())
        + f"; branched / plain {median['branched'] / median['plain']:.3f}, "
        f"branched / fused {median['branched'] / median['fused']:.2f}"
    )


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    main(*(given + [256, 7][len(given) :]))
