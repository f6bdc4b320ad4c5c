"""From images to the best file that fits: stages, time, what is refused."""

import dataclasses
import itertools
import os
import signal
import types

import numpy as np
import pytest
from data import photos
from support import ROOT

from gnsmall_keras import cli
from gnsmall_keras.config.fit import FitConfig
from gnsmall_keras.devices.runtime import TFLiteModel
from gnsmall_keras.export.tflite import export_tflite
from gnsmall_keras.models.catalogue import STARTS, Size
from gnsmall_keras.models.ghostnet import ghostnetv3_small
from gnsmall_keras.records.run import RECORD_FILE, read_records
from gnsmall_keras.search import candidates
from gnsmall_keras.search import search as searching
from gnsmall_keras.search.candidates import (
    SIZES,
    Candidate,
    Limits,
    count_shared,
    find_candidates,
)
from gnsmall_keras.search.found import PAGE
from gnsmall_keras.training.interruption import (
    BudgetTooShort,
    TrainingInterrupted,
)

SOME = next(iter(read_records(ROOT / "papermill_runs" / "index.jsonl")))
NEEDS = {
    0.25: (80_000, 60_000),
    0.375: (130_000, 70_000),
    1.0: (400_000, 140_000),
    1.6: (900_000, 230_000),
}


class Pretend:
    """Trains nothing; says how well each width does, and how long it takes."""

    def __init__(self, accuracies, seconds=1.0):
        self.accuracies = accuracies
        self.seconds = seconds
        self.trained = []
        self.validation_images = 5000
        self.stops_at = None
        self.fitting = [0.25, 0.375]
        self.ends = False  # whether it is over when it is asked to stop
        self.most_epochs, self.steps = 10**9, 0
        self.late = TrainingInterrupted

    def train(self, config, *, out, index, progress, time_budget):
        how = "taught" if config.teachers else config.width
        epochs = config.resolved_recipe.epochs
        if len(self.trained) == self.stops_at:
            os.kill(os.getpid(), signal.SIGTERM)
            if not self.ends:
                raise TrainingInterrupted("SIGTERM was received. The same")
        if epochs > self.most_epochs:
            raise self.late("the time budget is used up", self.steps)
        self.trained.append((how, epochs))
        record = dataclasses.replace(
            SOME,
            slug=config.slug,
            digest=config.digest,
            schema=4,
            config={**dataclasses.asdict(config), "teachers": config.teachers},
            recipe={"epochs": epochs},
            train_seconds=self.seconds * epochs,
            validation_accuracy=self.accuracies[how] + epochs / 1e6,
            deployed_macs=int(1e6 * config.width),
            train_images=100,
            validation_images=self.validation_images,
            images={"warnings": []},
        )
        folder = out / config.slug
        folder.mkdir(parents=True)
        text = record.to_json()
        (folder / RECORD_FILE).write_text(text)
        return record

    def candidates(self, *_, most, late, sizes):
        self.sizes = sizes
        missed = dataclasses.replace(_candidate(0.25), misses="9 of 8 bytes")
        return [_candidate(width) for width in self.fitting], [missed]

    def export(self, network, path, dataset, config, *, run, exports):
        size, arena = NEEDS[run.config["width"]]
        return types.SimpleNamespace(
            size_bytes=size,
            arena_bytes=arena,
            knows_micro=True,
            faults=[],
            accuracy=0.9,
            evaluated_images=30,
        )


def _candidate(width):
    size, arena = NEEDS[width]
    return Candidate(
        size=Size("gns", width),
        head_units=320,
        macs=int(1e7 * width),
        size_bytes=size,
        arena_bytes=arena,
        misses="",
    )


@pytest.fixture
def folder(tmp_path):
    for name, data in photos.files("a", "b", "c", count=10).items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "photos"


@pytest.fixture
def search(folder, tmp_path, monkeypatch):
    def start(pretend, **options):
        monkeypatch.setattr(searching, "train", pretend.train)
        monkeypatch.setattr(searching, "export_network", pretend.export)
        monkeypatch.setattr(searching, "load_model", lambda path: None)
        monkeypatch.setattr(searching._Search, "_write_page", lambda self: None)
        monkeypatch.setattr(
            searching,
            "find_candidates",
            pretend.candidates,
        )
        told = []
        out = str(tmp_path / "runs")
        found = searching.fit(str(folder), out=out, tell=told.append, **options)
        return found, told

    return start


