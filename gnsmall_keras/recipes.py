"""Training recipes: named, frozen sets of hyper-parameters."""

import dataclasses

from gnsmall_keras.fields import Younger

# Ours: a run of fewer is called a demonstration, not a result.
DEMONSTRATION_EPOCHS = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained; rates are per step, decay is coupled L2."""

    epochs: int
    batch_size: int
    peak_learning_rate: float
    warmup_fraction: float  # of all steps, rising linearly; then falling
    momentum: float  # Nesterov
    weight_decay: float
    decay_all: bool  # else kernels only: BatchNorm and biases are spared
    label_smoothing: float
    drop_remainder: bool  # whether an epoch leaves out its last short batch
    # "muon" takes orthogonal steps for 1x1 kernels
    optimizer: Younger[str] = "sgd"
    schedule: Younger[str] = "cosine"  # or "linear": down to zero
    padding: Younger[int] = 4  # pixels on each side before a random crop
    border: Younger[str] = "zeros"  # or "reflect"
    alternate_flip: Younger[bool] = False  # every other epoch; else by chance
    muon_scale: Younger[float] = 0.05  # of a Muon step, in learning rates
    muon_weight_decay: Younger[float] = 0.01  # per step, in learning rates
    muon_gates: Younger[bool] = True  # for squeeze-and-excite as well
    # What an average over the steps keeps of itself at each, e.g. 0.999; 0: no
    # average. It is validated, selected and saved in the weights' place, with
    # BatchNorm's moving statistics, which stay those of the weights trained.
    ema_momentum: Younger[float] = 0.0
    cutout: Younger[int] = 0  # pixels of the square's side: data/mixing.py
    mixup: Younger[float] = 0.0  # alpha of Beta(alpha, alpha)
    cutmix: Younger[float] = 0.0  # alpha; beside mixup, either by a fair draw
    start: Younger[str] = "random"  # or "cifar10": models/saving/pretrained.py


# Ours, for few epochs; what it was chosen by is in docs/log.md.
_BEST = Recipe(
    epochs=8,
    batch_size=64,
    peak_learning_rate=0.1,
    warmup_fraction=0.25,
    momentum=0.9,
    weight_decay=5e-4,
    decay_all=False,
    label_smoothing=0.05,
    drop_remainder=True,
    optimizer="muon",
    schedule="linear",
    padding=2,
    border="reflect",
    alternate_flip=True,
)

RECIPES = {
    # The paper's, see docs/provenance.md.
    "paper": Recipe(
        epochs=200,
        batch_size=256,
        peak_learning_rate=0.01,
        warmup_fraction=0.3,
        momentum=0.9,
        weight_decay=0.01,
        decay_all=True,
        label_smoothing=0.0,
        drop_remainder=False,
    ),
    # Common for CIFAR-10 (github.com/kuangliu/pytorch-cifar). Labels are not
    # smoothed: a teacher that was tells less of how classes resemble each
    # other (Mueller et al., "When Does Label Smoothing Help?", 2019).
    "teacher": Recipe(
        epochs=200,
        batch_size=128,
        peak_learning_rate=0.1,
        warmup_fraction=0.05,
        momentum=0.9,
        weight_decay=5e-4,
        decay_all=True,
        label_smoothing=0.0,
        drop_remainder=True,
    ),
    # Minutes on two CPU cores. Not tuned.
    "quick": Recipe(
        epochs=8,
        batch_size=128,
        peak_learning_rate=0.1,
        warmup_fraction=0.25,
        momentum=0.9,
        weight_decay=5e-4,
        decay_all=False,
        label_smoothing=0.1,
        drop_remainder=True,
    ),
    "best": _BEST,
    # "best" for 50 epochs and more (docs/log.md): views vary more, and gates
    # learn. Networks of width 0.5 and more want holes as well, `cutout=8`.
    "long": dataclasses.replace(_BEST, epochs=50, padding=4, muon_gates=False),
    # For few images of your own: batch and epochs are set by their number
    # (config/images.py), and training starts from CIFAR-10's weights.
    "finetune": dataclasses.replace(
        _BEST,
        epochs=30,
        batch_size=32,
        peak_learning_rate=0.05,
        warmup_fraction=0.2,
        start="cifar10",
    ),
}
FEW_IMAGES = 20_000  # of your own: at most so many are fine-tuned on
