"""Runs files on an emulated Cortex-M4 and compares them with LiteRT.

Usage: python benchmarks/cortex_m4.py [images] [files]

By default 2 images and the published files for microcontrollers. Images are
those of CIFAR-10's test split where GNSMALL_DATA names it, else random pixels.
The exit status is 1 where an integer differs. CMSIS-NN without an interpreter;
instructions are QEMU's count, to 40, not cycles.
"""

import sys
from pathlib import Path

import numpy as np

from gnsmall_keras.data.sources import load_data
from gnsmall_keras.devices.cortex_m import run_on_cortex_m
from gnsmall_keras.devices.runtime import TFLiteModel

FILES = sorted(Path(__file__).parents[1].glob("tflite/*-micro.tflite"))
IMAGES = 2


def some_images(count):
    """Returns uint8 images, and whose they are."""
    try:
        return load_data("cifar10").test_images[:count], "CIFAR-10's"
    except ValueError:
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
    differs = False
    for file in [Path(name) for name in sys.argv[2:]] or FILES:
        run = run_on_cortex_m(file, images)
        reference = TFLiteModel(file, runtime="litert-reference")
        expected = reference.predict_raw(images)
        equal = np.array_equal(run.scores, expected)
        differs |= not equal
        print(
            f"{file.name:36}{'equal' if equal else 'DIFFER':>9}"
            f"{max(run.instructions):14,}{run.code_bytes:8,}"
            f"{run.arena_bytes:8,}{run.scratch_bytes:8,}",
            flush=True,
        )
    sys.exit(differs)


if __name__ == "__main__":
    main()
