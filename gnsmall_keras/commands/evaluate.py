"""Commands that give a network images: its accuracy, or the classes of each."""

# pyright: basic

from pathlib import Path
from typing import Annotated

import tyro

from gnsmall_keras.commands import printing
from gnsmall_keras.commands.arguments import (
    IMAGE_OPTIONS,
    Flat,
    ImageOptions,
    PositionalPath,
)
from gnsmall_keras.commands.images import (
    SplitName,
    check_data,
    load_split,
    open_classifier,
    reading_of,
)
from gnsmall_keras.config import Aspect
from gnsmall_keras.devices.runtime import Runtime
from gnsmall_keras.lines import one_line, percent

_BEST = 3  # classes


def evaluate(
    model: PositionalPath,
    data: str,
    runtime: Runtime = "litert",
    split: SplitName = "test",
    limit: int | None = None,
    reading: Flat[ImageOptions] = IMAGE_OPTIONS,
) -> None:
    """Prints the accuracy of a .keras or .tflite file.

    Args:
        model: the file.
        data: "digits", "cifar10", "cifar100" or a path.
        runtime: for .tflite files.
        split: "validation" for the images that its training held out, to
            choose by; the file must be in its run's folder, or the data have
            val/. "all" for all images of a folder or archive of new ones; not
            all classes need images.
        limit: how many images to use, the first ones of each class in turn;
            by default all.
        reading: how images are read.
    """
    check_data(data)
    from gnsmall_keras.data.dataset import stratified_subset
    from gnsmall_keras.records.export import find_run
    from gnsmall_keras.training import evaluation

    if limit is not None and limit < 1:
        raise ValueError(f"`limit` must be >= 1. Received: {limit}.")
    network, predict, names = open_classifier(model, runtime)
    run = find_run(model)
    dataset, (images, labels) = load_split(
        split, data, network.input_shape[1:], reading, model, run, names
    )
    if limit is not None:
        some = stratified_subset(labels, limit)
        images, labels = images[some], labels[some]
    logits = predict(images)
    dataset.check_classes(str(model), logits.shape[-1], names)
    accuracy = evaluation.accuracy(logits, labels)
    where = runtime if model.suffix == ".tflite" else "float32"
    measured = "test" if split == "all" else split
    printing.show(
        f"{model} ({where}) on {dataset.name}: {measured} accuracy "
        f"{percent(accuracy)}, n={len(images):,}"
    )


def classify(
    model: PositionalPath,
    images: Annotated[tuple[Path, ...], tyro.conf.Positional],
    runtime: Runtime = "litert",
    aspect: Aspect | None = None,
) -> None:
    """Prints the three best classes of image files.

    The numbers are what the network puts out: logits, or probabilities of a
    file for Android. Images are read as in training; tflite/run_model.py does
    the same on a device.

    Args:
        model: a .tflite or .keras file.
        images: PNG, JPEG, WebP, BMP, TIFF or GIF files.
        runtime: for .tflite files.
        aspect: of images that are not square; None: as the network was
            trained, by its run's record or the report beside a .tflite file,
            else "crop".
    """
    if not images:
        raise ValueError(
            f"`gnsmall classify` needs images. Add one: {model} photo.jpg."
        )
    from gnsmall_keras.data.decoding import decode
    from gnsmall_keras.records.export import find_run

    network, predict, names = open_classifier(model, runtime)
    trained = reading_of(model, find_run(model)).get("aspect")
    _, side, _, channels = network.input_shape
    faults = []
    for image in images:
        try:
            pixels = decode(
                image.read_bytes(),
                image_size=side,
                channels=channels,
                aspect=aspect or trained or "crop",
            )
        except (OSError, ValueError) as error:  # the others are classified
            reason = getattr(error, "strerror", None) or one_line(error)
            faults.append(f"{image}: {reason}")
            continue
        (values,) = predict(pixels[None])
        best = values.argsort()[: -_BEST - 1 : -1]
        told = (f"{names[i] if names else i}: {values[i]:.3f}" for i in best)
        printing.show(f"{image}: {', '.join(told)}")
    if faults:
        raise ValueError(f"{'; '.join(faults)}. Give files of images.")
    if not names:
        printing.warn_of_numbers(
            model,
            "Put its labels.txt, one class a line, or its report beside it."
            if model.suffix == ".tflite"
            else "Those of a network that `gnsmall train` saved have names.",
        )
