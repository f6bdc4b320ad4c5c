"""Cost of a training step of GN-S 1.0, as ratios to other forms of it.

Usage: KERAS_BACKEND=tensorflow python benchmarks/train_step.py [batch] [steps]
                                                                [form ...]
       KERAS_BACKEND=tensorflow python benchmarks/train_step.py memory [batch]

"plain" computes every branch by itself, "branched" is the network as it is
trained, "fused" as it is deployed. All train in turn in one process, so that
the machine's mood touches them alike; medians are printed, and the ratios of
"branched" to the forms named, or both (XLA compiles "plain" for many minutes on
a CPU). "memory" prints the peak of three steps of each, over what was there
before the first, in processes of their own.
"""

import functools
import sys
from collections.abc import Sequence

import keras
import measure
import numpy as np

from gnsmall_keras import ghostnetv3_small, to_deploy
from gnsmall_keras.models.plain import to_branches
from gnsmall_keras.recipes import RECIPES
from gnsmall_keras.training.fit import compile_model

FORMS = {
    "plain": to_branches,
    "branched": lambda model: model,
    "fused": to_deploy,
}


def _batch(size):
    generator = np.random.default_rng(0)
    images = generator.normal(size=(size, 32, 32, 3)).astype("float32")
    return images, generator.integers(0, 10, size)


def _model(form):
    model = FORMS[form](ghostnetv3_small(1.0))
    compile_model(model, RECIPES["paper"], steps=1000)
    return model


def compare(batch_size: int, steps: int, others: Sequence[str]) -> None:
    """Trains the forms in turn and prints the ratios of their medians."""
    batch = _batch(batch_size)
    models = {form: _model(form) for form in ("branched", *others)}
    tasks = {
        form: functools.partial(model.train_on_batch, *batch)
        for form, model in models.items()
    }
    for task in tasks.values():
        task()
        task()
    median = measure.medians(tasks, steps)
    print(
        f"{keras.config.backend()}, batch {batch_size}, n={steps}: "
        + ", ".join(f"{name} {s:.3f} s" for name, s in median.items())
        + "; "
        + ", ".join(
            f"branched / {form} {median['branched'] / median[form]:.3f}"
            for form in others
        )
    )


def compare_memory(batch_size: int) -> None:
    """Prints the forms' peaks and the ratio of the first two."""
    peaks = {
        form: float(measure.in_own_process(__file__, form, str(batch_size)))
        for form in FORMS
    }
    print(
        f"{keras.config.backend()}, batch {batch_size}: peak "
        + ", ".join(f"{form} {peak:.0f} MiB" for form, peak in peaks.items())
        + f"; branched / plain {peaks['branched'] / peaks['plain']:.2f}"
    )


def _print_peak(form, batch_size):
    batch, model = _batch(batch_size), _model(form)

    def train():
        for _ in range(3):
            model.train_on_batch(*batch)

    print(measure.peak_of(train))


if __name__ == "__main__":
    first, second, *others = [*sys.argv[1:], *("256", "7")[len(sys.argv) - 1 :]]
    if first == "memory":
        compare_memory(int(second) if sys.argv[2:] else 256)
    elif first in FORMS:
        _print_peak(first, int(second))
    else:
        compare(int(first), int(second), others or ("plain", "fused"))
