"""Bytes, accuracy and agreement of every kind of file of one network.

Usage: python benchmarks/quantization.py MODEL [DATA] [IMAGES]

MODEL is a .keras file, DATA by default "cifar10", IMAGES the number of test
images (all of them). Those that train are left out; `gnsmall export` makes
them.
"""

import sys
import tempfile
from pathlib import Path

from gnsmall_keras.config import QUANTIZATIONS, TRAINED
from gnsmall_keras.data.sources import load_data
from gnsmall_keras.export.tflite import export_tflite
from gnsmall_keras.lines import percent
from gnsmall_keras.models.saving.files import load_model
from gnsmall_keras.quantization.calibration import calibration_split

KINDS = [
    (kind, calibration)
    for kind in QUANTIZATIONS
    for calibration in (("minmax", "mse") if kind == "int8" else ("mse",))
    if kind not in TRAINED
]


def main() -> None:
    """Exports and prints, kind by kind."""
    path = sys.argv[1]
    dataset = load_data(sys.argv[2] if len(sys.argv) > 2 else "cifar10")
    count = int(sys.argv[3]) if len(sys.argv) > 3 else None
    model = load_model(path)
    print(f"{path} on {dataset.name}, n={len(dataset.test_images[:count]):,}")
    print("| kind | bytes | accuracy | minus float, points | agreement |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kind, calibration in KINDS:
            report = export_tflite(
                model,
                Path(folder) / "model.tflite",
                quantization=kind,
                calibration=calibration,
                calibration_images=calibration_split(dataset, 200),
                evaluation_images=dataset.test_images[:count],
                evaluation_labels=dataset.test_labels[:count],
            )
            name = f"{kind}, {calibration}" if kind == "int8" else kind
            difference = 100 * (report.accuracy - report.float_accuracy)
            print(
                f"| {name} | {report.size_bytes:,} "
                f"| {percent(report.accuracy)} | {difference:+.2f} "
                f"| {percent(report.agreement)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
