"""Commands that write or measure files of networks."""

import contextlib
import dataclasses
import functools
from pathlib import Path
from typing import Annotated

import tyro

from gnsmall_keras.commands import printing
from gnsmall_keras.commands.arguments import Flat, PositionalPath
from gnsmall_keras.config import ExportConfig
from gnsmall_keras.devices.runtime import Runtime
from gnsmall_keras.records.jsonl import replacing
from gnsmall_keras.records.run import MODEL_FILE


def export(
    model: PositionalPath,
    data: str,
    config: Flat[ExportConfig],
    out: Path | None = None,
    exports: Path | None = None,
    layer_errors: bool = False,
    layer_figure: Path | None = None,
    card: bool = False,
) -> None:
    """Fuses and quantises a .keras file into a .tflite file, and checks it.

    A model in the folder of a run gets a record, for `gnsmall report`.

    Args:
        model: the .keras file.
        data: where calibration images (training split) and test images are
            from: "digits", "cifar10", "cifar100" or a path.
        config: what kind of file.
        out: the new file; by default beside `model`.
        exports: JSON-lines file of export records; by default exports.jsonl
            in the folder of all runs. A model outside a run's has none.
        layer_errors: prints how far an int8 file departs from the float
            network, operator by operator; the report has it too.
        layer_figure: the same as a picture, .png or .svg.
        card: writes what a published file should come with, as Markdown beside
            it; of a model in the folder of its run.
    """
    from gnsmall_keras.export.card import teachers_of
    from gnsmall_keras.models.files import load_model
    from gnsmall_keras.records.export import EXPORTS_FILE, find_run

    run = find_run(model)
    if (exports or card) and not run:
        raise ValueError(
            "An export record and a card name the run that a model came of. "
            f"Received: {model} without record.json beside it. Give the model "
            "in the run's folder, or leave --exports and --card out."
        )
    if layer_figure and layer_figure.suffix not in (".png", ".svg"):
        raise ValueError(
            "`layer_figure` must end in .png or .svg. "
            f"Received: {layer_figure}."
        )
    if (layer_errors or layer_figure) and not config.is_int8:
        raise ValueError(
            "`layer_errors` and `layer_figure` compare an int8 file with the "
            f"float network. Received: quantization={config.quantization!r}."
        )
    runs = model.resolve().parent.parent
    teachers = []
    if card:
        teachers = teachers_of(
            run, lambda name: find_run(runs / name / MODEL_FILE)
        )
    report = export_network(
        load_model(model),
        out or model.with_suffix(".tflite"),
        data,
        config,
        run=run,
        exports=exports or runs / EXPORTS_FILE,
        layer_errors=layer_errors or layer_figure is not None,
    )
    printing.print_export(report)
    if report.layers and layer_errors:
        printing.print_layer_errors(report.layers)
    if report.layers and layer_figure:
        _write_layer_figure(report.layers, layer_figure)
    if card:
        _write_card(report, run, teachers, out or model)
    if report.faults:
        raise ValueError(
            f"The file does not fit {report.target!r}: "
            f"{'; '.join(report.faults)}."
        )


def c_array(
    file: PositionalPath, out: Path, labels: Path | None = None
) -> None:
    """Writes a .tflite file as C++ for microcontrollers: model.h and model.cc.

    Args:
        file: an int8 .tflite file.
        out: folder of the two files.
        labels: a text file, one class a line; by default the file's metadata,
            else numbers.
    """
    from gnsmall_keras.devices.c_array import write_c_array

    names = None
    if labels is not None:
        names = labels.read_text(encoding="utf-8").splitlines()
    for path in write_c_array(file, out, labels=names):
        printing.show(f"Wrote {path}")


def evaluate(
    model: PositionalPath,
    data: str,
    runtime: Runtime = "litert",
    limit: int | None = None,
) -> None:
    """Prints the test accuracy of a .keras or .tflite file.

    Args:
        model: the file.
        data: "digits", "cifar10", "cifar100" or a path.
        runtime: for .tflite files.
        limit: at most so many test images.
    """
    from gnsmall_keras.data.sources import load_data
    from gnsmall_keras.devices.runtime import TFLiteModel
    from gnsmall_keras.models.files import load_model
    from gnsmall_keras.training import evaluation

    if limit is not None and limit < 1:
        raise ValueError(f"`limit` must be >= 1. Received: {limit}.")
    if model.suffix == ".tflite":
        predict = TFLiteModel(model, runtime=runtime).predict
        where = runtime
    else:
        network = load_model(model)
        predict = functools.partial(evaluation.predict_logits, network)
        where = "float32"
    dataset = load_data(data)
    images, labels = dataset.test_images[:limit], dataset.test_labels[:limit]
    if not len(images):
        raise ValueError(f"{data!r} has no test split. Add a folder test/.")
    logits = predict(images)
    _check_classes(model, logits.shape[-1], dataset, data)
    accuracy = evaluation.accuracy(logits, labels)
    printing.show(
        f"{model} ({where}) on {dataset.name}: test accuracy "
        f"{printing.percent(accuracy)}, n={len(images):,}"
    )


