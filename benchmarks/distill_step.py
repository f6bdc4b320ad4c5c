"""Cost of a distillation step: GN-S 1.0 from a live or a cached ResNet-18.

Usage: python benchmarks/distill_step.py [batch] [steps]
       python benchmarks/distill_step.py memory [batch]

All steps run in turn in one process, so that the machine's mood touches them
alike; medians and ratios are printed. "memory" prints the peak of three steps,
over what was there before the first, beside that of keras.distillation.
"""

import sys

import keras
import measure
import numpy as np

from gnsmall_keras import Distiller, create_model
from gnsmall_keras.distill.losses import LabelCrossEntropy
from gnsmall_keras.recipes import RECIPES
from gnsmall_keras.training.fit import compile_model


def _batch(size):
    generator = np.random.default_rng(0)
    images = generator.normal(size=(size, 32, 32, 3)).astype("float32")
    return images, generator.integers(0, 10, size)


def _distiller(teacher, **options):
    student = create_model("gns", width=1.0)
    distiller = Distiller(student=student, teacher=teacher, **options)
    compile_model(distiller, RECIPES["paper"], steps=1000)
    return distiller


def compare(batch_size: int, steps: int) -> None:
    """Prints what the teacher adds to a step, live and cached."""
    images, labels = _batch(batch_size)
    teacher = create_model("resnet18")
    logits = teacher.predict_on_batch(images)
    alone, live = _distiller(None), _distiller(teacher)
    cached = _distiller(None, expects_teacher=True)
    stored = {"images": images, "teacher_logits": logits}
    tasks = {
        "student": lambda: alone.train_on_batch(images, labels),
        "teacher": lambda: teacher.predict_on_batch(images),
        "live": lambda: live.train_on_batch(images, labels),
        "cached": lambda: cached.train_on_batch(stored, labels),
    }
    for task in tasks.values():
        task()
    median = measure.medians(tasks, steps)
    print(
        f"{keras.config.backend()}, batch {batch_size}, n={steps}: "
        + ", ".join(f"{name} {s:.3f} s" for name, s in median.items())
        + f"; live / (student + teacher) "
        f"{median['live'] / (median['student'] + median['teacher']):.3f}, "
        f"cached / student {median['cached'] / median['student']:.3f}"
    )


def _train(kind, batch_size):
    """Three steps by either Distiller; prints the peak."""
    images, labels = _batch(batch_size)
    teacher = create_model("resnet18")
    if kind == "ours":
        distiller = _distiller(teacher)
    else:
        from keras.distillation import Distiller as Theirs
        from keras.distillation import LogitsDistillation

        distiller = Theirs(
            teacher=teacher,
            student=create_model("gns", width=1.0),
            distillation_losses=LogitsDistillation(
                loss=keras.losses.KLDivergence()
            ),
        )
        distiller.compile(
            keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
            loss=LabelCrossEntropy(),
            jit_compile="auto"
            if keras.config.backend() != "tensorflow"
            else False,
        )

    def steps():
        for _ in range(3):
            distiller.train_on_batch(images, labels)

    print(measure.peak_of(steps))


def compare_memory(batch_size: int) -> None:
    """Prints both Distillers' peaks."""
    peaks = {
        kind: float(measure.in_own_process(__file__, kind, str(batch_size)))
        for kind in ("ours", "keras.distillation")
    }
    print(
        f"{keras.config.backend()}, batch {batch_size}: peak "
        + ", ".join(f"{kind} {peak:.0f} MiB" for kind, peak in peaks.items())
        + f", ratio {peaks['ours'] / peaks['keras.distillation']:.2f}"
    )


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments and arguments[0] == "memory":
        compare_memory(*map(int, arguments[1:] or ["256"]))
    elif arguments and not arguments[0].isdigit():
        _train(arguments[0], int(arguments[1]))
    else:
        given = [int(argument) for argument in arguments]
        compare(*(given + [256, 7][len(given) :]))
