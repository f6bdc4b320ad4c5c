"""Files that come with the package: a checkout's, or a wheel's."""

import os
from pathlib import Path


def find_shipped(
    name: str, *, kind: str, folder: str, module: str | os.PathLike[str]
) -> Path:
    """Returns a file that a wheel has beside a module.

    Args:
        name: of the file.
        kind: what messages call it.
        folder: where a checkout has it, from its root; looked at first.
        module: the `__file__` of the module, two folders below the root.

    Raises:
        ValueError: if it is in neither place.
    """
    module = Path(module)
    checkout = module.parents[2] / folder
    for place in (checkout, module.parent):
        if (place / name).is_file():
            return place / name
    raise ValueError(
        f"There is no {kind} {name} in {checkout} or in the package. Install "
        "gnsmall-keras from a wheel or work in a checkout."
    )