def test_the_best_trial_is_trained_long_and_a_better_one_teaches(search):
    pretend = Pretend({0.25: 0.8, 0.375: 0.7, 0.5: 0.9, "taught": 0.85})
    found, told = search(pretend, seconds=10_000)
    kinds = [how for how, _ in pretend.trained]
    assert kinds == [0.25, 0.375, 0.25, 0.5, "taught"]
    assert pretend.sizes == STARTS  # of few images
    trial, long = pretend.trained[0][1], pretend.trained[2][1]
    assert long > 4 * trial
    assert [entry.how == "alone" for entry in found.entries] == [False, True]
    assert found.best is found.entries[0]
    assert found.missed[0].misses == "9 of 8 bytes"
    assert any("split off" in line for line in told)
    again = Pretend(pretend.accuracies)
    repeated, _ = search(again, seconds=10_000)
    assert again.trained == []  # all is recorded
    assert repeated.folder == found.folder


def test_of_trials_within_a_standard_error_the_widest_goes_on(search):
    pretend = Pretend({0.25: 0.8, 0.375: 0.77, 0.5: 0.5})
    pretend.validation_images = 100  # 4 points
    found, _ = search(pretend, seconds=10_000)
    kinds = [how for how, _ in pretend.trained]
    assert kinds == [0.25, 0.375, 0.375, 0.5]
    assert found.best.size.width == 0.375


def test_a_teacher_is_wider_than_all_that_fit(search):
    pretend = Pretend({0.25: 0.8, 1.0: 0.7, 1.6: 0.6})
    pretend.fitting = [1.0, 0.25]
    search(pretend, seconds=10_000)
    assert [how for how, _ in pretend.trained] == [1.0, 0.25, 0.25, 1.6]


def test_a_larger_network_that_is_no_better_does_not_teach(search):
    pretend = Pretend({0.25: 0.8, 0.375: 0.7, 0.5: 0.5})
    found, told = search(pretend, seconds=10_000)
    assert len(found.entries) == 1
    assert "the larger network is not better: it does not teach" in told


def test_a_teacher_of_few_images_starts_from_trained_weights(search):
    pretend = Pretend({1.6: 0.8})
    pretend.fitting = [1.6]
    _, told = search(pretend, seconds=10_000)
    assert [how for how, _ in pretend.trained] == [1.6, 1.6]  # none of 2.2
    assert "no larger network to learn from" in told


def test_stages_that_have_no_time_are_left_out_and_told(search):
    pretend = Pretend({0.25: 0.8, 0.375: 0.7}, seconds=100)
    found, told = search(pretend, seconds=60)
    assert len(pretend.trained) == 2
    assert "no time for a longer training: the trial is taken" in told
    assert "no time for a teacher" in told
    assert found.best.size.width == 0.25


@pytest.mark.parametrize(
    ("stage", "line"),
    [
        ("teacher", "no time for a teacher"),
        ("student", "no time to learn from it"),
    ],
)
def test_a_stage_of_no_epochs_is_left_out(search, monkeypatch, stage, line):
    def affordable(self, name, wanted, macs, share):
        return 0 if name == stage else 1

    monkeypatch.setattr(searching, "_TRIAL", 0.0)  # one epoch
    monkeypatch.setattr(searching._Search, "_affordable", affordable)
    of_size = searching._Search._of_size

    def short(self, size, head):
        return dataclasses.replace(of_size(self, size, head), epochs=2)

    monkeypatch.setattr(searching._Search, "_of_size", short)
    found, told = search(Pretend({0.25: 0.8, 0.375: 0.7, 0.5: 0.9}))
    assert line in told
    assert len(found.entries) == 1


