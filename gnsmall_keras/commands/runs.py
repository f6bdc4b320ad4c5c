"""Commands about many runs: sweeps, their records, the report."""

import os
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gnsmall_keras.commands import printing
from gnsmall_keras.commands.arguments import (
    OUR_FILES,
    OUR_INDEX,
    PositionalPath,
)
from gnsmall_keras.commands.winner import show_winner
from gnsmall_keras.config import Kernels, Loop
from gnsmall_keras.config.fit import BudgetName
from gnsmall_keras.writing import check_writable


def sweep(
    file: PositionalPath,
    out: Path = Path("runs"),
    index: Path | None = None,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    workers: int | None = None,
    seeds: tuple[int, ...] = (),
    resume: bool = True,
    dry_run: bool = False,
    kernels: Kernels = "auto",
    loop: Loop = "auto",
    together: int = 1,
) -> int:
    """Executes the runs of a sweep file, each in the notebook 02_train.

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
        dry_run: prints what would run, and writes nothing; whether papermill
            and Ray are there is not looked at.
        kernels: what computes GhostNets, as in `gnsmall train`.
        loop: how steps are taken, as in `gnsmall train`.
        together: runs that train at a time as one program, on JAX; they differ
            in seed, rate, smoothing, label weight, temperature and teachers.
    """
    from gnsmall_keras.config import KERNELS_VARIABLE, LOOP_VARIABLE
    from gnsmall_keras.records.run import INDEX_FILE
    from gnsmall_keras.sweeps import plan
    from gnsmall_keras.sweeps import sweep as sweeps

    config = sweeps.with_images(plan.read_sweep(file))
    index = index or out / INDEX_FILE
    check_writable(index, "index")
    _tell_ignored([*config.configs, *config.teacher_configs])
    if together != 1:
        _check_together(config.configs, engine, workers, kernels)
    _check_engine(engine, workers, address)
    if dry_run:
        todo = printing.print_todo(sweeps.list_todo(config, index, seeds))
        for run in todo.pending:
            names = ", ".join(run.sources)
            printing.show(run.slug + (f" from {names}" if names else ""))
        sweeps.check_teachers(todo, out)
        _warn_of_changed(todo, out, index)
        if not resume:
            sweeps.check_unbegun(todo, out)
        return 0
    if kernels != "auto":
        os.environ[KERNELS_VARIABLE] = kernels  # of the processes that train
    if loop != "auto":
        os.environ[LOOP_VARIABLE] = loop
    if together != 1:
        from gnsmall_keras.sweeps.together import together_engine

        executing = together_engine(together)
    else:
        executing = _engine(engine, workers, address)
    sweeps.check_sweep(out)
    with sweeps.locked(out, index):
        todo = printing.print_todo(sweeps.list_todo(config, index, seeds))
        sweeps.check_teachers(todo, out)
        _warn_of_changed(todo, out, index)
        if not resume:
            sweeps.check_unbegun(todo, out)
        outcomes = sweeps.run_all(
            todo.pending, out=out, index=index, engine=executing
        )
        failed = printing.print_outcomes(outcomes, len(todo.pending))
    return 1 if failed else 0


def _tell_ignored(configs):
    """What strategies share does nothing where there is no teacher."""
    alone = [config for config in configs if config.ignored]
    names = sorted({name for config in alone for name in config.ignored})
    if names:
        printing.warn(
            f"note: {', '.join(names)} of {len(alone)} baselines ignored: "
            "they have no teacher"
        )


def _warn_of_changed(todo, out, index):
    """Records stay; who compares them must know."""
    from gnsmall_keras.sweeps.sweep import changed_teachers

    for slug, files in changed_teachers(todo, out, index).items():
        printing.warn(
            f"{slug} is recorded, but {', '.join(files)} has other weights "
            f"than those it learned from. Take its line out of {index} to "
            "train it anew."
        )


