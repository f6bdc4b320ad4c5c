"""The command line: parse, call, and let `printing` print."""

import contextlib
import dataclasses
import functools
import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from gnsmall_keras import printing
from gnsmall_keras.config import DistillConfig, ExportConfig, TrainConfig
from gnsmall_keras.export.runtime import Runtime
from gnsmall_keras.models.catalogue import NETWORKS
from gnsmall_keras.records import replacing
from gnsmall_keras.training.interruption import TrainingInterrupted

_DIGITS_QUICKSTART = TrainConfig(data="digits", epochs=12, batch_size=64)
_CIFAR_QUICKSTART = TrainConfig(data="cifar10", width=0.5, epochs=1)
_TEMPORARY = 75  # EX_TEMPFAIL: the same command will go on
# Read when TensorFlow is imported. Without AVX-512 it leaves oneDNN's kernels
# out by itself, with which a training step takes half as long (docs/log.md).
_TENSORFLOW = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "1"}

_Path = Annotated[Path, tyro.conf.Positional]
_Flat = tyro.conf.OmitArgPrefixes


def quickstart(out: Path = Path("runs")) -> None:
    """Trains a network, fuses it, quantises it and checks the file: minutes.

    It uses scikit-learn's digits, or CIFAR-10 with a smaller budget where the
    environment variable GNSMALL_DATA says where that is.

    Args:
        out: folder for the model, the .tflite file and the records.
    """
    from gnsmall_keras.data.sources import DATA_VARIABLE
    from gnsmall_keras.exports import EXPORTS_FILE
    from gnsmall_keras.models.files import load_model
    from gnsmall_keras.records import MODEL_FILE
    from gnsmall_keras.training.fit import train

    place = os.environ.get(DATA_VARIABLE)
    config = _CIFAR_QUICKSTART if place else _DIGITS_QUICKSTART
    epochs = config.resolved_recipe.epochs
    printing.console.print(
        f"[bold]1/2[/] training GhostNetV3-Small {config.width:g} on "
        + (f"CIFAR-10 from {place}" if place else "scikit-learn's digits")
        + f", epochs: {epochs} (a demonstration, not a result of the study)"
    )
    record = train(config, out=out)
    folder = out / record.slug
    printing.console.print(
        "[bold]2/2[/] fusing, quantising and checking the file"
    )
    report = _export(
        load_model(folder / MODEL_FILE),
        folder / "model.tflite",
        config.data,
        ExportConfig(),
        run=record,
        exports=out / EXPORTS_FILE,
    )
    printing.print_forms(record, report)
    printing.print_export(report)
    printing.console.print(f"Files: {folder}")


def train(
    config: _Flat[TrainConfig],
    out: Path = Path("runs"),
    index: Path | None = None,
    time_budget: str | None = None,
    device: Literal["auto", "cpu", "gpu"] = "auto",
    tensorboard: bool = False,
) -> None:
    """Trains one network and appends a record of the run.

    The same command goes on where an interrupted one was.

    Args:
        config: the experiment.
        out: folder of all runs.
        index: JSON-lines file of records; by default index.jsonl in `out`.
        time_budget: when to stop, with a checkpoint and exit status 75: "540",
            "540s", "9m" or "1.5h".
        device: "cpu", "gpu", or "auto": a GPU if there is one.
        tensorboard: writes files for TensorBoard into the run's folder.
    """
    from gnsmall_keras.training.fit import train

    record = train(
        config,
        out=out,
        index=index,
        time_budget=_seconds(time_budget),
        device=device,
        tensorboard=tensorboard,
    )
    printing.print_record(record, out / record.slug)


def distill(
    config: _Flat[DistillConfig],
    out: Path = Path("runs"),
    index: Path | None = None,
    time_budget: str | None = None,
    device: Literal["auto", "cpu", "gpu"] = "auto",
    tensorboard: bool = False,
) -> None:
    """Trains a student from teachers and appends a record of the run.

    The same command goes on where an interrupted one was.

    Args:
        config: the experiment.
        out: folder of all runs.
        index: JSON-lines file of records; by default index.jsonl in `out`.
        time_budget: when to stop, with a checkpoint and exit status 75: "540",
            "540s", "9m" or "1.5h".
        device: "cpu", "gpu", or "auto": a GPU if there is one.
        tensorboard: writes files for TensorBoard into the run's folder.
    """
    train(
        config,
        out=out,
        index=index,
        time_budget=time_budget,
        device=device,
        tensorboard=tensorboard,
    )


