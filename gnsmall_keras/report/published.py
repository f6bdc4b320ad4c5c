"""What others published, on CIFAR-10: the paper's numbers and its rivals'.

Accuracies in percent, as published. docs/provenance.md has the sources; a
test pins every row.
"""

from typing import NamedTuple

PAPER = "arXiv 2509.12380, the authors' training logs"
PAPER_EPOCHS = 200


class PaperRun(NamedTuple):
    """One training of the paper: seed 0, 200 epochs, all 50,000 images."""

    best: float  # of all epochs on the test split, as the paper reports
    last: float


# (network, width) -> accuracies; sizes are those of models.spec.COUNTS.
PAPER_RUNS: dict[tuple[str, float], PaperRun] = {
    ("gns", 1.0): PaperRun(91.37, 91.25),
    ("gns", 1.3): PaperRun(92.35, 92.25),
    ("gns", 1.6): PaperRun(92.63, 92.60),
    ("gns", 1.9): PaperRun(93.23, 93.23),
    ("gns", 2.2): PaperRun(93.26, 93.21),
    ("gns", 2.8): PaperRun(93.94, 93.94),
    ("gns", 3.4): PaperRun(93.61, 93.49),
    ("gnd", 1.0): PaperRun(91.23, 91.17),
}


class Peer(NamedTuple):
    """A published network for CIFAR-10, as its authors count it."""

    accuracy: float
    parameters: float
    macs: float
    source: str
    bytes: int | None = None  # of the published int8 file
    latency: float | None = None  # as a ratio to REFERENCE's


REFERENCE = "MLPerf Tiny IC2"  # its large ResNet, what latencies are told by
_CHENYAOFO = "chenyaofo/pytorch-cifar-models: README, 200 epochs"
_TINY = (
    "mlcommons/tiny: float file, 1,000 test images; parameters and "
    "multiply-accumulates counted for this package"
)
PEERS: dict[str, Peer] = {
    "ResNet-20": Peer(92.60, 0.27e6, 40.81e6, _CHENYAOFO),
    "ResNet-32": Peer(93.53, 0.47e6, 69.12e6, _CHENYAOFO),
    "ResNet-44": Peer(94.01, 0.66e6, 97.44e6, _CHENYAOFO),
    "ResNet-56": Peer(94.37, 0.86e6, 125.75e6, _CHENYAOFO),
    "VGG-11": Peer(92.79, 9.76e6, 153e6, _CHENYAOFO),
    "VGG-13": Peer(94.00, 9.94e6, 229e6, _CHENYAOFO),
    "VGG-16": Peer(94.16, 15.25e6, 314e6, _CHENYAOFO),
    "VGG-19": Peer(93.91, 20.57e6, 399e6, _CHENYAOFO),
    "MobileNetV2 x0.5": Peer(92.88, 0.70e6, 27.97e6, _CHENYAOFO),
    "MobileNetV2 x0.75": Peer(93.72, 1.37e6, 59.31e6, _CHENYAOFO),
    "MobileNetV2 x1": Peer(93.79, 2.24e6, 87.98e6, _CHENYAOFO),
    "MobileNetV2 x1.4": Peer(94.22, 4.33e6, 170.07e6, _CHENYAOFO),
    "ShuffleNetV2 x0.5": Peer(90.13, 0.35e6, 10.90e6, _CHENYAOFO),
    "ShuffleNetV2 x1": Peer(92.98, 1.26e6, 45.00e6, _CHENYAOFO),
    "ShuffleNetV2 x1.5": Peer(93.55, 2.49e6, 94.26e6, _CHENYAOFO),
    "ShuffleNetV2 x2": Peer(93.81, 5.37e6, 187.81e6, _CHENYAOFO),
    "RepVGG A0": Peer(94.39, 7.84e6, 489e6, _CHENYAOFO),
    "RepVGG A1": Peer(94.89, 12.82e6, 851e6, _CHENYAOFO),
    "RepVGG A2": Peer(94.98, 26.82e6, 1850e6, _CHENYAOFO),
    "MLPerf Tiny IC1": Peer(88.1, 77_706, 12.50e6, _TINY, 98_496),
    REFERENCE: Peer(91.5, 480_330, 76.47e6, _TINY, 512_024, 1.0),
}
