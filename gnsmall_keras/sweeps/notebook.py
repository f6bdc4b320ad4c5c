"""The notebook that a sweep executes, and whether it can be executed here."""

import os
from collections.abc import Collection
from importlib import resources
from pathlib import Path
from typing import Any

from gnsmall_keras import fields
from gnsmall_keras.config import RunConfig

KERNEL = "python3"
_NAME = "02_train.ipynb"


def find_notebook() -> Path:
    """Returns the training notebook: the wheel's, or the checkout's.

    Raises:
        ValueError: if there is neither.
    """
    package = Path(str(resources.files("gnsmall_keras")))
    places = [package / "sweeps" / _NAME, package.parent / "notebooks" / _NAME]
    for path in places:
        if path.is_file():
            return path
    raise ValueError(
        f"There is no notebook {_NAME}. Looked for: "
        f"{', '.join(map(str, places))}. Install gnsmall-keras again, or "
        "complete the checkout."
    )


def parameters_of(config: RunConfig, out: Path, index: Path) -> dict[str, Any]:
    """Returns what papermill is to put into the notebook: every parameter.

    So no run depends on a default of the notebook's.
    """
    return {**fields.plain(config), "out": str(out), "index": str(index)}


def literal(path: str | os.PathLike[str]) -> str:
    """Returns a path for papermill, which fills in what stands in braces."""
    return os.fspath(path).replace("{", "{{").replace("}", "}}")


def check_notebook(path: Path, names: Collection[str]) -> None:
    """Checks that papermill, the kernel and the parameters are there.

    papermill itself only warns of parameters that a notebook does not know.

    Raises:
        ValueError: if one of them is missing.
    """
    try:
        import papermill
        from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
    except ImportError as error:
        raise ValueError(
            f"A sweep needs the extra `notebooks` ({error.name} is missing). "
            "Run: pip install 'gnsmall-keras[notebooks]'"
        ) from None
    try:
        KernelSpecManager().get_kernel_spec(KERNEL)
    except NoSuchKernel:
        raise ValueError(
            f"Jupyter has no kernel named {KERNEL!r}. "
            "Run: python -m ipykernel install --sys-prefix"
        ) from None
    known = papermill.inspect_notebook(literal(path))
    if not known:
        raise ValueError(
            f"{path} has no parameters. Tag the cell that assigns them "
            "`parameters`."
        )
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(
            f"{path} has no parameters {unknown}. Assign them in its cell "
            "tagged `parameters`."
        )