def cache_teacher(
    teacher: Path,
    out: Path,
    data: str = "digits",
    views: int = 8,
    seed: int = 0,
    augment: bool = True,
    recipe: str = "quick",
    protocol: Literal["validation", "paper"] = "validation",
    validation_fraction: float = 0.1,
) -> None:
    """Stores a teacher's logits of the training images, for `--cache`.

    They are of whole images: a training that uses them has no cutout, mixup or
    CutMix.

    Args:
        teacher: a .keras file or the folder of a run.
        out: the cache's folder; what is in it already is kept.
        data: "digits", "cifar10", "cifar100" or a path.
        views: crops and mirror images of each image; epochs go round them.
        seed: of the split, as in the training that will use it, and of the
            views.
        augment: False stores the plain images' logits, one view.
        recipe: of the training that will use it, for the kind of crops.
        protocol: of the training that will use it; "paper" holds nothing out.
        validation_fraction: of the training that will use it.
    """
    from gnsmall_keras.data.sources import load_data
    from gnsmall_keras.distill import cache
    from gnsmall_keras.models.files import load_teacher
    from gnsmall_keras.training.splits import split

    config = TrainConfig(
        data=data,
        seed=seed,
        augment=augment,
        recipe=recipe,
        protocol=protocol,
        validation_fraction=validation_fraction,
    )
    dataset = load_data(data)
    images, labels = split(dataset, config).fitting
    network = load_teacher(
        teacher, classes=dataset.classes, input_shape=images.shape[1:]
    )
    cached = cache.cache_teacher(
        network,
        images,
        labels,
        path=out,
        views=views if augment else 1,
        seed=seed,
        augment=augment,
        flip=dataset.flippable,
        alternate=config.resolved_recipe.alternate_flip,
        padding=config.resolved_recipe.padding,
        border=config.resolved_recipe.border,
    )
    printing.show(f"{out}: {cached.views} views of {cached.images:,} images")


