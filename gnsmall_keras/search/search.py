"""From images of your own to the best file that fits a device, in a time."""

import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gnsmall_keras.config import DIGEST_LENGTH, ExportConfig, RunConfig
from gnsmall_keras.config.fit import FitConfig
from gnsmall_keras.data.dataset import Dataset
from gnsmall_keras.data.sources import check_source, load_data
from gnsmall_keras.export.tflite import export_network
from gnsmall_keras.lines import percent
from gnsmall_keras.models.catalogue import STARTS, Size, can_start
from gnsmall_keras.models.saving.files import load_model
from gnsmall_keras.models.spec import COUNTS, HEAD_UNITS
from gnsmall_keras.recipes import FEW_IMAGES
from gnsmall_keras.records.export import EXPORTS_FILE
from gnsmall_keras.records.run import (
    INDEX_FILE,
    MODEL_FILE,
    RECORD_FILE,
    RunRecord,
)
from gnsmall_keras.search.candidates import (
    SIZES,
    Candidate,
    Limits,
    check_micro,
    find_candidates,
)
from gnsmall_keras.search.found import (
    Entry,
    Fitted,
    better,
    most_promising,
    ranked,
    size_of,
    write_page,
)
from gnsmall_keras.training.interruption import (
    BudgetTooShort,
    StopRequest,
    TrainingInterrupted,
)
from gnsmall_keras.training.run import train
from gnsmall_keras.training.splits import settled
from gnsmall_keras.writing import replacing

_PLAN = "fit.json"  # what was decided, so that the same command goes on
_SIZES = "sizes.jsonl"  # measured files of random weights
_TEACHERS = "teachers.jsonl"  # records of runs that only teach
_TRIAL, _LONG = 0.25, 2.0  # of the recipe's epochs
# Parts of the time that is left: of the long training, the teacher, the rest.
_SHARE_LONG, _SHARE_TEACHER, _SHARE_STUDENT = 0.4, 0.5, 0.85
_FIXED = 3_000_000  # MACs an image that a step's other work is worth (log.md)
_RESERVE = 0.15  # of all time, for files and their checks
_LATE = 0.6  # of all time left: no more sizes are measured
_IN_NO_NAME = ["data", "budget", "max_bytes", "max_arena", "seconds", "sizes"]
_TEACHER_SIZES = tuple(Size("gns", width) for width in (0.5, 1.0, 1.6, 2.2))

Tell = Callable[[str], None]


def fit(
    data: str, *, out: str = "runs", tell: Tell = print, **options: Any
) -> Fitted:
    """Finds the best network that fits a device, and makes its file.

    Sizes of GhostNetV3-Small, with and without gates, are measured; of those
    that fit a few are trained for a short time and the best for longer. If a
    larger network is better, it teaches. The same call resumes a search.

    Args:
        data: path to images, or a known name.
        out: folder of all runs; all files are in one folder in it.
        tell: is called with lines of progress.
        **options: fields of `FitConfig`: `budget`, `max_bytes`, `max_arena`,
            `seconds`, `image_size`, `channels`, `aspect`, `flip` ...

    Returns:
        The networks by validation accuracy; `result.best.path` is the file.

    Raises:
        ValueError: if the images cannot be read, nothing fits, the time is too
            short for one training, or tflite-micro is not installed.
        TrainingInterrupted: if Ctrl-C or SIGTERM stopped it.

    Example:
        >>> lines = []
        >>> found = gns.fit("digits", seconds=300, sizes=1, tell=lines.append)
        >>> images = gns.load_data("digits").test_images[:2]
        >>> gns.TFLiteModel(found.best.path).predict(images).shape
        (2, 10)
    """
    config = FitConfig(data=data, **options)
    check_source(data)
    check_micro()
    return _Search(config, Path(out), tell).run()


