"""The paper's and the peers' numbers are those that were published."""

import re

import pytest

from gnsmall_keras.models.spec import COUNTS, PAPER_WIDTHS
from gnsmall_keras.report.published import PAPER_RUNS, find_peers

PAPER = {
    ("gns", 1.0): (91.37, 91.25),
    ("gns", 1.3): (92.35, 92.25),
    ("gns", 1.6): (92.63, 92.60),
    ("gns", 1.9): (93.23, 93.23),
    ("gns", 2.2): (93.26, 93.21),
    ("gns", 2.8): (93.94, 93.94),
    ("gns", 3.4): (93.61, 93.49),
    ("gnd", 1.0): (91.23, 91.17),
}
# Accuracy, millions of parameters, millions of multiply-accumulates; float.
FLOAT = {
    "ResNet-20": (92.60, 0.27, 40.81),
    "ResNet-32": (93.53, 0.47, 69.12),
    "ResNet-44": (94.01, 0.66, 97.44),
    "ResNet-56": (94.37, 0.86, 125.75),
    "VGG-11": (92.79, 9.76, 153),
    "VGG-13": (94.00, 9.94, 229),
    "VGG-16": (94.16, 15.25, 314),
    "VGG-19": (93.91, 20.57, 399),
    "MobileNetV2 x0.5": (92.88, 0.70, 27.97),
    "MobileNetV2 x0.75": (93.72, 1.37, 59.31),
    "MobileNetV2 x1": (93.79, 2.24, 87.98),
    "MobileNetV2 x1.4": (94.22, 4.33, 170.07),
    "ShuffleNetV2 x0.5": (90.13, 0.35, 10.90),
    "ShuffleNetV2 x1": (92.98, 1.26, 45.00),
    "ShuffleNetV2 x1.5": (93.55, 2.49, 94.26),
    "ShuffleNetV2 x2": (93.81, 5.37, 187.81),
    "RepVGG A0": (94.39, 7.84, 489),
    "RepVGG A1": (94.89, 12.82, 851),
    "RepVGG A2": (94.98, 26.82, 1850),
    "cifar10-tiniest": (94.4, 0.09753, 43.9),
    "MLPerf Tiny IC1": (87.19, 0.077706, 12.50),
    "MLPerf Tiny IC2": (91.28, 0.480330, 76.47),
    "Silicon Labs ResNet-8": (86.2, 0.077706, 12.50),
    "ST ResNet-8": (87.01, 0.077706, 12.50),
    "Seeed MobileNetV2-0.35-Rep": (74.76, None, None),
    "Seeed MobileNetV2-0.5-Rep": (80.46, None, None),
}
# Accuracy of the int8 file, its bytes, arena, instructions, operators.
INT8 = {
    "MLPerf Tiny IC1": (86.97, 98_496, 55_984, 31_990_000, 16),
    "MLPerf Tiny, medium (removed)": (89.98, 260_648, None, None, None),
    "MLPerf Tiny IC2": (91.31, 512_024, 133_744, 159_473_280, 16),
    "Silicon Labs ResNet-8": (86.1, 99_300, None, None, None),
    "MAX78000 NAS net": (89.14, 301_760, None, None, None),
    "ST ResNet-8": (85.59, None, None, None, None),
    "Seeed MobileNetV2-0.35-Rep": (74.56, None, None, None, None),
    "Seeed MobileNetV2-0.5-Rep": (80.46, None, None, None, None),
}


def test_the_papers_accuracies_are_pinned():
    assert {key: tuple(run) for key, run in PAPER_RUNS.items()} == PAPER


def test_every_width_of_the_paper_is_there_with_its_sizes():
    assert {width for name, width in PAPER_RUNS if name == "gns"} == {
        *PAPER_WIDTHS
    }
    assert PAPER_RUNS.keys() <= COUNTS.keys()


def test_the_peers_are_pinned():
    peers = find_peers()
    assert peers.keys() == FLOAT.keys() | INT8.keys()
    for name, peer in peers.items():
        accuracy, parameters, macs = FLOAT.get(name, (None, None, None))
        assert peer.float_percent == accuracy
        if parameters:
            assert peer.parameters == pytest.approx(parameters * 1e6)
            assert peer.macs == pytest.approx(macs * 1e6)
        told = (
            *(peer.int8_percent, peer.size_bytes, peer.arena_bytes),
            *(peer.instructions, peer.operators),
        )
        assert told == INT8.get(name, (None,) * 5)


def test_every_peer_names_its_source():
    for peer in find_peers().values():
        assert re.match(r"github\.com/[\w-]+/[\w-]+", peer.source)
