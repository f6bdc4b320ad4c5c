"""From a trained model to a checked .tflite file and its report."""

import dataclasses
import gzip
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from gnsmall_keras.config import TRAINED, ExportConfig
from gnsmall_keras.data.dataset import Dataset
from gnsmall_keras.devices.checks import find_faults, read_contents
from gnsmall_keras.devices.edgetpu import EdgeTpuReport, predict_mapping
from gnsmall_keras.devices.ethosu import EthosUReport, map_all
from gnsmall_keras.devices.targets import TARGETS
from gnsmall_keras.distill.checks import check_logits
from gnsmall_keras.export.arguments import (
    check_compressed,
    check_installed,
    check_training,
    checked_images,
    checked_labels,
    checked_network,
    checked_path,
)
from gnsmall_keras.export.convert import convert
from gnsmall_keras.export.measure import measure
from gnsmall_keras.export.metadata import (
    check_beside,
    with_labels,
    write_beside,
)
from gnsmall_keras.export.operators import macs_of
from gnsmall_keras.export.rewrite import rewrite
from gnsmall_keras.export.smaller import make_packable, make_small
from gnsmall_keras.models import counting
from gnsmall_keras.models.deploy import to_deploy
from gnsmall_keras.quantization.calibration import calibration_split
from gnsmall_keras.quantization.layer_errors import (
    LayerError,
    find_layer_errors,
)
from gnsmall_keras.quantization.qat import (
    QuantizationTraining,
    prepare_training,
)
from gnsmall_keras.records.export import append_export, describe_source
from gnsmall_keras.records.provenance import package_versions
from gnsmall_keras.records.run import RunRecord
from gnsmall_keras.writing import replacing

COMPARED_LAYERS = 20  # images on which operators are compared


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What an exported file contains and does; measured, not intended.

    Accuracies and agreement are in [0, 1] on `evaluated_images` images of
    LiteRT; `micro_accuracy` and the differences, which are in steps of the
    output's quantisation (LSB), on the first `compared_images`. All are None
    where no images were given.

    Example:
        >>> import json, pathlib
        >>> text = pathlib.Path("tflite/gns-w1-cifar10-micro.json").read_text()
        >>> report = json.loads(text)  # what is beside a file
        >>> report["arena_bytes"], report["faults"]
        (142224, [])
    """

    path: str
    source: dict[str, Any] | None  # `records.export.describe_source`
    target: str
    quantization: str
    size_bytes: int
    gzip_bytes: int | None = None  # what an update over the air costs
    sha256: str
    parameters: int
    macs: int
    ops: dict[str, int]
    dtypes: dict[str, int]
    faults: list[str]
    xnnpack_partitions: int  # pieces that XNNPACK runs
    edge_tpu: EdgeTpuReport | None  # of files for it
    # Of files for it, one an accelerator, where Vela is installed.
    ethos_u: list[EthosUReport] | None = None
    # The least; None where TFLite Micro does not run it or is not installed.
    arena_bytes: int | None
    calibration: str | None  # None where no range is calibrated
    calibration_images: int
    # Of an int8 file, layers that stay float; older reports do not say.
    float_layers: list[str] = dataclasses.field(default_factory=list)
    # Constant ones that the file does without; older reports do not say.
    folded_gates: list[str] = dataclasses.field(default_factory=list)
    class_names: list[str] = dataclasses.field(default_factory=list)
    head_units: int | None = None  # that were kept; None: all
    aspect: str | None = None  # "crop", "pad" or "squash"; None: not known
    compressed: str = ""  # such as "cluster:32"
    compress_images: int | None = None  # at most so many, for that; None: all
    qat: dict[str, Any] | None  # how int8 was trained, its losses
    layers: list[LayerError] | None  # of int8 files, where asked for
    evaluated_images: int
    float_accuracy: float | None
    accuracy: float | None
    agreement: float | None  # of the file's argmax with the float model's
    compared_images: int
    micro_accuracy: float | None  # on TFLite Micro
    # LiteRT's default and TFLite Micro, against reference; of integer files
    # whose operators it all has.
    xnnpack_difference_lsb: int | None
    xnnpack_agreement: float | None  # of its argmax with the reference's
    micro_difference_lsb: int | None
    versions: dict[str, str]

    @property
    def knows_micro(self) -> bool:
        """Whether TFLite Micro was there to try the file."""
        return "tflite-micro" in self.versions

    def to_json(self) -> str:
        """Returns the report as indented JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True)


