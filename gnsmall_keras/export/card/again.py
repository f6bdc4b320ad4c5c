"""The commands that make a .tflite file again."""

import shlex
from collections.abc import Sequence

from gnsmall_keras.config import ExportConfig
from gnsmall_keras.export.tflite import ExportReport
from gnsmall_keras.records.commands import USUAL, option, reproduce
from gnsmall_keras.records.run import RunRecord


def commands(report: ExportReport, runs: Sequence[RunRecord]) -> str:
    """Returns the lines, as Markdown's code: of the runs, then of the file.

    Args:
        report: of the file.
        runs: in their order; the last is that which the file came of.
    """
    record = runs[-1]
    folder = f"runs/{record.slug}"
    exporting = ["gnsmall", "export", f"{folder}/model.keras"]
    exporting += ["--data", record.config["data"], "--target", report.target]
    exporting += ["--quantization", report.quantization]
    usual = ExportConfig()
    if report.calibration not in (None, usual.calibration):
        exporting += ["--calibration", report.calibration]
    if report.calibration_images != usual.calibration_size:
        exporting += ["--calibration-size", str(report.calibration_images)]
    if report.float_layers:
        exporting += ["--float-layers", *report.float_layers]
    if report.head_units is not None:
        exporting += ["--head-units", str(report.head_units)]
    if report.compressed:
        exporting += ["--compress", report.compressed]
        if report.compress_images != usual.compress_images:
            exporting += ["--compress-images", str(report.compress_images)]
    if report.qat:
        exporting += ["--qat-epochs", str(report.qat["epochs"])]
        if report.qat["images"] < record.train_images:
            exporting += ["--qat-images", str(report.qat["images"])]
        if report.qat["label_weight"] and report.qat["teacher"]:
            # Only its name is known.
            exporting += ["--teacher", f"TEACHER ({report.qat['teacher']})"]
    for name in ("aspect", "skip_broken"):
        if record.config.get(name, USUAL[name]) != USUAL[name]:
            exporting += option(name, record.config[name])
    lines = [
        f"KERAS_BACKEND={run.backend} {reproduce(run)}  "
        f"# commit {run.commit[:7]}"
        for run in runs
    ]
    lines.append(shlex.join(exporting))
    return "\n".join(f"    {line}" for line in lines)
