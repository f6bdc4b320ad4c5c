"""Commands that make files of networks."""

from pathlib import Path

from gnsmall_keras.commands import printing
from gnsmall_keras.commands.arguments import (
    IMAGE_OPTIONS,
    Flat,
    ImageOptions,
    PositionalPath,
)
from gnsmall_keras.commands.images import check_data, load_for
from gnsmall_keras.config import ExportConfig
from gnsmall_keras.records.run import INDEX_FILE, MODEL_FILE
from gnsmall_keras.writing import check_writable, replacing


def export(
    model: PositionalPath,
    data: str,
    config: Flat[ExportConfig],
    out: Path | None = None,
    exports: Path | None = None,
    details: bool = False,
    layer_errors: bool = False,
    layer_figure: Path | None = None,
    card: bool = False,
    reading: Flat[ImageOptions] = IMAGE_OPTIONS,
) -> None:
    """Fuses and quantises a .keras file into a .tflite file, and checks it.

    For a model in a run's folder, appends a record for `gnsmall report`.

    Args:
        model: the .keras file.
        data: source of calibration images (training split) and test images:
            "digits", "cifar10", "cifar100" or a path.
        config: what kind of file.
        out: the new file; by default beside the .keras file, ending in .tflite.
        exports: JSON-lines file of export records; by default exports.jsonl
            in the folder of all runs. A model outside a run's has none.
        details: prints the whole report as a table.
        layer_errors: prints how far an int8 file departs from the float
            network, operator by operator; the report has it too.
        layer_figure: the same as a picture, .png or .svg.
        card: writes what a published file should come with, as Markdown beside
            it; of a model in the folder of its run.
        reading: how images are read.
    """
    check_data(data)
    _check_extras(config)
    from gnsmall_keras.export.tflite import export_network
    from gnsmall_keras.models.saving.files import class_names_of, load_model
    from gnsmall_keras.records.commands import teachers_of
    from gnsmall_keras.records.export import EXPORTS_FILE, find_run

    run = find_run(model)
    _check_run(run, model, exports or card)
    for name, file in (("exports", exports), ("layer_figure", layer_figure)):
        if file:
            check_writable(file, name)
    if layer_errors or layer_figure:
        _check_layers(layer_figure, config)
    runs, teachers = model.resolve().parent.parent, []
    if card:
        teachers = teachers_of(
            run, lambda name: find_run(runs / name / MODEL_FILE)
        )
    network = load_model(model)
    shape, names = network.input_shape[1:], class_names_of(model)
    dataset = load_for(data, shape, reading, run and run.config)
    dataset.check_classes(str(model), network.output_shape[-1], names)
    file = out or model.with_suffix(".tflite")
    before = _other_kind(file, config)
    with printing.exporting(config):
        report = export_network(
            network,
            file,
            dataset,
            config,
            run=run,
            exports=exports or runs / EXPORTS_FILE,
            layer_errors=layer_errors or layer_figure is not None,
        )
    if details:
        printing.print_export(report)
    if report.layers:
        _tell_layers(report.layers, layer_errors, layer_figure)
    if card:
        _write_card(report, run, teachers, out or model)
    printing.print_summary(report, file, runs / INDEX_FILE if run else None)
    _tell_limits(report, config)
    if before:
        printing.warn(f"note: {file} was {before}; --out keeps both files")
    _check_faults(report)


def _check_extras(config):
    from gnsmall_keras.export.arguments import check_installed
    from gnsmall_keras.quantization.compression import check_tfmot

    check_installed()
    if config.needs_tfmot:
        check_tfmot()


def _other_kind(file, config):
    """What a file of another kind is whose place an export takes."""
    from gnsmall_keras.devices.labels import read_report_beside

    try:
        found = read_report_beside(file) if file.is_file() else {}
    except ValueError:  # no report: the export writes one
        return None
    kind = found.get("quantization"), found.get("target")
    if not found or kind == (config.quantization, config.target):
        return None
    return f"{kind[0]} for {kind[1]} before"


def _tell_limits(report, config):
    few = report.calibration_images < config.calibration_size
    if few and config.quantization.startswith("int"):
        printing.warn(
            "note: calibrated on all training images, "
            f"{report.calibration_images}, instead of {config.calibration_size}"
        )
    if report.aspect not in (None, "crop"):
        printing.warn(
            f"note: its images become square by --aspect {report.aspect}; the "
            "examples for devices in tflite/ crop: give them square images"
        )


def _check_faults(report):
    if report.faults:
        raise ValueError(
            f"The file does not fit {report.target!r}: "
            f"{'; '.join(report.faults)}."
        )


def _check_run(run, model, needed):
    if needed and not run:
        raise ValueError(
            "An export record and a card name the run that a model came of. "
            f"Received: {model} without record.json beside it. Give the model "
            "in the run's folder, or leave --exports and --card out."
        )


def _check_layers(layer_figure, config):
    if layer_figure and layer_figure.suffix not in (".png", ".svg"):
        raise ValueError(
            "`layer_figure` must end in .png or .svg. "
            f"Received: {layer_figure}."
        )
    if not config.is_calibrated_int8:
        raise ValueError(
            "`layer_errors` and `layer_figure` compare an int8 file with the "
            f"float network. Received: quantization={config.quantization!r}."
        )


def c_array(
    file: PositionalPath, out: Path, labels: Path | None = None
) -> None:
    """Writes a .tflite file as C++ for microcontrollers: model.h and model.cc.

    Args:
        file: an int8 .tflite file.
        out: folder of the two files.
        labels: a text file, one class a line; by default the file's metadata,
            else the report (.json) beside it, else labels.txt there, else
            numbers.
    """
    from gnsmall_keras.devices.c_array import write_c_array
    from gnsmall_keras.devices.labels import find_labels, read_lines

    names = None
    if labels is not None:
        names = read_lines(labels)
    printing.wrote(*write_c_array(file, out, labels=names))
    if not (names or find_labels(file)):
        printing.warn_of_numbers(file, "Give --labels labels.txt.")


def _write_card(report, run, teachers, file):
    from gnsmall_keras.export.card import make_card

    path = file.with_suffix(".md")
    with replacing(path) as unfinished:
        text = make_card(report, run, teachers)
        unfinished.write_text(text, encoding="utf-8")
    printing.wrote(path)


def _tell_layers(layers, printed, figure):
    if printed:
        printing.print_layer_errors(layers)
    if figure:
        _write_layer_figure(layers, figure)


def _write_layer_figure(layers, path):
    from gnsmall_keras.report.figures.drawing import render
    from gnsmall_keras.report.figures.noise import draw_layer_errors

    picture = render(draw_layer_errors(layers), path.suffix[1:])
    with replacing(path) as unfinished:
        unfinished.write_bytes(picture)
    printing.wrote(path)
