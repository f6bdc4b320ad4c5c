"""What others published, on CIFAR-10: the paper's numbers and its rivals'.

Accuracies in percent, as published. docs/provenance.md has the paper's
sources, cited records name their own; a test pins every row.
"""

import functools
from typing import NamedTuple

from gnsmall_keras.records.cited import CitedRecord, read_cited

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


REFERENCE = "MLPerf Tiny IC2"  # its large ResNet, what latencies are told by


@functools.cache
def find_peers() -> dict[str, CitedRecord]:
    """Returns others' networks by name, as the package's cited records say."""
    return {one.name: one for one in read_cited() if one.sha256 is None}