def export_tflite(
    model: keras.Model,
    path: str | os.PathLike,
    config: ExportConfig | None = None,
    *,
    calibration_images: np.ndarray,
    training: QuantizationTraining | None = None,
    evaluation_images: np.ndarray | None = None,
    evaluation_labels: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    aspect: str | None = None,
    source: dict[str, Any] | None = None,
    layer_errors: bool = False,
    compressed: str = "",
    folded_gates: Sequence[str] = (),
    **options: Any,
) -> ExportReport:
    """Writes `model` as a .tflite file, and what it contains beside it.

    The branched network is fused first. The file takes raw pixels of one
    image and returns logits, for phones and browsers probabilities; `path`
    with the suffix ".json" gets the report.

    Args:
        model: from normalised images to logits, branched or fused.
        path: of the new file, in a folder that exists, ending in ".tflite".
        config: what kind of file; None: one made of `options`.
        calibration_images: uint8 `(n, height, width, 3)` of the training
            split; 100 to 500 are usual, fewer than 20 are warned of.
        training: of "int8-qat" and "int8-tfmot", and only of them.
        evaluation_images: uint8, for accuracy and agreement.
        evaluation_labels: class indices of `evaluation_images`, `(n,)`.
        class_names: one a class; a file for phones has them as metadata,
            every file has them in `labels.txt` beside it. Without them one
            that is there already is warned of.
        aspect: how images became square, "crop", "pad" or "squash".
        source: the run that the model came of, by `describe_source`.
        layer_errors: whether to compare an int8 file with the float network
            operator by operator, on the first 20 calibration images.
        compressed: how the weights were made to pack better, for the report;
            such a model is converted as it is.
        folded_gates: names of those that it was freed of before, for the
            report.
        **options: fields of an `ExportConfig`, such as `target="android"`.

    Returns:
        The report. `report.faults` has the violations of the target's rules.

    Raises:
        ValueError: if an argument is out of range or the conversion fails;
            nothing is written then.

    Example:
        >>> layers = [keras.layers.Flatten(), keras.layers.Dense(10)]
        >>> model = keras.Sequential([keras.Input((32, 32, 3)), *layers])
        >>> images = gns.load_data("digits").train_images[:32]
        >>> report = gns.export_tflite(
        ...     model, "digits.tflite", calibration_images=images
        ... )
        >>> report.target, report.quantization, report.faults
        ('micro', 'int8', [])
    """
    config = _settled(config, options, compressed)
    check_installed()
    model = checked_network(model, config.quantization)
    path = checked_path(path)
    calibration_images = checked_images(calibration_images, model, aspect)
    labels = checked_labels(evaluation_labels, evaluation_images, model)
    tested = evaluation_images, labels
    check_training(training, config.quantization, model)
    check_beside(path, class_names)
    check_logits(model)
    deployed = to_deploy(model)
    small, gates = deployed, list(folded_gates)
    if not compressed:  # a factor would give kernels of few values many
        small, gates = make_small(deployed, config, calibration_images)
    converted, data = _make(
        small, config, calibration_images, training, class_names
    )
    described = _describe(data, config, small)
    report_path = path.with_suffix(".json")
    with replacing(path) as file, replacing(report_path) as report_file:
        file.write_bytes(data)
        measured, faults = _measure(file, deployed, config, *tested)
        found = [fault.replace(str(file), path.name) for fault in faults]
        described["faults"] += found
        report = ExportReport(
            path=path.name,
            source=source,
            class_names=list(class_names or []),
            aspect=aspect,
            calibration=config.calibration if converted.floats else None,
            calibration_images=len(calibration_images),
            qat=_training(training, converted),
            layers=_layers(converted, calibration_images, layer_errors),
            compressed=compressed,
            folded_gates=gates,
            **described,
            **measured,
            versions=package_versions(),
        )
        report_file.write_text(report.to_json() + "\n", encoding="utf-8")
    write_beside(path, class_names)
    return report


def _measure(file, deployed, config, images, labels):
    """Runs a file; returns fields of a report, and violations."""
    if images is None:
        images = np.zeros((0, *deployed.input_shape[1:]), np.uint8)
    ethos_u, left = map_all(file) if config.target == "ethos-u" else (None, [])
    measured = measure(file, deployed, images, labels, config.target)
    faults = [*left, *measured.pop("faults")]
    return {**measured, "ethos_u": ethos_u}, faults


