"""Files measured beside the published ones, as rows of the board."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

from gnsmall_keras.data.dataset import Dataset
from gnsmall_keras.devices.benchmark import FileBenchmark, benchmark
from gnsmall_keras.devices.resnet8 import LARGE
from gnsmall_keras.devices.runtime import TFLiteModel
from gnsmall_keras.report.networks import GIVEN, Network, Networks
from gnsmall_keras.training.evaluation import accuracy

_CLOSE = 0.01  # cited multiply-accumulates are rounded


def measure_networks(
    networks: Networks,
    files: Sequence[str | os.PathLike[str]],
    dataset: Dataset,
    *,
    published: str | os.PathLike[str],
    rounds: int = 30,
) -> Networks:
    """Measures files, and times the published ones in the same run.

    A file of a peer's size and multiply-accumulates takes the peer's row.

    Args:
        networks: ours and the peers, from records.
        files: int8 .tflite classifiers, such as MLPerf Tiny's.
        dataset: its test images give the accuracies.
        published: the folder of our files.
        rounds: as `benchmark` has them.

    Returns:
        The networks with what was measured: of `files` everything but the
        instructions, of ours the latency on this processor.

    Raises:
        ValueError: if a file is no int8 classifier of `dataset`'s images and
            classes.
    """
    given = [os.fspath(file) for file in files]
    accuracies = [_accuracy(file, dataset) for file in given]
    ours = [os.fspath(Path(published) / one.file) for one in networks.ours]
    report = benchmark([*given, *ours], runtimes=("litert",), rounds=rounds)
    processor = report.hardware["processor"]
    timed = [
        one._replace(
            latencies={**one.latencies, processor: _ratio(file)},
            older={k: v for k, v in one.older.items() if k != processor},
        )
        for one, file in zip(
            networks.ours, report.files[len(given) :], strict=True
        )
    ]
    peers = {one.name: one for one in networks.peers}
    for file, share in zip(report.files, accuracies, strict=False):
        known = next((one for one in peers.values() if _is_of(file, one)), None)
        row = known or Network(
            Path(file.name).name,
            ours=False,
            int8=None,
            float=None,
            size_bytes=None,
            macs=None,
        )
        peers[row.name] = row._replace(
            int8=100 * share,
            size_bytes=file.size_bytes,
            macs=file.macs,
            arena_bytes=file.arena_bytes,
            operators=file.ops,
            latencies={processor: _ratio(file)},
            evidence=GIVEN,
        )
    return networks._replace(ours=timed, peers=[*peers.values()])


def _accuracy(file: str, dataset: Dataset) -> float:
    model = TFLiteModel(file)
    if model.dtypes[0] == "float32":
        raise ValueError(
            "The board compares int8 files. Received: "
            f"{file}, which takes float32. Give its int8 file."
        )
    dataset.check_classes(file, model.classes)
    return accuracy(model.predict(dataset.test_images), dataset.test_labels)


def _ratio(file: FileBenchmark) -> float:
    return file.latencies[0].ratios[LARGE]


def _is_of(file: FileBenchmark, peer: Network) -> bool:
    return peer.size_bytes == file.size_bytes and (
        peer.macs is None or math.isclose(peer.macs, file.macs, rel_tol=_CLOSE)
    )