def _check_together(configs, engine, workers, kernels):
    """Refuses what does not go together with `together`."""
    from gnsmall_keras.config import check_together

    given = {
        "engine": (engine, "local"),
        "workers": (workers, None),
        "kernels": (kernels if kernels == "native" else "auto", "auto"),
    }
    for name, (value, usual) in given.items():
        if value != usual:
            raise ValueError(
                "Runs that train together are one program of JAX on this "
                f"machine. Received: {name}={value!r}. Leave it out, or leave "
                "`together` out."
            )
    check_together(configs)


def _check_engine(name, workers, address):
    from gnsmall_keras.sweeps.jobs import check_workers

    check_workers(workers)
    if name != "ray" and address is not None:
        raise ValueError(
            "`address` is of a Ray cluster. Received: one with the engine "
            f"{name!r}. Add --engine ray."
        )


def _engine(name, workers, address):
    from gnsmall_keras.sweeps import cluster, local

    if name == "ray":
        return cluster.ray_engine(workers, address)
    return local.local_engine(workers)


def records(
    action: Annotated[Literal["merge", "merge-exports"], tyro.conf.Positional],
    indices: Annotated[tuple[Path, ...], tyro.conf.Positional],
    out: Path,
) -> int:
    """Merges record files into one, without duplicates.

    Lines that are no records are left out, named, and make the exit status 1.

    Args:
        action: "merge" is of runs' records, "merge-exports" of files'.
        indices: JSON-lines files, earlier ones first.
        out: the new file; may be one of them, if all its lines are records.
    """
    from gnsmall_keras.records.export import ExportRecord
    from gnsmall_keras.records.jsonl import merge_records
    from gnsmall_keras.records.run import RunRecord

    if not indices:
        raise ValueError(
            "A merge needs one file or more. Write: gnsmall records merge "
            "A.jsonl B.jsonl --out all.jsonl"
        )
    kind = RunRecord if action == "merge" else ExportRecord
    merged = merge_records(indices, out, parse=kind.from_json)
    for fault in merged.faults:
        printing.warn(f"left out: {fault}")
    for line in merged.differing:
        printing.warn(
            f"warning: {line} is left out, as that record is there with other "
            "values. Name its file first to keep this one."
        )
    printing.show(
        f"{out}: {merged.records} records, {merged.repeated} repeated and "
        f"{len(merged.faults)} damaged lines skipped"
    )
    return 1 if merged.faults else 0


def report(
    index: Path = OUR_INDEX,
    out: Path | None = None,
    figures: Path | None = None,
    readme: Path | None = None,
    networks: Path | None = None,
    published: Path | None = None,
    study: tuple[Path, ...] = (),
    winner: bool = False,
    max_parameters: int | None = None,
    max_bytes: int | None = None,
    budget: BudgetName | None = None,
    data: str | None = None,
    images: str | None = None,
    min_epochs: int = 0,
) -> None:
    """Makes a page, figures and a README's results from run records.

    Lines that are no records are reported and skipped.

    Args:
        index: JSON-lines file of records; those of exported files are in
            exports.jsonl beside it.
        out: the page, one HTML file; by default report.html, and none beside
            `figures`, `readme`, `networks` and `winner`.
        figures: a folder for the figures, as .png and .svg.
        readme: a Markdown file; what is between its two comments is rewritten.
        networks: a Markdown file, such as README.md: what is between its two
            comments becomes the table and the figure of published networks.
        published: of `networks`, the folder of files and their reports, by
            default tflite.
        study: sweep files that name arms: what `readme` gets is what these
            came to, and their figures go into a folder beside it.
        winner: only prints the run to deploy, by validation accuracy.
        max_parameters: of the winner, deployed.
        max_bytes: of the winner's int8 file; needs records of exported files.
        budget: of the microcontroller that the winner's int8 file fits: 256 KB
            of flash and 64 KB of arena, 512 and 128 KB, or 1 MB and 256 KB; 72
            KB of the flash are for code.
        data: of the winner; needed where the records are on several.
        images: data whose images are shown where the winner was wrong:
            "digits", "cifar10", "cifar100" or a path.
        min_epochs: runs of fewer epochs are left out, everywhere.
    """
    from gnsmall_keras.report.pages.build import write_report
    from gnsmall_keras.report.reading import read_runs

    limits = {
        "max_parameters": max_parameters,
        "max_bytes": max_bytes,
        "budget": budget,
        "data": data,
    }
    files = (out, figures, readme, networks)
    _check_report(files, study, winner, limits, images)
    _check_published(published, networks)
    if not (winner or any(files)):
        out = Path("report.html")
    reading = read_runs(index)
    if min_epochs:
        reading = _of_length(reading, min_epochs)
    for fault in (*reading.faults, *reading.failed):
        printing.warn(f"warning: {fault}")
    if winner:
        show_winner(reading, limits, index.parent)
        return
    if networks:
        _write_networks(reading, networks, published or OUR_FILES)
    if not (out or figures or readme):
        return
    _warn_of_none(reading, index)
    name = "/".join(index.parts[-2:])
    if study and readme:
        _write_studies(study, reading, index, name=name, readme=readme)
        return
    written = write_report(
        reading,
        name=name,
        out=out,
        figures=figures,
        readme=readme,
        dataset=_load(images, reading) if images else None,
    )
    printing.wrote(*written)


