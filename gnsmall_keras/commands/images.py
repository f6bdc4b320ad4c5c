"""The images that a model is measured on, read as it takes them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gnsmall_keras.commands import printing
from gnsmall_keras.commands.arguments import Reading

if TYPE_CHECKING:
    from gnsmall_keras.data.dataset import Dataset


def check_data(data: str) -> None:
    """Looks whether there are data, before seconds go into a framework."""
    from gnsmall_keras.data.sources import check_source

    check_source(data)


def load_for(
    data: str,
    shape: tuple[int, ...],
    reading: Reading,
    run: Mapping[str, Any] | None = None,
) -> "Dataset":
    """Loads images of the shape that a model takes.

    Args:
        data: a name or a path.
        shape: `(height, width, channels)` of the model.
        reading: what the command says of them.
        run: config of the run that the model came of, if that is known.
    """
    from gnsmall_keras.data.sources import load_data

    run = run or {}
    height, width, channels = shape
    if height != width:
        raise ValueError(
            f"Images are read as squares. Received: a model of {height} x "
            f"{width} pixels. Measure it in Python, with arrays."
        )
    dataset = load_data(
        data,
        image_size=height,
        channels=channels,
        aspect=reading.aspect or run.get("aspect", "crop"),
        flip=run.get("flip"),
        skip_broken=reading.skip_broken or run.get("skip_broken", False),
    )
    for line in dataset.lines():
        printing.show(line)
    return dataset
