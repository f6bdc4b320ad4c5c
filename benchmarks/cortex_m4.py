"""Runs files on an emulated Cortex-M4 and compares them with LiteRT.

Usage: python benchmarks/cortex_m4.py [images] [files]

By default 2 images, the published files for microcontrollers, and MLPerf Tiny's
two ResNet-8 as graphs of random weights without their softmax. Images are those
of CIFAR-10's test split where GNSMALL_DATA names it, else random pixels. The
exit status is 1 where an integer differs. CMSIS-NN without an interpreter;
instructions are QEMU's count, to 40, not cycles.
"""

import contextlib
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from gnsmall_keras.data.sources import DATA_VARIABLE, load_data
from gnsmall_keras.devices.cortex_m import run_on_cortex_m
from gnsmall_keras.devices.resnet8 import RESNET8, resnet8
from gnsmall_keras.devices.runtime import TFLiteModel

FILES = sorted(Path(__file__).parents[1].glob("tflite/*-micro.tflite"))
IMAGES = 2


def some_images(count):
    """Returns uint8 images, and whose they are."""
    if os.environ.get(DATA_VARIABLE):  # else it would be downloaded
        with contextlib.suppress(ValueError):
            return load_data("cifar10").test_images[:count], "CIFAR-10's"
    generator = np.random.default_rng(0)
    shape = (count, 32, 32, 3)
    return generator.integers(0, 256, shape, np.uint8), "random"


def main():
    """Prints the table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    images, whose = some_images(count)
    print(f"{count} images, {whose}; Cortex-M4 by QEMU, CMSIS-NN, -O3")
    print(
        f"{'file':36}{'integers':>9}{'instructions':>14}{'code':>8}"
        f"{'arena':>8}{'scratch':>8}"
    )
    given = [Path(name) for name in sys.argv[2:]]
    with tempfile.TemporaryDirectory(prefix="gnsmall-") as folder:
        files = given or [*FILES, *write_references(Path(folder))]
        equal = [tell(file, images) for file in files]
    sys.exit(not all(equal))


def write_references(folder):
    """Writes MLPerf Tiny's networks; returns their paths."""
    for name, channels in RESNET8.items():
        file = folder / f"{name}.tflite"
        file.write_bytes(resnet8(channels, softmax=False))
    return sorted(folder.glob("*.tflite"))


def tell(file, images):
    """Prints a file's line; returns whether its integers are LiteRT's."""
    run = run_on_cortex_m(file, images)
    reference = TFLiteModel(file, runtime="litert-reference")
    equal = np.array_equal(run.scores, reference.predict_raw(images))
    print(
        f"{file.name:36}{'equal' if equal else 'DIFFER':>9}"
        f"{max(run.instructions):14,}{run.code_bytes:8,}"
        f"{run.arena_bytes:8,}{run.scratch_bytes:8,}",
        flush=True,
    )
    return equal


if __name__ == "__main__":
    main()