def benchmark(
    files: Annotated[tuple[Path, ...], tyro.conf.Positional],
    runtimes: tuple[Runtime, ...] = (),
    threads: tuple[int, ...] = (1,),
    rounds: int = 30,
    profile: bool = False,
    out: Path | None = None,
    exports: Path | None = None,
) -> None:
    """Prints how long .tflite files take, beside MLPerf Tiny's ResNet-8.

    Args:
        files: classifiers, as `gnsmall export` writes them.
        runtimes: by default all that are installed.
        threads: counts to measure.
        rounds: turns of each file, of 20 ms or one call.
        profile: prints what the operators take as well.
        out: a JSON file for the report.
        exports: JSON-lines file of export records that get the latencies.
    """
    from gnsmall_keras.devices.benchmark import benchmark, record_latencies

    report = benchmark(
        files,
        runtimes=runtimes,
        threads=threads,
        rounds=rounds,
        profile=profile,
    )
    printing.print_benchmark(report)
    if out is not None:
        with replacing(out) as unfinished:
            unfinished.write_text(report.to_json() + "\n", encoding="utf-8")
        printing.show(f"Wrote {out}")
    if exports is not None:
        record_latencies(report, exports)


def export_network(
    network, path, data, config, *, run=None, exports, layer_errors=False
):
    """Exports a network, with the record of the run it came of, if any."""
    from gnsmall_keras.data.sources import load_data
    from gnsmall_keras.export.tflite import export_tflite
    from gnsmall_keras.quantization.calibration import calibration_split
    from gnsmall_keras.quantization.qat import prepare_training
    from gnsmall_keras.records.export import append_export, describe_source

    source = describe_source(run) if run else None
    dataset = load_data(data)
    _check_data(network, dataset, data, run)
    training = None
    if config.compress:
        network = _compressed(network, dataset, config, run)
    if config.quantization == "int8-qat":
        training = prepare_training(network, dataset, config, run)
        waiting = contextlib.nullcontext()  # the training has its own line
    else:
        waiting = printing.console.status(
            "converting, then running the test images"
        )
    with waiting:
        report = export_tflite(
            network,
            path,
            target=config.target,
            quantization=config.quantization,
            calibration_images=calibration_split(
                dataset, config.calibration_size
            ),
            calibration=config.calibration,
            float_layers=config.float_layers,
            training=training,
            evaluation_images=dataset.test_images,
            evaluation_labels=dataset.test_labels,
            class_names=dataset.class_names,
            source=source,
            layer_errors=layer_errors,
            compressed=config.compress,
        )
    if source:
        append_export(dataclasses.asdict(report), exports)
    return report


def _compressed(network, dataset, config, run):
    """The fused network with weights that pack better, the float one taught."""
    from gnsmall_keras.models.deploy import to_deploy
    from gnsmall_keras.quantization.compression import Compression, compress
    from gnsmall_keras.quantization.qat import prepare_training

    teaching = dataclasses.replace(
        config,
        compress="",
        quantization="int8-qat",
        qat_images=config.compress_images,
    )
    training = prepare_training(network, dataset, teaching, run)
    how = Compression.parse(config.compress)
    return compress(to_deploy(network), how, training)


def _check_data(network, dataset, data, run):
    """Records and cards say that a file was measured on its run's images."""
    if run and run.data_digest != dataset.digest:
        raise ValueError(
            "A model in the folder of its run is exported with the run's own "
            f"images. Received: {data!r} of digest {dataset.digest} for a run "
            f"on {run.data_digest}. Give --data {run.config['data']}, or copy "
            "the model to a folder of its own."
        )
    _check_classes("The model", network.output_shape[-1], dataset, data)


def _check_classes(model, classes, dataset, data):
    if classes != dataset.classes:
        raise ValueError(
            f"{model} tells {classes} classes apart, {data!r} has "
            f"{dataset.classes}. Give the data it was trained on."
        )


def _write_card(report, run, teachers, file):
    from gnsmall_keras.export.card import make_card

    path = file.with_suffix(".md")
    with replacing(path) as unfinished:
        text = make_card(report, run, teachers)
        unfinished.write_text(text, encoding="utf-8")
    printing.show(f"Wrote {path}")


def _write_layer_figure(layers, path):
    from gnsmall_keras.report.figures.drawing import render
    from gnsmall_keras.report.figures.noise import draw_layer_errors

    picture = render(draw_layer_errors(layers), path.suffix[1:])
    with replacing(path) as unfinished:
        unfinished.write_bytes(picture)
    printing.show(f"Wrote {path}")
