"""Commands that write or measure files of networks."""

from pathlib import Path
from typing import Annotated

import tyro

from gnsmall_keras.commands import printing
from gnsmall_keras.commands.arguments import (
    READING,
    Flat,
    PositionalPath,
    Reading,
)
from gnsmall_keras.commands.images import (
    check_data,
    load_all_for,
    load_for,
    open_classifier,
    reading_of,
    warn_of_trained,
)
from gnsmall_keras.config import ExportConfig
from gnsmall_keras.devices.runtime import Runtime
from gnsmall_keras.lines import percent
from gnsmall_keras.records.jsonl import check_writable, replacing
from gnsmall_keras.records.run import INDEX_FILE, MODEL_FILE

_FILE = (
    *("int8 accuracy, %", "file, bytes", "operators", "arena, bytes"),
    "evidence",
)


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
    reading: Flat[Reading] = READING,
) -> None:
    """Fuses and quantises a .keras file into a .tflite file, and checks it.

    For a model in a run's folder, appends a record for `gnsmall report`.

    Args:
        model: the .keras file.
        data: source of calibration images (training split) and test images:
            "digits", "cifar10", "cifar100" or a path.
        config: what kind of file.
        out: the new file; by default beside `model`.
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
    from gnsmall_keras.export.arguments import check_installed
    from gnsmall_keras.export.tflite import export_network
    from gnsmall_keras.models.saving.files import class_names_of, load_model
    from gnsmall_keras.quantization.compression import check_tfmot
    from gnsmall_keras.records.commands import teachers_of
    from gnsmall_keras.records.export import EXPORTS_FILE, find_run

    check_installed()
    if config.needs_tfmot:
        check_tfmot()
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
    _check_faults(report)


def _tell_limits(report, config):
    few = report.calibration_images < config.calibration_size
    if few and config.quantization.startswith("int"):
        printing.warn(
            "note: ranges of integers rest on all training images, "
            f"{report.calibration_images} instead of {config.calibration_size}"
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
    from gnsmall_keras.devices.labels import find_labels

    names = None
    if labels is not None:
        names = labels.read_text(encoding="utf-8").splitlines()
    for path in write_c_array(file, out, labels=names):
        printing.show(f"Wrote {path}")
    if not (names or find_labels(file)):
        printing.warn_of_numbers(file, "Give --labels labels.txt.")


def evaluate(
    model: PositionalPath,
    data: str,
    runtime: Runtime = "litert",
    limit: int | None = None,
    all_images: bool = False,
    reading: Flat[Reading] = READING,
) -> None:
    """Prints the test accuracy of a .keras or .tflite file.

    Args:
        model: the file.
        data: "digits", "cifar10", "cifar100" or a path.
        runtime: for .tflite files.
        limit: how many test images to use, the first ones of each class in
            turn; by default all.
        all_images: takes all images of a folder or archive: of new ones, that
            the network was not trained on. Not all classes need images.
        reading: how images are read.
    """
    check_data(data)
    from gnsmall_keras.data.dataset import stratified_subset
    from gnsmall_keras.records.export import find_run
    from gnsmall_keras.training import evaluation

    if limit is not None and limit < 1:
        raise ValueError(f"`limit` must be >= 1. Received: {limit}.")
    network, predict, names = open_classifier(model, runtime)
    run = find_run(model)
    shape = network.input_shape[1:]
    config = reading_of(model, run)
    if all_images:
        dataset = load_all_for(data, shape, reading, config, names)
    else:
        dataset = load_for(data, shape, reading, config)
        if run:
            warn_of_trained(dataset, run)
    images, labels = dataset.test_images, dataset.test_labels
    if not len(images):
        raise ValueError(
            f"{data!r} has no test split. Add a folder test/, or take all "
            "images with --all-images."
        )
    if limit is not None:
        some = stratified_subset(labels, limit)
        images, labels = images[some], labels[some]
    logits = predict(images)
    dataset.check_classes(str(model), logits.shape[-1], names)
    accuracy = evaluation.accuracy(logits, labels)
    where = runtime if model.suffix == ".tflite" else "float32"
    printing.show(
        f"{model} ({where}) on {dataset.name}: test accuracy "
        f"{percent(accuracy)}, n={len(images):,}"
    )


def benchmark(
    files: Annotated[tuple[Path, ...], tyro.conf.Positional] = (),
    runtimes: tuple[Runtime, ...] = (),
    threads: tuple[int, ...] = (1,),
    rounds: int = 30,
    profile: bool = False,
    out: Path | None = None,
    exports: Path | None = None,
    adb: Path | None = None,
    board: bool = False,
    index: Path | None = None,
    published: Path | None = None,
) -> None:
    """Prints the latency of .tflite files and of MLPerf Tiny's ResNet-8.

    Args:
        files: classifiers, as `gnsmall export` writes them.
        runtimes: by default all that are installed.
        threads: counts to measure.
        rounds: turns of each file, of 20 ms or one call; with `adb` of 50.
        profile: prints what the operators take as well.
        out: a JSON file for the report; of `board` a Markdown file, where it
            comes between two comments.
        exports: JSON-lines file of export records that get the latencies.
        adb: LiteRT's benchmark_model for Android; measures on the phone that
            is connected, instead of here.
        board: prints the published files beside others' int8 files on CIFAR-10,
            from records; `files`, such as MLPerf Tiny's, are measured on the
            test images.
        index: of `board`, the JSON-lines file of run records, by default
            papermill_runs/index.jsonl.
        published: of `board`, the folder of our files and their reports, by
            default tflite.
    """
    from gnsmall_keras.devices.benchmark import benchmark, record_latencies

    for name, file in (("out", out), ("exports", exports)):
        if file is not None:
            check_writable(file, name)
    if not board and (index or published):
        raise ValueError(
            "--index and --published are of the board. Received: one without "
            "it. Add --board."
        )
    if adb is not None:
        if runtimes or profile or exports or board or len(threads) != 1:
            raise ValueError(
                "--adb goes with --threads of one number, --rounds and --out "
                "alone. Leave --runtimes, --profile, --exports and --board out."
            )
        _benchmark_on_phone(files, adb, threads[0], rounds, out)
        return
    if board:
        if runtimes or profile or exports or threads != (1,):
            raise ValueError(
                "--board is of LiteRT with one thread. Leave --runtimes, "
                "--threads, --profile and --exports out."
            )
        index = index or Path("papermill_runs/index.jsonl")
        _show_board(files, rounds, index, published or Path("tflite"), out)
        return
    report = benchmark(
        files,
        runtimes=runtimes,
        threads=threads,
        rounds=rounds,
        profile=profile,
    )
    printing.print_benchmark(report)
    _write(report, out)
    if exports is not None:
        record_latencies(report, exports)


def _benchmark_on_phone(files, binary, threads, rounds, out):
    from gnsmall_keras.devices.phone import benchmark_on_phone

    report = benchmark_on_phone(files, binary, threads=threads, rounds=rounds)
    printing.print_phone(report)
    _write(report, out)


def _show_board(files, rounds, index, published, out):
    from gnsmall_keras.data.sources import load_data
    from gnsmall_keras.records.cited import read_cited
    from gnsmall_keras.report.board import measure_networks
    from gnsmall_keras.report.networks import (
        describe_networks,
        find_networks,
        tabulate_networks,
    )
    from gnsmall_keras.report.pages.networks import write_networks
    from gnsmall_keras.report.reading import read_runs

    reading = read_runs(index)
    for fault in reading.faults:
        printing.warn(f"warning: {fault}")
    networks = find_networks(published, reading, read_cited())
    if files:
        networks = measure_networks(
            networks,
            files,
            load_data("cifar10"),
            published=published,
            rounds=rounds,
        )
    table = tabulate_networks(networks, board=True)
    costs = [name for name in table.header if name not in ("network", *_FILE)]
    for left_out in (costs, _FILE):  # in two, which 80 columns hold
        printing.print_table(table.without(*left_out))
    for line in describe_networks(networks):
        printing.show(line)
    if out is not None:
        for path in write_networks(networks, page=out, board=True):
            printing.show(f"Wrote {path}")


def _write(report, out):
    if out is not None:
        with replacing(out) as unfinished:
            unfinished.write_text(report.to_json() + "\n", encoding="utf-8")
        printing.show(f"Wrote {out}")


def _write_card(report, run, teachers, file):
    from gnsmall_keras.export.card import make_card

    path = file.with_suffix(".md")
    with replacing(path) as unfinished:
        text = make_card(report, run, teachers)
        unfinished.write_text(text, encoding="utf-8")
    printing.show(f"Wrote {path}")


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
    printing.show(f"Wrote {path}")
