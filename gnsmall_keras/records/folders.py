"""Folders of runs, found by any of the names that a run has had."""

from collections.abc import Iterable
from pathlib import Path

from gnsmall_keras.config import Name, RunConfig
from gnsmall_keras.records.run import MODEL_FILE, RECORD_FILE, RunRecord

STAGE_FILE = "stage.json"  # of an assistant that is trained
CHECKPOINT_FILE = "checkpoint.npz"
ENDED_FILE = "ended.json"  # the record, while it is not in the index


def find_folder(name: str, runs: Path) -> Path | None:
    """Returns the folder of the run `name` in `runs`, if there is one.

    So a config names its teachers wherever that folder is. Where it is not
    there, a run is taken that has the name as another of its names.

    Args:
        name: a slug; or the path of a run's folder, which is only looked for
            where there is none.
        runs: folder of all runs.
    """
    folder = runs / name
    alone = folder.parent == runs
    if alone and (folder / MODEL_FILE).is_file():
        return folder
    if not alone and Path(name).exists():
        return None
    places = (runs if alone else Path(name).parent).glob(f"*/{RECORD_FILE}")
    return next(
        (
            record.parent
            for record in sorted(places)
            if Path(name).name in _slugs(record)
            and record.with_name(MODEL_FILE).is_file()
        ),
        None,
    )


def _slugs(record: Path) -> Iterable[str]:
    try:
        return RunRecord.read(record).slugs
    except ValueError:
        return ()


def begun_name(config: RunConfig, runs: Path) -> Name:
    """Returns the name a run has in `runs`: that which it was begun under."""
    return next(
        (
            name
            for name in config.names
            if (runs / name.slug / ENDED_FILE).is_file()
            or any((runs / name.slug).glob(f"*{CHECKPOINT_FILE}"))
        ),
        config.name,
    )