def export(
    model: _Path,
    data: str,
    config: _Flat[ExportConfig],
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
    from gnsmall_keras.exports import EXPORTS_FILE, find_run
    from gnsmall_keras.models.files import load_model

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
    runs = model.resolve().parent.parent
    teachers = []
    if card:
        teachers = teachers_of(run, lambda name: find_run(runs / name / "any"))
    report = _export(
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


def c_array(file: _Path, out: Path, labels: Path | None = None) -> None:
    """Writes a .tflite file as C++ for microcontrollers: model.h and model.cc.

    Args:
        file: an int8 .tflite file.
        out: folder of the two files.
        labels: a text file, one class a line; by default the file's metadata,
            else numbers.
    """
    from gnsmall_keras.export.c_array import write_c_array

    names = None
    if labels is not None:
        names = labels.read_text(encoding="utf-8").splitlines()
    for path in write_c_array(file, out, labels=names):
        printing.show(f"Wrote {path}")


def evaluate(
    model: _Path,
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
    from gnsmall_keras import evaluation
    from gnsmall_keras.data.sources import load_data
    from gnsmall_keras.export.runtime import TFLiteModel
    from gnsmall_keras.models.files import load_model

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
    if logits.shape[-1] != dataset.classes:
        raise ValueError(
            f"{model} tells {logits.shape[-1]} classes apart, {data!r} has "
            f"{dataset.classes}. Give the data it was trained on."
        )
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
    from gnsmall_keras.export.benchmark import benchmark, record_latencies

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


def report(
    index: Path = Path("papermill_runs/index.jsonl"),
    out: Path | None = None,
    figures: Path | None = None,
    readme: Path | None = None,
    study: tuple[Path, ...] = (),
    winner: bool = False,
    max_parameters: int | None = None,
    max_bytes: int | None = None,
    budget: Literal["256k", "512k", "1m"] | None = None,
    data: str | None = None,
    images: str | None = None,
) -> None:
    """Makes a page, figures and a README's results from records alone.

    Lines that are no records are told of and left out.

    Args:
        index: JSON-lines file of records; those of exported files are in
            exports.jsonl beside it.
        out: the page, one HTML file; by default report.html, and none beside
            `figures`, `readme` and `winner`.
        figures: a folder for the figures, as .png and .svg.
        readme: a Markdown file; what is between its two comments is rewritten.
        study: sweep files that name arms: what `readme` gets is what these
            came to, and their figures go into a folder beside it.
        winner: only prints the run to deploy, by validation accuracy.
        max_parameters: of the winner, deployed.
        max_bytes: of the winner's int8 file; needs records of exported files.
        budget: of the microcontroller that the winner's int8 file fits: 256 KB
            of flash and 64 KB of arena, 512 and 128 KB, or 1 MB and 256 KB; 64
            KB of the flash are for code.
        data: of the winner; needed where the records are on several.
        images: data whose images are shown where the winner was wrong:
            "digits", "cifar10", "cifar100" or a path.
    """
    from gnsmall_keras.report.build import write_report
    from gnsmall_keras.report.reading import read_runs
    from gnsmall_keras.report.study import read_study
    from gnsmall_keras.report.study_page import write_study

    limits = {
        "max_parameters": max_parameters,
        "max_bytes": max_bytes,
        "budget": budget,
        "data": data,
    }
    _check_report((out, figures, readme), study, winner, limits, images)
    if not (winner or out or figures or readme):
        out = Path("report.html")
    reading = read_runs(index)
    for fault in reading.faults:
        printing.warn(f"warning: {fault}")
    if winner:
        _print_winner(reading, limits)
        return
    name = "/".join(index.parts[-2:])
    if study and readme:
        studies = [read_study(path, reading.runs) for path in study]
        _tell_written(write_study(studies, name=name, readme=readme))
        return
    written = write_report(
        reading,
        name=name,
        out=out,
        figures=figures,
        readme=readme,
        dataset=_load(images) if images else None,
    )
    _tell_written(written)


def _tell_written(paths):
    for path in paths:
        printing.show(f"Wrote {path}")


def _check_report(files, study, winner, limits, images):
    """Refuses options that do not go together."""
    out, figures, readme = files
    if study and (readme is None or out or figures):
        raise ValueError(
            "`study` is for `readme` alone. Received: "
            f"{'other files too' if readme else 'none'}. Write --study "
            "SWEEP.toml --readme STUDY.md"
        )
    if winner and any(files):
        raise ValueError(
            "`winner` writes nothing. Received: a file to write with it. Call "
            "`gnsmall report` twice."
        )
    if not winner and any(limit is not None for limit in limits.values()):
        raise ValueError(
            f"{sorted(limits)} are limits of the winner. Received: one without "
            "it. Add --winner."
        )
    if images and (winner or readme) and not (out or figures):
        raise ValueError(
            "`images` are for the page and the figures. Received: neither. "
            "Add --out or --figures."
        )


def _print_winner(reading, limits):
    from gnsmall_keras.export.targets import BUDGETS
    from gnsmall_keras.report.costs import find_cost
    from gnsmall_keras.report.winner import count_unknown, find_winner

    budget = BUDGETS.get(limits.pop("budget"))
    if budget:
        given = limits["max_bytes"]
        limits["max_bytes"] = min(
            budget.file_bytes if given is None else given, budget.file_bytes
        )
        limits["max_arena_bytes"] = budget.arena_bytes
    best = find_winner(reading.runs, exports=reading.exports, **limits)
    if limits["max_bytes"] is not None:
        unknown = count_unknown(reading.runs, reading.exports)
        if unknown:
            printing.warn(
                f"warning: runs left out, as no file of their network has a "
                f"record: {unknown}"
            )
    printing.print_winner(best, find_cost(best, reading.exports, "bytes"))


def _load(data):
    from gnsmall_keras.data.sources import load_data

    return load_data(data)


def import_torch(
    file: _Path,
    model: str,
    out: Path,
    data: str | None = None,
    width: float = 1.0,
    classes: int = 10,
) -> None:
    """Turns a PyTorch checkpoint into a .keras file.

    Args:
        file: a .pth, .pt or .safetensors file; nothing in it is executed.
        model: the network, one of those that `gnsmall models` prints.
        out: the new .keras file.
        data: prints the accuracy on this test split: "digits", "cifar10",
            "cifar100" or a path.
        width: channel multiplier of a GhostNet.
        classes: number of logits.
    """
    from gnsmall_keras.models.files import save_model
    from gnsmall_keras.models.registry import create_model
    from gnsmall_keras.models.torch_weights import load_torch_weights

    config = TrainConfig(model=model, width=width)  # checks them
    options: dict[str, Any] = {"classes": classes}
    if NETWORKS[config.model].scales:
        options["width"] = width
    if config.model == "efficientnetv2_s":
        options["form"] = "torch"
    if out.suffix != ".keras":
        raise ValueError(f"`out` must end in .keras. Received: {out}.")
    network = create_model(model, **options)
    mapped, ignored = load_torch_weights(network, file)
    printing.show(
        f"mapped {len(mapped)} entries: {printing.ends(mapped)}\n"
        f"not needed {len(ignored)}: {printing.ends(ignored)}"
    )
    save_model(network, out)
    printing.show(f"Wrote {out}")
    if data:
        evaluate(out, data)


def _seconds(text):
    """Seconds that "540", "540s", "9m" or "1.5h" stand for."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if match is None:
        raise ValueError(
            "`time_budget` must be a number of seconds, or end in s, m or h. "
            f"Received: {text!r}. Write 9m, for example."
        )
    return float(match[1]) * {"m": 60, "h": 3600}.get(match[2], 1)


def models() -> None:
    """Prints the networks with their sizes."""
    printing.print_networks()


def sweep(
    file: _Path,
    out: Path = Path("runs"),
    index: Path | None = None,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    workers: int | None = None,
    seeds: tuple[int, ...] = (),
    resume: bool = True,
    dry_run: bool = False,
) -> int:
    """Does the runs of a sweep file, each in the notebook 02_train.

    Runs with a record in the index are left out, so that the same command goes
    on where an interrupted one was. A run that fails is named in failed.jsonl
    beside the index and makes the exit status 1; the others go on.

    Args:
        file: TOML with [parameters] of all runs, a [grid] of lists, [[runs]],
            and [teachers.NAME], runs that they learn from as "@NAME".
        out: folder of all runs.
        index: JSON-lines file of records; by default index.jsonl in `out`.
        engine: "local" for processes of this machine; "ray" for a Ray cluster.
        address: host:port of a Ray cluster that this machine belongs to, or
            "auto"; by default RAY_ADDRESS, else Ray is started here.
        workers: runs at a time; by default one for each GPU, else for each
            machine.
        seeds: of the runs to do, such as 1 2, with their teachers; by default
            all.
        resume: leaves recorded runs out and goes on with unfinished ones;
            --no-resume is an error where there are any.
        dry_run: prints what would run, and writes nothing.
    """
    from gnsmall_keras.records import INDEX_FILE
    from gnsmall_keras.sweeps import plan
    from gnsmall_keras.sweeps import sweep as sweeps

    config = plan.read_sweep(file)
    index = index or out / INDEX_FILE
    if dry_run:
        todo = printing.print_todo(sweeps.list_todo(config, index, seeds))
        for run in todo.pending:
            names = ", ".join(sweeps.sources(run))
            printing.show(run.slug + (f" from {names}" if names else ""))
        sweeps.check_teachers(todo, out)
        return 0
    executing = _engine(engine, workers, address)
    sweeps.check_sweep(out)
    with sweeps.locked(out, index):
        todo = printing.print_todo(sweeps.list_todo(config, index, seeds))
        sweeps.check_teachers(todo, out)
        if not resume:
            sweeps.check_unbegun(todo, out)
        outcomes = sweeps.run_all(
            todo.pending, out=out, index=index, engine=executing
        )
        failed = printing.print_outcomes(outcomes, len(todo.pending))
    return 1 if failed else 0


def _engine(name, workers, address):
    from gnsmall_keras.sweeps import cluster, local

    if name == "ray":
        return cluster.ray_engine(workers, address)
    if address is not None:
        raise ValueError(
            "`address` is of a Ray cluster. Received: one with the engine "
            f"{name!r}. Add --engine ray."
        )
    return local.local_engine(workers)


def records(
    action: Annotated[Literal["merge", "merge-exports"], tyro.conf.Positional],
    indices: Annotated[tuple[Path, ...], tyro.conf.Positional],
    out: Path,
) -> int:
    """Merges files of records into one, each record once.

    Lines that are no records are left out, named, and make the exit status 1.

    Args:
        action: "merge" is of runs' records, "merge-exports" of files'.
        indices: JSON-lines files, earlier ones first.
        out: the new file; may be one of them.
    """
    from gnsmall_keras.exports import ExportRecord
    from gnsmall_keras.records import RunRecord, merge_records

    if not indices:
        raise ValueError(
            "A merge needs one file or more. Write: gnsmall records merge "
            "A.jsonl B.jsonl --out all.jsonl"
        )
    kind = RunRecord if action == "merge" else ExportRecord
    merged = merge_records(indices, out, parse=kind.from_json)
    for fault in merged.faults:
        printing.warn(f"left out: {fault}")
    printing.show(
        f"{out}: {merged.records} records, {merged.repeated} repeated and "
        f"{len(merged.faults)} damaged lines left out"
    )
    return 1 if merged.faults else 0


COMMANDS: dict[str, Callable[..., int | None]] = {
    "quickstart": quickstart,
    "train": train,
    "distill": distill,
    "cache-teacher": cache_teacher,
    "export": export,
    "c-array": c_array,
    "evaluate": evaluate,
    "benchmark": benchmark,
    "report": report,
    "import-torch": import_torch,
    "sweep": sweep,
    "records": records,
    "models": models,
}


def main(arguments: list[str] | None = None) -> int:
    """Runs `gnsmall`; returns the exit status.

    1 is a failed run or a damaged line, beside which the others were done; 2 is
    bad input, 75 a training that was stopped and can go on.
    """
    for name, value in _TENSORFLOW.items():
        os.environ.setdefault(name, value)
    try:
        command = _parse(sys.argv[1:] if arguments is None else arguments)
        return command() or 0
    except (ValueError, OSError) as error:
        printing.warn(f"error: {error}")
        return 2
    except TrainingInterrupted as stop:
        printing.warn(f"stopped: {stop}")
        return _TEMPORARY
    except KeyboardInterrupt:
        printing.warn("interrupted")
        return 130


def _parse(arguments):
    """Returns the chosen command with its arguments, not yet called.

    Raises:
        ValueError: if the arguments do not fit, in one line.
    """
    commands = {
        name: functools.wraps(command)(_deferred(command))
        for name, command in COMMANDS.items()
    }
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            return tyro.extras.subcommand_cli_from_dict(
                commands,
                args=arguments,
                prog="gnsmall",
                description="GhostNetV3-Small: train, deploy, check.",
            )
    except SystemExit as stop:
        if stop.code == 0:  # --help
            raise
        # A box of several lines becomes one line, without tyro's inner names.
        text = " ".join(re.sub(r"[│╭╮╰╯─]+", " ", messages.getvalue()).split())
        text = re.sub(r"Value error Error parsing \S+config: ", "", text)
        text = re.sub(r"For full helptext, (see|run) ", "Help: ", text)
        raise ValueError(text) from None


def _deferred(command):
    return lambda *args, **kwargs: functools.partial(command, *args, **kwargs)


def _export(
    network, path, data, config, *, run=None, exports, layer_errors=False
):
    """Exports a network, with the record of the run it came of, if any."""
    from gnsmall_keras.data.sources import load_data
    from gnsmall_keras.export.calibration import calibration_split
    from gnsmall_keras.export.qat import prepare_training
    from gnsmall_keras.export.tflite import export_tflite
    from gnsmall_keras.exports import append_export, describe_source

    source = describe_source(run) if run else None
    dataset = load_data(data)
    training = None
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
        )
    if source:
        append_export(dataclasses.asdict(report), exports)
    return report


def _write_card(report, run, teachers, file):
    from gnsmall_keras.export.card import make_card

    path = file.with_suffix(".md")
    with replacing(path) as unfinished:
        text = make_card(report, run, teachers)
        unfinished.write_text(text, encoding="utf-8")
    printing.show(f"Wrote {path}")


def _write_layer_figure(layers, path):
    from gnsmall_keras.records import replacing
    from gnsmall_keras.report.drawing import render
    from gnsmall_keras.report.noise import draw_layer_errors

    picture = render(draw_layer_errors(layers), path.suffix[1:])
    with replacing(path) as unfinished:
        unfinished.write_bytes(picture)
    printing.show(f"Wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
