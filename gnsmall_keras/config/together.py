"""Which runs can be trained as one program."""

import dataclasses
from collections.abc import Sequence

from gnsmall_keras.config.run import RunConfig

# What each of them may have for itself; all else is the program's.
OWN_FIELDS = (
    *("seed", "peak_learning_rate", "label_smoothing"),
    *("label_weight", "temperature", "teachers", "cache"),
)


def check_together(configs: Sequence[RunConfig]) -> None:
    """Checks that runs differ in nothing but `OWN_FIELDS`.

    Raises:
        ValueError: with the field, and two values of it.
    """
    for config in configs:
        if config.strategy == "assistant":
            raise ValueError(
                "Runs of strategy='assistant' train networks one after the "
                f"other, not together. Received: {config.slug}. Leave "
                "`together` out."
            )
        if config.devices > 1:
            raise ValueError(
                "Runs train together on one device. Received: "
                f"devices={config.devices}. Leave `together` or `devices` out."
            )
    for field in dataclasses.fields(RunConfig):
        values = {getattr(config, field.name): config for config in configs}
        if field.name == "cache":  # whether there is one is the program's
            values = {bool(name): config for name, config in values.items()}
        elif field.name == "teachers":
            values = {len(names): config for names, config in values.items()}
        elif field.name in OWN_FIELDS:
            continue
        if len(values) > 1:
            (one, first), (other, second) = [*values.items()][:2]
            raise ValueError(
                "Runs that train together may differ in "
                f"{', '.join(OWN_FIELDS)} alone. Received: "
                f"{field.name}={one!r} of {first.slug} and "
                f"{field.name}={other!r} of {second.slug}. Make them two "
                "sweeps, or leave `together` out."
            )


def fits(config: RunConfig, group: Sequence[RunConfig]) -> bool:
    """Returns whether a run can be trained with others."""
    try:
        check_together([*group, config])
    except ValueError:
        return False
    return True
