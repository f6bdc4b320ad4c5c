"""Training steps and inference by native kernels and by others, in turn.

Usage: KERAS_BACKEND=tensorflow python benchmarks/native.py [width ...]
                                                            [-b batch ...]

Prints, on one core and on two, images a second of GN-S: native, by Keras's
backend ("keras"), branch by branch ("plain", at width 1.0 and batch 64 alone:
it takes minutes to trace), and of ResNet-20 in the same framework, which is a
reference from outside. GMAC/s are of the fused network, thrice for a step.
Medians of 7 rounds, each form once a round.
"""

import functools
import os
import subprocess
import sys

ROUNDS = 7
WIDTHS = (0.25, 0.5, 1.0, 2.8)
BATCHES = (64, 256)
_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)


def main(widths, batches) -> None:
    """Prints a table for each number of cores, from a process of its own."""
    for cores in (1, 2):
        number = dict.fromkeys(_THREADS, str(cores))
        for width in widths:
            for batch in batches:
                subprocess.run(
                    [sys.executable, __file__, "one", str(width), str(batch)],
                    env={**os.environ, **number, "GNSMALL_KERNELS": "auto"},
                    check=True,
                )


def compare(width: float, size: int) -> None:
    """Prints one width's and batch's rows."""
    import keras
    import measure
    import numpy as np

    from gnsmall_keras import count_macs, ghostnetv3_small, to_deploy
    from gnsmall_keras.models.plain import to_branches
    from gnsmall_keras.native.choice import network_for_inference

    cores = int(os.environ[_THREADS[0]])
    if keras.config.backend() == "torch":
        import torch

        torch.set_num_threads(cores)
    generator = np.random.default_rng(0)
    images = generator.normal(size=(size, 32, 32, 3)).astype("float32")
    labels = generator.integers(0, 10, size)
    models = {
        "native": ghostnetv3_small(width),
        "keras": ghostnetv3_small(width),
        "resnet20": _resnet20(),
    }
    if width == 1.0 and size == 64:
        models["plain"] = to_branches(ghostnetv3_small(width))
    steps = {
        name: functools.partial(
            _compiled(model, "native" if name == "native" else "keras"),
            images,
            labels,
        )
        for name, model in models.items()
    }
    native = network_for_inference(models["native"], "native")
    answers = {
        "native": lambda: native.predict(images),
        "keras": lambda: models["keras"].predict_on_batch(images),
        "resnet20": lambda: models["resnet20"].predict_on_batch(images),
    }
    fused = count_macs(to_deploy(models["keras"]))
    for kind, tasks, times in (("step", steps, 3), ("inference", answers, 1)):
        for task in tasks.values():
            task()
        seconds = measure.medians(tasks, ROUNDS)
        print(
            f"{keras.config.backend()}, cores {cores}, width {width:g}, batch "
            f"{size}, {kind}: "
            + ", ".join(f"{n} {size / s:,.0f}/s" for n, s in seconds.items())
            + f"; native {times * fused * size / seconds['native'] / 1e9:.1f} "
            "GMAC/s; "
            + ", ".join(
                f"native / {name} {s / seconds['native']:.2f}"
                for name, s in seconds.items()
                if name != "native"
            ),
            flush=True,
        )


def _compiled(model, kernels):
    from gnsmall_keras import Distiller
    from gnsmall_keras.recipes import RECIPES
    from gnsmall_keras.training.fit import compile_model

    distiller = Distiller(student=model, kernels=kernels)
    compile_model(distiller, RECIPES["quick"], steps=1000)
    return distiller.train_on_batch


def _resnet20():
    """He et al. 2015, table 6, for 32 x 32: 41 million MACs an image."""
    import keras
    from keras import layers

    def conv(x, filters, strides=1):
        x = layers.Conv2D(
            filters, 3, strides=strides, padding="same", use_bias=False
        )(x)
        return layers.BatchNormalization()(x)

    inputs = keras.Input((32, 32, 3))
    x = layers.ReLU()(conv(inputs, 16))
    for filters in (16, 32, 64):
        for block in range(3):
            strides = 2 if block == 0 and filters > 16 else 1
            shortcut = x
            if strides == 2:  # the paper's option A: pixels, zero channels
                shortcut = layers.AveragePooling2D(1, strides=2)(x)
                zeros = layers.Rescaling(0.0)(shortcut)
                shortcut = layers.Concatenate()([shortcut, zeros])
            y = layers.ReLU()(conv(x, filters, strides))
            x = layers.ReLU()(layers.Add()([conv(y, filters), shortcut]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10)(x))


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        compare(float(sys.argv[2]), int(sys.argv[3]))
    else:
        first, *rest = " ".join(sys.argv[1:]).split("-b")
        main(
            tuple(map(float, first.split())) or WIDTHS,
            tuple(map(int, rest[0].split())) if rest else BATCHES,
        )
