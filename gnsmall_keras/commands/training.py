"""Commands that train."""

import dataclasses
import os
from pathlib import Path
from typing import Literal

from gnsmall_keras.commands import printing
from gnsmall_keras.commands.arguments import (
    Flat,
    ImageOptions,
    RunOptions,
    seconds,
)
from gnsmall_keras.commands.images import check_data, load_for
from gnsmall_keras.config import (
    Aspect,
    Distilling,
    ExportConfig,
    Protocol,
    RunConfig,
)

_DIGITS_QUICKSTART = RunConfig(data="digits", epochs=12, batch_size=64)
_CIFAR_QUICKSTART = RunConfig(data="cifar10", width=0.5, epochs=1)
_VIEWS = 8  # of an image, in a cache


def quickstart(out: Path = Path("runs"), details: bool = False) -> None:
    """Trains, fuses and quantises a network, checks the file; takes minutes.

    It uses scikit-learn's digits, or CIFAR-10 with a smaller budget where the
    environment variable GNSMALL_DATA says where that is.

    Args:
        out: folder for the model, the .tflite file and the records.
        details: prints tables of the network's forms and of the file.
    """
    from gnsmall_keras.data.sources import DATA_VARIABLE, load_data
    from gnsmall_keras.export.tflite import export_network
    from gnsmall_keras.models.saving.files import load_model
    from gnsmall_keras.records.export import EXPORTS_FILE
    from gnsmall_keras.records.run import INDEX_FILE, MODEL_FILE
    from gnsmall_keras.training.run import train

    place = os.environ.get(DATA_VARIABLE)
    config = _CIFAR_QUICKSTART if place else _DIGITS_QUICKSTART
    epochs = config.resolved_recipe.epochs
    printing.show(
        f"1/2 training GhostNetV3-Small {config.width:g} on "
        + (f"CIFAR-10 from {place}" if place else "scikit-learn's digits")
        + f", epochs: {epochs} (a demonstration, not a result of the study)"
    )
    record = train(config, out=out)
    folder = out / record.slug
    file = folder / "model.tflite"
    printing.show("2/2 fusing, quantising and checking the file")
    export = ExportConfig()
    with printing.exporting(export):
        report = export_network(
            load_model(folder / MODEL_FILE),
            file,
            load_data(config.data),
            export,
            run=record,
            exports=out / EXPORTS_FILE,
        )
    if details:
        printing.print_forms(record, report)
        printing.print_export(report)
    for fault in report.faults:
        printing.warn(f"warning: {fault}")
    printing.print_summary(report, file, out / INDEX_FILE)


def train(config: Flat[RunConfig], running: Flat[RunOptions]) -> None:
    """Trains one network and appends a record of the run.

    After an interruption, the same command resumes.

    Args:
        config: the experiment.
        running: how it is done.
    """
    check_data(config.data)
    if config.ignored:
        raise ValueError(
            "These belong to teachers, and strategy='baseline' has none. "
            f"Received: {config.ignored}. Leave them out, or name a teacher: "
            "gnsmall distill --teachers FOLDER"
        )
    from gnsmall_keras.training.run import train

    options = {
        field.name: getattr(running, field.name)
        for field in dataclasses.fields(running)
    }
    options["time_budget"] = seconds(running.time_budget)
    record = train(config, **options)
    printing.print_record(record, running.out / record.slug)


def distill(config: Flat[Distilling], running: Flat[RunOptions]) -> None:
    """Trains a student from teachers and appends a record of the run.

    After an interruption, the same command resumes.

    Args:
        config: the experiment.
        running: how it is done.
    """
    train(config, running)


def _views(asked: int | None, augment: bool) -> int:
    if augment:
        return _VIEWS if asked is None else asked
    if asked is not None:
        raise ValueError(
            "`views` are of augmented images. Received: "
            f"{asked} of plain ones. Leave out --views or --no-augment."
        )
    return 1


def cache_teacher(
    teacher: Path,
    out: Path,
    data: str = "digits",
    views: int | None = None,
    seed: int = 0,
    augment: bool = True,
    recipe: str = "quick",
    protocol: Protocol = "validation",
    validation_fraction: float = 0.1,
    image_size: int = 32,
    channels: Literal[3, 1] = 3,
    aspect: Aspect = "crop",
    flip: bool | None = None,
    skip_broken: bool = False,
) -> None:
    """Stores a teacher's logits of the training images, for `--cache`.

    They are of whole images: a training that uses them has no cutout, mixup or
    CutMix.

    Args:
        teacher: a .keras file or the folder of a run.
        out: the cache's folder; what is in it already is kept.
        data: "digits", "cifar10", "cifar100" or a path.
        views: crops and mirror images of each image, 8 by default; epochs go
            round them.
        seed: of the split, as in the training that will use it, and of the
            views.
        augment: False stores the plain images' logits, one view.
        recipe: of the training that will use it, for the kind of crops.
        protocol: of the training that will use it; "paper" holds nothing out.
        validation_fraction: of the training that will use it.
        image_size: of the training that will use it.
        channels: of the training that will use it.
        aspect: of the training that will use it.
        flip: of the training that will use it (--flip, --no-flip).
        skip_broken: of the training that will use it.
    """
    check_data(data)
    views = _views(views, augment)
    from gnsmall_keras.distill import cache
    from gnsmall_keras.distill.checks import load_teacher
    from gnsmall_keras.training.experiment import resolve
    from gnsmall_keras.training.splits import split, views_of

    config = RunConfig(
        data=data,
        seed=seed,
        augment=augment,
        recipe=recipe,
        protocol=protocol,
        validation_fraction=validation_fraction,
        image_size=image_size,
        channels=channels,
        aspect=aspect,
        flip=flip,
        skip_broken=skip_broken,
    )
    experiment = resolve(config)
    shape = (image_size, image_size, channels)
    reading = ImageOptions(aspect=aspect, skip_broken=skip_broken)
    dataset = load_for(data, shape, reading, {"flip": flip})
    images, labels = split(dataset, experiment.partition).fitting
    network = load_teacher(
        teacher,
        classes=dataset.classes,
        input_shape=images.shape[1:],
        class_names=dataset.class_names,
    )
    cached = cache.cache_teacher(
        network,
        images,
        labels,
        path=out,
        views=views,
        seed=seed,
        **dataclasses.asdict(views_of(experiment.learning, dataset)),
    )
    printing.show(f"{out}: {cached.views} views of {cached.images:,} images")
