"""A classifier's file, and the images that it is given, as it takes them."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gnsmall_keras.commands import printing
from gnsmall_keras.commands.arguments import ImageOptions
from gnsmall_keras.devices.runtime import Runtime

if TYPE_CHECKING:
    import keras
    import numpy as np

    from gnsmall_keras.data.dataset import Dataset
    from gnsmall_keras.devices.runtime import TFLiteModel
    from gnsmall_keras.records.run import RunRecord
    from gnsmall_keras.training.splits import Split

SplitName = Literal["test", "validation", "all"]


def check_data(data: str) -> None:
    """Looks whether there are data, before seconds go into a framework."""
    from gnsmall_keras.data.sources import check_source

    check_source(data)


def open_classifier(
    model: Path, runtime: Runtime
) -> tuple[
    "keras.Model | TFLiteModel",
    "Callable[[np.ndarray], np.ndarray]",
    Sequence[str],
]:
    """Opens a .tflite or .keras file.

    Args:
        model: the file.
        runtime: for .tflite files.

    Returns:
        The network, what it makes of uint8 images, and its classes' names;
        none where they are not known.

    Raises:
        ValueError: if there are more or fewer names than classes.
    """
    from gnsmall_keras.data.dataset import some
    from gnsmall_keras.data.pixels import warn_of_pixels
    from gnsmall_keras.devices.labels import find_labels
    from gnsmall_keras.devices.runtime import TFLiteModel
    from gnsmall_keras.models.saving.files import class_names_of, load_model
    from gnsmall_keras.training import evaluation

    if model.suffix == ".tflite":
        file = TFLiteModel(model, runtime=runtime)
        names = find_labels(model)
        if names and len(names) != file.classes:
            raise ValueError(
                f"Class names must be one a class. {model} has {file.classes} "
                f"classes. Received: {len(names)} names, in it or beside it "
                f"({some(names)}). Correct or remove labels.txt or the report."
            )
        return file, file.predict, names
    network = load_model(model)
    warn_of_pixels(network, str(model))
    predict = functools.partial(evaluation.predict_logits, network)
    return network, predict, class_names_of(model)


def reading_of(model: Path, run: "RunRecord | None") -> Mapping[str, Any]:
    """Returns what is known of the images that a model was trained on.

    Args:
        model: a .keras or .tflite file.
        run: that it lies in the folder of, by `find_run`. Outside a run's
            folder a .tflite file's report says how they became square.
    """
    from gnsmall_keras.devices.labels import find_aspect

    if run:
        return run.config
    aspect = find_aspect(model) if model.suffix == ".tflite" else None
    return {"aspect": aspect} if aspect else {}


def load_split(
    split: SplitName,
    data: str,
    shape: tuple[int, ...],
    reading: ImageOptions,
    model: Path,
    run: "RunRecord | None",
    class_names: Sequence[str],
) -> "tuple[Dataset, Split]":
    """Loads the images of a split, of the shape that a model takes.

    Args:
        split: which.
        data: a name or a path.
        shape: `(height, width, channels)` of the model.
        reading: what the command says of the images.
        model: its file.
        run: of its folder, by `find_run`.
        class_names: of the model; empty: not known.

    Raises:
        ValueError: if there are none, or it is not known which were held out.
    """
    from gnsmall_keras.training.splits import test_split

    known = reading_of(model, run)
    if split == "all":
        dataset = _load_all(data, shape, reading, known, class_names)
        return dataset, test_split(dataset)
    dataset = load_for(data, shape, reading, known)
    if split == "validation":
        return dataset, held_out(dataset, model, run)
    warn_of_trained(dataset, known, _trained_on(model, run))
    if not len(dataset.test_images):
        raise ValueError(
            f"{data!r} has no test split. Add a folder test/, or measure all "
            "images with --split all."
        )
    return dataset, test_split(dataset)


def held_out(
    dataset: "Dataset", model: Path, run: "RunRecord | None"
) -> "Split":
    """Returns the images that a model's training has held out.

    Raises:
        ValueError: if there are none, or it is not known which.
    """
    from gnsmall_keras.training.experiment import Partition
    from gnsmall_keras.training.splits import Split, split

    images, labels = dataset.validation_images, dataset.validation_labels
    if images is not None and labels is not None:
        return Split(images, labels)
    if run is None or run.data_digest != dataset.digest:
        received = (
            f"images that {model}'s run did not have, {dataset.name!r}"
            if run
            else f"{model}, without a record beside it"
        )
        raise ValueError(
            "--split validation needs the run's record, which says what was "
            f"held out, and the run's images. Received: {received}. Measure a "
            "file in its run's folder, or data with a folder val/."
        )
    config = run.config
    partition = Partition(
        config["protocol"], config["validation_fraction"], config["seed"]
    )
    found = split(dataset, partition).validation
    if not len(found.images):
        raise ValueError(
            "--split validation needs a run that held images out. Received: "
            f"one of protocol {partition.protocol!r}, {run.slug}. Train with "
            '"--protocol validation".'
        )
    return found


def load_for(
    data: str,
    shape: tuple[int, ...],
    reading: ImageOptions,
    run: Mapping[str, Any] | None = None,
) -> "Dataset":
    """Loads images of the shape that a model takes.

    Args:
        data: a name or a path.
        shape: `(height, width, channels)` of the model.
        reading: what the command says of them.
        run: config of the run that the model came of, or what is known of it.
    """
    from gnsmall_keras.data.sources import load_data

    options = _options(shape, reading, run)
    return _shown(load_data(data, flip=(run or {}).get("flip"), **options))


def _load_all(data, shape, reading, run, class_names):
    """Loads all images of a folder or archive, as a test split."""
    from gnsmall_keras.data.folder import load_all
    from gnsmall_keras.data.parts import Options
    from gnsmall_keras.data.sources import SOURCES

    path = Path(data)
    if data in SOURCES or path.suffix.lower() == ".npz":
        raise ValueError(
            "--split all is for a folder or archive of images. Received: "
            f"{data!r}. Leave out --split to measure the test split."
        )
    options = Options(**_options(shape, reading, run))
    return _shown(load_all(path, options, class_names))


def _trained_on(model, run):
    """The digest of the images that a model's run had, if it is known."""
    from gnsmall_keras.devices.labels import read_report_beside

    if run:
        return run.data_digest
    source = read_report_beside(model).get("source") or {}
    return source.get("data_digest")


def warn_of_trained(
    dataset: "Dataset", reading: Mapping[str, Any], trained_on: str | None
) -> None:
    """Says where a split is another than that of the model's run.

    Args:
        dataset: what is measured.
        reading: how the run read its images, see `reading_of`.
        trained_on: the digest of its images, if it is known.
    """
    if (
        dataset.test_fraction
        and trained_on not in (None, dataset.digest)
        and dataset.aspect == reading.get("aspect", "crop")
    ):
        printing.warn(
            f"warning: {dataset.name!r} has other images than the model's "
            "run, so another part of them was split off as a test. The model "
            "may have learned from some of these, and the accuracy be too "
            "high. Put new images in a folder of their own and add "
            "--split all."
        )


def _options(shape, reading, run):
    run = run or {}
    height, width, channels = shape
    if height != width:
        raise ValueError(
            f"Images are read as squares. Received: a model of {height} x "
            f"{width} pixels. Measure it in Python, with arrays."
        )
    return {
        "image_size": height,
        "channels": channels,
        "aspect": reading.aspect or run.get("aspect", "crop"),
        "skip_broken": reading.skip_broken or run.get("skip_broken", False),
    }


def _shown(dataset):
    for line in dataset.lines():
        printing.show(line)
    return dataset