def _write_studies(paths, reading, index, **options):
    from gnsmall_keras.report.pages.study import write_study
    from gnsmall_keras.report.study import read_study

    studies = [read_study(path, reading.runs, reading.hidden) for path in paths]
    for study in studies:
        if not study.groups:
            printing.warn(
                f"warning: none of the runs of {study.name} is in {index}"
            )
    printing.wrote(*write_study(studies, **options))


def _warn_of_none(reading, index):
    if not reading.runs:
        printing.warn(
            f"warning: {index} has no records, so nothing is shown. Give "
            "--index the file index.jsonl of a folder of runs."
        )


def _of_length(reading, min_epochs):
    kept, short = [], []
    for run in reading.runs:
        long = run.record.recipe["epochs"] >= min_epochs
        (kept if long else short).append(run)
    if not kept:
        longest = max(
            (run.record.recipe["epochs"] for run in reading.runs), default=0
        )
        raise ValueError(
            "`min_epochs` must leave a run. Received: "
            f"{min_epochs}, where the longest has {longest} epochs."
        )
    return reading._replace(runs=kept, hidden=short)


def _write_networks(reading, page, published):
    from gnsmall_keras.records.cited import read_cited
    from gnsmall_keras.report.networks import find_networks
    from gnsmall_keras.report.pages.networks import write_networks

    found = find_networks(published, reading, read_cited())
    printing.wrote(*write_networks(found, page=page))


def _check_published(published, networks):
    if published and not networks:
        raise ValueError(
            "`published` is for `networks`. Received: --published without it. "
            "Add --networks README.md."
        )


def _check_report(files, study, winner, limits, images):
    """Refuses options that do not go together."""
    out, figures, readme, networks = files
    if study and (readme is None or out or figures or networks):
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
    if images and (winner or readme or networks) and not (out or figures):
        raise ValueError(
            "`images` are for the page and the figures. Received: neither. "
            "Add --out or --figures."
        )


def _load(data, reading):
    """The images as they were read for the winner that was tested on them."""
    from gnsmall_keras.config import KNOWN_DATA, complete
    from gnsmall_keras.data.sources import load_data
    from gnsmall_keras.report.groups import group_runs
    from gnsmall_keras.report.winner import find_winners
    from gnsmall_keras.training.experiment import Images

    def differs(winner):  # a folder may have another name by now
        given = winner.config["data"]
        return given != data, (given in KNOWN_DATA) != (data in KNOWN_DATA)

    winners = sorted(find_winners(group_runs(reading.runs)), key=differs)
    digests = {winner.data_digest for winner in winners}
    configs = [complete(winner.config) for winner in winners]
    readings = [Images(*map(config.get, Images._fields)) for config in configs]
    for images in dict.fromkeys(one._replace(data=data) for one in readings):
        dataset = load_data(data, **images.options)
        if dataset.digest in digests:
            return dataset
    return load_data(data)  # which is refused