def export_network(
    network: keras.Model,
    path: str | os.PathLike,
    dataset: Dataset,
    config: ExportConfig,
    *,
    run: RunRecord | None = None,
    exports: str | os.PathLike,
    layer_errors: bool = False,
) -> ExportReport:
    """Exports a network with a data set's images, and records the file.

    Args:
        network: as `model` of `export_tflite`.
        path: of the new file.
        dataset: its training split has the calibration images, its test split
            the evaluation's.
        config: what kind of file.
        run: that the network came of; the file of one gets a record.
        exports: file of these records.
        layer_errors: as of `export_tflite`.

    Raises:
        ValueError: if the data are not the run's or have other classes, or as
            `export_tflite`.
    """
    source = describe_source(run) if run else None
    _check_data(network, dataset, run)
    check_beside(checked_path(path), dataset.class_names)  # before any training
    training = None
    if config.quantization in TRAINED:  # by the network as it is
        training = prepare_training(network, dataset, config, run)
    gates: Sequence[str] = ()
    if config.compress:
        network, gates = make_packable(network, dataset, config, run)
    report = export_tflite(
        network,
        path,
        config=config,
        calibration_images=calibration_split(dataset, config.calibration_size),
        training=training,
        evaluation_images=dataset.test_images,
        evaluation_labels=dataset.test_labels,
        class_names=dataset.class_names,
        aspect=run.config.get("aspect", "crop") if run else dataset.aspect,
        source=source,
        layer_errors=layer_errors,
        compressed=config.compress,
        folded_gates=gates,
    )
    if source:
        append_export(dataclasses.asdict(report), exports)
    return report


def _check_data(network, dataset, run):
    """Records and cards say that a file was measured on its run's images."""
    if run and run.data_digest != dataset.digest:
        raise ValueError(
            "A model in the folder of its run is exported with the run's own "
            f"images. Received: {dataset.name!r} of digest {dataset.digest} "
            f"for a run on {run.data_digest}. Give --data "
            f"{run.config['data']}, or copy the model to a folder of its own."
        )
    dataset.check_classes("The model", network.output_shape[-1])


def _settled(config, options, compressed):
    if config and options:
        raise ValueError(
            "Give `config` or fields of it, not both. Received: a config and "
            f"{sorted(options)}."
        )
    config = config or ExportConfig(**options)
    check_compressed(config.compress, compressed)
    return config


def _make(deployed, config, calibration_images, training, class_names):
    """The converter's files, and the bytes of the one that is written."""
    device = TARGETS[config.target]
    converted = convert(
        deployed,
        config,
        calibration_images=calibration_images,
        training=training,
    )
    data = rewrite(converted.data, for_xnnpack=device.for_xnnpack)
    if device.labels and class_names is not None:
        data = with_labels(data, class_names)
    return converted, data


def _training(training, converted):
    """How an int8 file learned, and its losses on validation images."""
    if training is None:
        return None
    return {**training.describe(), "validation_losses": [*converted.losses]}


def _describe(data, config, deployed) -> dict[str, Any]:
    """What the bytes of a file say."""
    contents, target = read_contents(data), TARGETS[config.target]
    edge_tpu = predict_mapping(data) if target.name == "edgetpu" else None
    islands = bool(config.float_layers)
    faults = find_faults(contents, target, config.quantization, islands=islands)
    return {
        "target": config.target,
        "quantization": config.quantization,
        "head_units": config.head_units,
        "compress_images": config.compress_images if config.compress else None,
        "parameters": counting.count_parameters(deployed),
        "macs": macs_of(deployed, data),
        "size_bytes": len(data),
        "gzip_bytes": len(gzip.compress(data, mtime=0)),
        "sha256": hashlib.sha256(data).hexdigest(),
        "float_layers": list(config.float_layers),
        "ops": contents.ops,
        "dtypes": contents.dtypes,
        "edge_tpu": edge_tpu,
        "faults": [
            *faults,
            *(edge_tpu.faults if edge_tpu and not islands else ()),
        ],
    }


def _layers(converted, images, wanted):
    """Errors by layer, of files that have a float network to compare with."""
    if not (wanted and converted.floats):
        return None
    return find_layer_errors(
        converted.floats,
        converted.data,
        converted.layers,
        images[:COMPARED_LAYERS],
    )
