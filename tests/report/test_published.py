"""The paper's and the peers' numbers are those that were published."""

import re

import pytest
from support import ROOT

from gnsmall_keras.models.spec import COUNTS, PAPER_WIDTHS
from gnsmall_keras.report.published import PAPER_RUNS, PEERS

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
# Accuracy, millions of parameters, millions of multiply-accumulates.
PUBLISHED = {
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
    "MLPerf Tiny IC1": (88.1, 0.077706, 12.50),
    "MLPerf Tiny IC2": (91.5, 0.480330, 76.47),
}
# Bytes of int8 files; latency is told as a ratio to the large one's.
FILES = {"MLPerf Tiny IC1": (98_496, None), "MLPerf Tiny IC2": (512_024, 1.0)}


def test_the_papers_accuracies_are_pinned():
    assert {key: tuple(run) for key, run in PAPER_RUNS.items()} == PAPER


def test_every_width_of_the_paper_is_there_with_its_sizes():
    assert {width for name, width in PAPER_RUNS if name == "gns"} == {
        *PAPER_WIDTHS
    }
    assert PAPER_RUNS.keys() <= COUNTS.keys()


def test_the_peers_are_pinned():
    assert PEERS.keys() == PUBLISHED.keys()
    for name, (accuracy, parameters, macs) in PUBLISHED.items():
        peer = PEERS[name]
        assert peer.accuracy == accuracy
        assert peer.parameters == pytest.approx(parameters * 1e6)
        assert peer.macs == pytest.approx(macs * 1e6)
        assert (peer.bytes, peer.latency) == FILES.get(name, (None, None))


def test_every_peer_names_its_source():
    provenance = (ROOT / "docs/provenance.md").read_text()
    for peer in PEERS.values():
        repository = re.match(r"[\w-]+/[\w-]+", peer.source)
        assert repository
        assert f"github.com/{repository[0]}" in provenance