@pytest.mark.parametrize("ends", [False, True], ids=["early", "at its end"])
def test_it_goes_on_where_it_was_stopped(search, ends):
    """Also where a training hears of it after its last step."""
    pretend = Pretend({0.25: 0.8, 0.375: 0.7, 0.5: 0.5})
    pretend.stops_at, pretend.ends = 2, ends
    with pytest.raises(TrainingInterrupted, match="SIGTERM"):
        search(pretend, seconds=10_000)
    again = Pretend(pretend.accuracies)
    search(again, seconds=10_000)
    rest = [0.5] if ends else [0.25, 0.5]
    assert [how for how, _ in again.trained] == rest


def test_a_stage_without_time_for_a_step_is_left_out(search):
    """What was trained before it is the result."""
    pretend = Pretend({0.25: 0.8, 0.375: 0.9})
    train = pretend.train

    def of_one_alone(config, **options):
        if config.width != 0.25 or pretend.trained:
            raise BudgetTooShort("`time_budget` is below one step", 1)
        return train(config, **options)

    pretend.train = of_one_alone
    found, told = search(pretend, seconds=10_000)
    assert [entry.size.width for entry in found.entries] == [0.25]
    assert told.count("out of time in this training") == 3


def test_more_time_is_used_and_the_same_time_repeats(search):
    accuracies = {0.25: 0.8, 0.375: 0.7, 0.5: 0.5}
    first, longer, repeated = (Pretend(accuracies) for _ in range(3))
    search(first, seconds=100)
    search(longer, seconds=10_000)
    epochs = [epochs for how, epochs in first.trained if how == 0.25]
    assert longer.trained[0][0] == 0.25  # trials are kept
    assert longer.trained[0][1] > max(epochs)
    search(repeated, seconds=100)
    assert repeated.trained == []


def test_a_file_that_does_not_fit_is_not_the_one_to_take(search):
    pretend = Pretend({0.25: 0.8, 0.375: 0.7, 0.5: 0.5})
    found, _ = search(pretend, seconds=10_000, max_arena=1000)
    assert "an arena of 60,000 of 1,000 bytes" in found.entries[0].misses
    with pytest.raises(ValueError, match="No file fits .* larger budget"):
        _ = found.best


