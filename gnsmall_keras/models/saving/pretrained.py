"""Weights that come with the package, each pinned by its digest."""

import hashlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from gnsmall_keras.models.saving.files import load_model
from gnsmall_keras.models.spec import pixel_moments

CIFAR10 = "cifar10"
_CLASSES = 10
_OF_CLASSES = ("head_", "classifier")  # beginnings of layers' names


class Pretrained(NamedTuple):
    """A `.keras` file of the package's folder `weights`."""

    file: str
    sha256: str


# (width, head_units) of GhostNetV3-Small. tflite/README.md has the accuracies,
# the cards of the files made of them have the trainings.
GHOSTNETV3_SMALL = {
    (0.25, 320): Pretrained(
        "gns-w0.25-h320-cifar10.keras",
        "e706f318e205d8d7fb12b3ac39b972f15881f46504e2585c7cdec0b812c71085",
    ),
    (0.5, 1280): Pretrained(
        "gns-w0.5-cifar10.keras",
        "821f74bcad546e87c295d7548ff462c0026fbe8fa2657e6fd2de77f961d5d33c",
    ),
    (0.85, 1280): Pretrained(
        "gns-w0.85-cifar10.keras",
        "7d6c912f65620c8ba95b83f7cb4f6a95521a70e2fc97156a81c3176b4d3c879c",
    ),
    (1.0, 1280): Pretrained(
        "gns-w1-cifar10-long.keras",
        "e395e11c23acf98992d93d0f19a7d2a2bbc95e36e4a2eb138c218816987f228e",
    ),
    (1.6, 1280): Pretrained(
        "gns-w1.6-cifar10.keras",
        "e813ba752c01de4a73e9a40b493eabaea0f8d7a8c4d9dcc17b54e750a2d227e7",
    ),
}
# The same of the network without attention gates.
GHOSTNETV3_SMALL_NOGATE = {
    (0.5, 160): Pretrained(
        "gns-nogate-w0.5-cifar10.keras",
        "63423ab85da71a5ca76c4a2293b197bbea05d09635cdf100308ab28503d5f079",
    ),
}
# By the names that `create_model` takes.
PUBLISHED = {"gns": GHOSTNETV3_SMALL, "gns_nogate": GHOSTNETV3_SMALL_NOGATE}
# Found by their names alone: width 1.0 by the paper's recipe, of all 50,000
# images and labels that are not smoothed; the teacher of docs/study.md.
TEACHERS = (
    Pretrained(
        "gns-w1-cifar10.keras",
        "b18b9d8dbfd647d958bfab2bb410d79c4e45b020b9541886975c30dbf09dc253",
    ),
)


def load_pretrained(
    model: keras.Model,
    weights: str,
    published: Mapping[tuple[float, int], Pretrained],
    *,
    width: float,
    head_units: int,
) -> None:
    """Puts trained weights into a new network.

    Args:
        model: as its function built it, for 10 classes of RGB images.
        weights: "cifar10".
        published: those of the network, such as `GHOSTNETV3_SMALL`.
        width: of the model.
        head_units: of the model.

    Raises:
        ValueError: if there are no such weights for this model, or their file
            is missing or not the one that was published.
    """
    key = (width, head_units)
    if weights != CIFAR10 or key not in published:
        known = "; ".join(
            f"width={width:g}, head_units={units}" for width, units in published
        )
        raise ValueError(
            f"`weights` must be None, or {CIFAR10!r} with one of: {known}. "
            f"Received: weights={weights!r}, width={width:g}, "
            f"head_units={head_units}. For weights of your own, call "
            "load_model(path) or model.load_weights(path)."
        )
    taken, classes = model.input_shape[-1], model.output_shape[-1]
    if (taken, classes) != (3, _CLASSES):
        raise ValueError(
            f"The weights {CIFAR10!r} are for RGB images of {_CLASSES} "
            f"classes. Received: {taken} channels, {classes} classes. Build "
            "with these, and put a classifier of your own on the layer "
            "'head_relu'."
        )
    path = _find(published[key])
    model.set_weights(load_model(path).get_weights())


def find_published(name: str) -> Path | None:
    """Returns the file of published weights, such as "gns-w1-cifar10".

    Args:
        name: of the file, without its ending.

    Raises:
        ValueError: if the file is missing or not the one that was published.
    """
    for known in _published():
        if Path(known.file).stem == name:
            return _find(known)
    return None


def published_names() -> list[str]:
    """Returns the names that `find_published` knows."""
    return [Path(known.file).stem for known in _published()]


def _published():
    return [
        *(each for known in PUBLISHED.values() for each in known.values()),
        *TEACHERS,
    ]


def start_from(
    model: keras.Model, weights: str, *, network: str, width: float
) -> None:
    """Puts trained weights into a new network, but for what names classes.

    The layers before the pooling get those of the published network of this
    name and width, whatever the sides of images; of grey images the stem gets
    the sum over colours, which sees grey as the trained one did.

    Args:
        model: as `create_model` built it.
        weights: "cifar10".
        network: its name, such as "gns".
        width: of the model.

    Raises:
        ValueError: if there are no such weights for this network, or their file
            is missing or not the one that was published.
    """
    published = {
        known: each for (known, _), each in PUBLISHED.get(network, {}).items()
    }
    if weights != CIFAR10 or width not in published:
        raise ValueError(
            f"`start` must be {CIFAR10!r}, and {network} has weights for "
            f"widths {sorted(published)}. Received: {weights!r}, "
            f"width={width:g}."
        )
    source = load_model(_find(published[width]))
    for layer in source.layers:
        mine = model.get_layer(layer.name)
        if layer.weights and not layer.name.startswith(_OF_CLASSES):
            values = layer.get_weights()
            if mine.weights[0].shape != values[0].shape:
                values[0] = _as_grey(values[0])
            mine.set_weights(values)


def _as_grey(kernel):
    """Of the stem: sees grey as the trained one saw three equal colours."""
    (_, of_colours), (_, of_grey) = pixel_moments(3), pixel_moments(1)
    scales = np.array(of_grey[0]) / np.array(of_colours)
    return (kernel * scales[:, None]).sum(axis=-2, keepdims=True)


def _find(pretrained: Pretrained) -> Path:
    """Returns the file, once it is checked."""
    folder = resources.files("gnsmall_keras") / "weights"
    path = Path(str(folder / pretrained.file))
    if not path.is_file():
        raise ValueError(
            f"There is no network {pretrained.file} in {folder}. Install "
            "gnsmall-keras again, or complete the checkout."
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != pretrained.sha256:
        raise ValueError(
            f"{path} is not the file that was published: its SHA-256 must be "
            f"{pretrained.sha256}. Received: {digest}. It may be damaged; get "
            "it again."
        )
    return path
