"""Networks by name."""

import keras

from gnsmall_keras.models.ghostnet import ghostnetv3, ghostnetv3_small

MODELS = {
    "gns": ghostnetv3_small,
    "gnd": ghostnetv3,
}


def create_model(name: str, **options) -> keras.Model:
    """Builds a network by its short name.

    Args:
        name: "gns" (GhostNetV3-Small) or "gnd" (GhostNetV3).
        **options: of that network's function, `width=0.5` for example.

    Raises:
        ValueError: if the name is unknown or an option is out of range.
    """
    if name not in MODELS:
        raise ValueError(
            f"`model` must be one of {sorted(MODELS)}. Received: {name!r}."
        )
    return MODELS[name](**options)