GATED = SIZES[: len(SIZES) // 2]


def _gns(*widths):
    return tuple(Size("gns", width) for width in widths)


@pytest.mark.parametrize(
    ("limits", "given", "fitting"),
    [
        (Limits(188_416, 65_536), GATED, _gns(0.25, 0.125)),
        (Limits(452_608, 131_072), GATED, _gns(1.0, 0.75, 0.5)),
        (Limits(452_608, 131_072), _gns(0.3, 0.6, 1.5), _gns(0.6, 0.3)),
        # Nearly twice the width, without gates.
        (
            Limits(188_416, 65_536),
            STARTS,
            (Size("gns_nogate", 0.5), *_gns(0.25)),
        ),
        # None of these: all are tried.
        (
            Limits(188_416, 60_000),
            _gns(0.3, 0.6, 1.5),
            (Size("gns_nogate", 0.375), Size("gns_nogate", 0.25), *_gns(0.125)),
        ),
    ],
)
def test_sizes_are_measured_around_the_largest_that_fits(
    limits, given, fitting, tmp_path, monkeypatch
):
    def measure(self, size, head):
        gates = size.model == "gns"
        arena = 45_000 + 80_000 * size.width if gates else None
        return (
            int(candidates._bytes(size, head, 3)),
            int(arena or candidates._arena(size, head, 32)),
            int(1e6 * size.width + 1e5 * gates),
        )

    monkeypatch.setattr(candidates._Prober, "_measure", measure)
    data = types.SimpleNamespace(
        train_images=np.zeros((9, 32, 32, 3), "u1"),
        train_labels=np.repeat([0, 1, 2], 3),
        classes=3,
        image_size=32,
    )
    monkeypatch.setattr(candidates, "calibration_split", lambda *_: None)
    path = tmp_path / "sizes.jsonl"
    found, missed = find_candidates(
        data, limits, path, lambda line: None, sizes=given
    )
    assert tuple(one.size for one in found) == fitting
    assert missed
    assert all(one.misses for one in missed)
    with pytest.raises(ValueError, match=r"No network of ours fits.*0.125"):
        find_candidates(data, Limits(1000, 1000), path, lambda line: None)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere"], "No data at 'nowhere'"),
        (["digits", "--time", "soon"], "`time` must be a number of seconds"),
        (["digits", "--image-size", "33"], "a multiple of 8 from 32 to 128"),
        (["digits", "--max-bytes", "0"], "`max_bytes` must be"),
        (["digits", "--budget", "2m"], "budget"),
    ],
)
def test_bad_input_is_one_line(arguments, told, tmp_path, capsys):
    arguments = ["fit", *arguments, "--out", str(tmp_path)]
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_without_tflite_micro_it_does_not_begin(
    folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(candidates, "installed_runtimes", lambda: ["litert"])
    out = tmp_path / "runs"
    assert cli.main(["fit", str(folder), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "tflite-micro, which there is for Linux on x86-64 alone" in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_limits_take_the_budgets_place():
    config = FitConfig(data="p", budget="256k", max_arena=9)
    assert (config.file_bytes, config.arena_bytes) == (188_416, 9)
    assert FitConfig(data="p").file_bytes > 900_000


@pytest.mark.slow
@pytest.mark.export
def test_from_images_to_a_checked_file(folder, tmp_path, monkeypatch, capsys):
    """All that is pretended above, of two epochs of the smallest network."""
    of_size = searching._Search._of_size

    def short(self, width, head):
        return dataclasses.replace(of_size(self, width, head), epochs=2)

    monkeypatch.setattr(searching._Search, "_of_size", short)
    monkeypatch.setattr(searching._Search, "_taught", lambda *_: None)
    arguments = ["--max-bytes", "60000", "--max-arena", "100000"]
    arguments += ["--sizes", "1", "--time", "2h", "--channels", "1"]
    out = str(tmp_path / "runs")
    assert cli.main(["fit", str(folder), *arguments, "--out", out]) == 0
    printed = capsys.readouterr().out
    assert "split off" in printed
    assert "next: gnsmall c-array" in printed
    (path,) = (tmp_path / "runs").glob("*/*/model.tflite")
    assert str(path) in printed.replace("\n", "")
    assert path.with_name("labels.txt").read_text() == "a\nb\nc\n"
    assert path.stat().st_size <= 60_000
    assert (path.parent.parent / PAGE).is_file()
    model = TFLiteModel(path, runtime="tflite-micro")
    assert model.input_shape == (1, 32, 32, 1)
    assert cli.main(["evaluate", str(path), "--data", str(folder)]) == 0
    names = folder.with_name("others")
    folder.rename(names)
    (names / "a").rename(names / "z")
    assert cli.main(["evaluate", str(path), "--data", str(names)]) == 2
    assert "['a', 'b', 'c']" in capsys.readouterr().err


@pytest.mark.parametrize("late", [TrainingInterrupted, BudgetTooShort])
def test_on_a_slow_machine_one_network_is_trained_for_less(
    search, monkeypatch, late
):
    pretend = Pretend({0.25: 0.8, 0.375: 0.9})
    pretend.late = late
    pretend.most_epochs, pretend.steps = 10, 1
    clock = itertools.count(step=5.0)  # seconds, at each look
    monkeypatch.setattr(searching.time, "monotonic", lambda: next(clock))
    found, told = search(pretend, seconds=60)
    ((width, epochs),) = pretend.trained
    assert (width, 1 <= epochs <= 10) == (0.25, True)
    assert "out of time in this training" in told
    assert any("slower than estimated" in line for line in told)
    assert found.best.size.width == 0.25


@pytest.mark.export
def test_sizes_are_those_of_trained_files(tmp_path):
    """Of the published one; random networks have the same number everywhere."""
    trained = ROOT / "tflite/gns-w0.25-h320-cifar10-micro.tflite"
    assert count_shared(trained.read_bytes()) == 0
    network = ghostnetv3_small(0.25, head_units=320)
    images = np.random.default_rng(0).integers(
        0, 256, (20, 32, 32, 3), np.uint8
    )
    path = tmp_path / "probe.tflite"
    export_tflite(network, path, calibration_images=images)
    found = path.stat().st_size + count_shared(path.read_bytes())
    assert found == pytest.approx(trained.stat().st_size, rel=0.01)
