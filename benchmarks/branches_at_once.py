"""Branches at once, as on GPUs, against statistics of the input, on JAX.

Usage: KERAS_BACKEND=jax python benchmarks/branches_at_once.py [batch] [steps]

Lines of StableHLO, seconds to compile and to take a step of GN-S 1.0 with the
recipe "paper", each way by itself, and their ratios; a step's is the median.
Minutes on a CPU.
"""

import statistics
import sys
import time

import numpy as np

from gnsmall_keras import ghostnetv3_small
from gnsmall_keras.models import kernels
from gnsmall_keras.recipes import RECIPES
from gnsmall_keras.training.devices import on_devices
from gnsmall_keras.training.fit import compile_model

WAYS = {"at once": True, "statistics": False}


def state_of(model):
    """Returns what a step of `model` takes and gives back, by kinds."""
    return tuple(
        [variable.value for variable in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )
    )


def measure(batch_size: int, steps: int) -> dict[str, float]:
    """Returns lines and seconds of the way that is set."""
    import jax

    generator = np.random.default_rng(0)
    images = generator.normal(size=(batch_size, 32, 32, 3)).astype("float32")
    batch = images, generator.integers(0, 10, batch_size)
    model = ghostnetv3_small(1.0)
    compile_model(model, RECIPES["paper"], steps=1000)
    lowered = jax.jit(model.train_step, donate_argnums=0).lower(
        state_of(model), batch
    )
    began = time.perf_counter()
    step = lowered.compile()
    seconds = [time.perf_counter() - began]
    _, state = step(state_of(model), batch)
    for _ in range(steps):
        began = time.perf_counter()
        _, state = step(state, batch)
        jax.block_until_ready(state)
        seconds.append(time.perf_counter() - began)
    return {
        "lines": lowered.as_text().count("\n"),
        "s to compile": seconds[0],
        "s a step": statistics.median(seconds[1:]),
    }


if __name__ == "__main__":
    size, count = map(int, [*sys.argv[1:], *("256", "7")[len(sys.argv) - 1 :]])
    found = {}
    with on_devices() as devices:
        for way, at_once in WAYS.items():
            kernels.is_jax_on_gpu = lambda at_once=at_once: at_once
            found[way] = measure(size, count)
    first, second = found.values()
    print(
        f"{', '.join(devices)}, batch {size}, n={count}, at once / statistics:"
    )
    for name, value in first.items():
        print(
            f"{name}: {value:,.2f} / {second[name]:,.2f} = "
            f"{value / second[name]:.3f}"
        )
