"""Commands about the networks that there are."""

from pathlib import Path
from typing import Any

from gnsmall_keras.commands import printing
from gnsmall_keras.commands.arguments import IMAGE_OPTIONS, PositionalPath
from gnsmall_keras.commands.evaluate import evaluate
from gnsmall_keras.config import RunConfig
from gnsmall_keras.models.catalogue import NETWORKS


def import_torch(
    file: PositionalPath,
    model: str,
    out: Path,
    data: str | None = None,
    width: float = 1.0,
    classes: int = 10,
) -> None:
    """Turns a PyTorch checkpoint into a .keras file.

    Args:
        file: a .pth, .pt or .safetensors file; nothing in it is executed.
        model: the network, one of those that `gnsmall models` prints.
        out: the new .keras file.
        data: prints the accuracy on this test split: "digits", "cifar10",
            "cifar100" or a path.
        width: channel multiplier of a GhostNet.
        classes: number of logits.
    """
    from gnsmall_keras.models.registry import create_model
    from gnsmall_keras.models.saving.files import save_model
    from gnsmall_keras.models.torch.weights import load_torch_weights

    config = RunConfig(model=model, width=width)  # checks them
    options: dict[str, Any] = {"classes": classes}
    if NETWORKS[config.model].scales:
        options["width"] = width
    if config.model == "efficientnetv2_s":
        options["form"] = "torch"
    if out.suffix != ".keras":
        raise ValueError(f"`out` must end in .keras. Received: {out}.")
    network = create_model(model, **options)
    mapped, ignored = load_torch_weights(network, file)
    printing.show(
        f"mapped {len(mapped)} entries: {printing.ends(mapped)}\n"
        f"not needed {len(ignored)}: {printing.ends(ignored)}"
    )
    save_model(network, out)
    printing.wrote(out)
    if data:
        evaluate(out, data, reading=IMAGE_OPTIONS)


def models() -> None:
    """Prints the networks with their sizes."""
    printing.print_networks()