class _Search:
    def __init__(self, config: FitConfig, out: Path, tell: Tell):
        self._began = time.monotonic()
        self._config = config
        self._tell = tell
        self._limits = Limits(config.file_bytes, config.arena_bytes)
        self._data = load_data(
            config.data,
            image_size=config.image_size,
            channels=config.channels,
            aspect=config.aspect,
            flip=config.flip,
            skip_broken=config.skip_broken,
        )
        self._folder = out / _folder_name(config, self._data, self._limits)
        self._folder.mkdir(parents=True, exist_ok=True)
        plan, self._plan = self._folder / _PLAN, dict[str, int]()
        if plan.is_file():
            self._plan |= json.loads(plan.read_text("utf-8"))
        self._rate = (0, 0.0)  # MACs of the largest trained, seconds for each
        self._step = 0.0  # seconds, of a training that ran out of time
        self._asked = StopRequest()

    def run(self) -> Fitted:
        """Does all stages."""
        tell, data = self._tell, self._data
        tell(repr(data))
        for line in data.lines():
            tell(line)
        tell(
            f"at most {self._limits.file_bytes:,} bytes and an arena of "
            f"{self._limits.arena_bytes:,}; files: {self._folder}"
        )
        fitting, missed = find_candidates(
            data,
            self._limits,
            self._folder / _SIZES,
            tell,
            most=self._config.sizes,
            late=lambda: self._left() < _LATE * self._config.seconds,
            sizes=self._sizes,
        )
        trials = self._trials(fitting)
        long = self._long(trials)
        widest = max(one.size.width for one in fitting)
        taught = self._taught(long, widest)
        final = ranked([long, taught] if taught else [long])
        entries = [self._export(record) for record in final]
        return Fitted(
            folder=self._folder,
            entries=tuple(entries),
            missed=tuple(missed),
            page=self._write_page(),
            seconds=round(time.monotonic() - self._began, 1),
        )

    @property
    def _sizes(self) -> tuple[Size, ...]:
        """Of few images those that start from trained weights."""
        recipe = self._of_size(STARTS[0], HEAD_UNITS).resolved_recipe
        return SIZES if recipe.start == "random" else STARTS

    def _left(self) -> float:
        """Seconds for training."""
        total = self._config.seconds * (1 - _RESERVE)
        return total - (time.monotonic() - self._began)

    def _of_size(self, size: Size, head: int) -> RunConfig:
        config = self._config
        names = (
            *("data", "image_size", "channels", "aspect", "flip"),
            *("skip_broken", "validation_fraction", "seed"),
        )
        values = {name: getattr(config, name) for name in names}
        if len(self._data.train_images) <= FEW_IMAGES:
            values["recipe"] = "finetune"  # of known images too
        run = RunConfig(**size._asdict(), head_units=head, **values)
        return settled(run, self._data)

    def _trials(self, fitting: list[Candidate]) -> list[RunRecord]:
        """Short trainings of each size, the best first."""
        done = []
        for number, one in enumerate(fitting, start=1):
            config = self._of_size(one.size, one.head_units)
            epochs = max(1, round(_TRIAL * config.resolved_recipe.epochs))
            self._tell(
                f"trial {number}/{len(fitting)}: {one.size}, head "
                f"{one.head_units}, epochs {epochs}"
            )
            config = dataclasses.replace(config, epochs=epochs)
            record = self._train(config, self._left() / 2)
            if not record:
                break  # later ones would have less time
            done.append(record)
        if not done:
            done.append(self._shorter(min(fitting, key=lambda one: one.macs)))
        return ranked(done)

    def _shorter(self, one: Candidate) -> RunRecord:
        """A training of the epochs that the time left is worth, by its pace.

        Raises:
            ValueError: if that is none.
        """
        config = self._of_size(one.size, one.head_units)
        steps = max(
            1, len(self._data.train_images) // config.resolved_recipe.batch_size
        )
        pace = self._step * steps
        epochs = int(_SHARE_STUDENT * self._left() / pace) if pace else 0
        record = None
        if epochs:
            self._tell(
                f"this machine is slower than estimated; shorter: {one.size}, "
                f"epochs {epochs}"
            )
            config = dataclasses.replace(config, epochs=epochs)
            record = self._train(config, self._left())
        if record:
            return record
        raise ValueError(
            "`time` is too short for one short training on this machine. "
            f"Received: {self._config.seconds:g} s; "
            f"{time.monotonic() - self._began:.0f} s have passed. Give the "
            "command again with more time: the sizes that it measured are "
            "kept."
        )

    def _long(self, trials: list[RunRecord]) -> RunRecord:
        """A long training of the most promising size, or the best trial."""
        trial = most_promising(trials)
        size = size_of(trial)
        config = self._of_size(size, trial.config["head_units"])
        wanted = round(_LONG * config.resolved_recipe.epochs)
        epochs = self._affordable(
            "long", wanted, trial.deployed_macs, _SHARE_LONG
        )
        if epochs <= trial.recipe["epochs"]:
            self._tell("no time for a longer training: the trial is taken")
            return trials[0]
        self._tell(f"long training: {size}, epochs {epochs}")
        config = dataclasses.replace(config, epochs=epochs)
        return self._train(config, self._left()) or trials[0]

    def _taught(self, alone: RunRecord, widest: float) -> RunRecord | None:
        """The same size again, taught by one too large for the device."""
        wider = [each for each in _TEACHER_SIZES if each.width > widest]
        if self._sizes != SIZES:  # others start at random
            wider = [each for each in wider if can_start(*each)]
        if not wider:
            self._tell("no larger network to learn from")
            return None
        base = self._of_size(wider[0], HEAD_UNITS)
        macs = COUNTS[wider[0]].deployed_macs
        macs = int(macs * (self._config.image_size / 32) ** 2)
        wanted = base.resolved_recipe.epochs
        epochs = self._affordable("teacher", wanted, macs, _SHARE_TEACHER)
        if epochs < max(1, wanted // 3):
            self._tell("no time for a teacher")
            return None
        self._tell(f"teacher: {wider[0]}, epochs {epochs}")
        config = dataclasses.replace(base, epochs=epochs)
        teacher = self._train(config, self._left(), _TEACHERS)
        if not teacher or not better(teacher, alone):
            self._tell("the larger network is not better: it does not teach")
            return None
        epochs = self._affordable(
            "student",
            alone.recipe["epochs"],
            alone.deployed_macs + macs // 3,
            _SHARE_STUDENT,
        )
        if epochs < max(1, alone.recipe["epochs"] // 3):
            self._tell("no time to learn from it")
            return None
        size = size_of(alone)
        self._tell(f"distillation: {size}, epochs {epochs}")
        config = dataclasses.replace(
            self._of_size(size, alone.config["head_units"]),
            epochs=epochs,
            strategy="kd",
            teachers=(teacher.slug,),
        )
        return self._train(config, self._left())

    def _affordable(self, name: str, wanted: int, macs: int, share: float):
        """Epochs that fit a part of the time left.

        They are those of an earlier call that was given the same time.
        """
        name = f"{name}, {self._config.seconds:g} s"
        if name not in self._plan:
            images = len(self._data.train_images)
            epoch = max(self._rate[1] * (macs + _FIXED) * images, 1e-9)
            self._plan[name] = min(wanted, int(share * self._left() / epoch))
            with replacing(self._folder / _PLAN) as unfinished:
                unfinished.write_text(json.dumps(self._plan), "utf-8")
        return self._plan[name]

    def _learn_rate(self, record: RunRecord) -> RunRecord:
        work = (record.deployed_macs + _FIXED) * record.train_images
        rate = record.train_seconds / (work * record.recipe["epochs"])
        self._rate = max(self._rate, (record.deployed_macs, rate))
        return record

    def _train(
        self, config: RunConfig, seconds: float, index: str = INDEX_FILE
    ) -> RunRecord | None:
        """A record, of an earlier call too; None where the time is up."""
        done = self._folder / config.slug / RECORD_FILE
        if done.is_file():
            return self._learn_rate(RunRecord.read(done))
        if seconds <= 0:
            return None
        began = time.monotonic()
        with self._asked.listening() as stop:
            try:
                record = train(
                    config,
                    out=self._folder,
                    index=self._folder / index,
                    progress=sys.stdout.isatty(),
                    time_budget=seconds,
                )
            except (TrainingInterrupted, BudgetTooShort) as end:
                if stop.was_asked:
                    raise
                self._tell("out of time in this training")
                self._step = (time.monotonic() - began) / max(1, end.steps)
                return None
        if stop.was_asked:  # after its last step
            raise TrainingInterrupted(
                f"{stop.reason}. {done.parent} is finished: the same command "
                "goes on after it."
            )
        self._tell(
            f"  validation {percent(record.validation_accuracy)} of "
            f"{record.validation_images:,}, {record.train_seconds:,.0f} s"
        )
        return self._learn_rate(record)

    def _export(self, record: RunRecord) -> Entry:
        folder = self._folder / record.slug
        path = folder / "model.tflite"
        self._tell(f"file: {path}")
        report, misses = None, ""
        try:
            report = export_network(
                load_model(folder / MODEL_FILE),
                path,
                self._data,
                ExportConfig(),
                run=record,
                exports=self._folder / EXPORTS_FILE,
            )
            faults = [
                self._limits.misses(report.size_bytes, report.arena_bytes)
                if report.knows_micro
                else "",
                *report.faults,
            ]
            misses = "; ".join(filter(None, faults))
        except ValueError as error:
            misses = str(error)
        teachers = record.config["teachers"]
        return Entry(
            size=size_of(record),
            head_units=record.config["head_units"],
            how=f"from {', '.join(teachers)}" if teachers else "alone",
            record=record,
            report=report,
            path=path if report else None,
            misses=misses,
        )

    def _write_page(self) -> Path | None:
        try:
            return write_page(self._folder, self._data)
        except (ImportError, ValueError) as error:
            self._tell(f"no page: {error}")
            return None


def _folder_name(config: FitConfig, data: Dataset, limits: Limits) -> str:
    """One for the same images, limits and ways of reading."""
    values = dataclasses.asdict(config)
    for name in _IN_NO_NAME:
        del values[name]
    text = json.dumps([values, data.digest, limits], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]
    return f"fit-{data.name}-{digest}"
