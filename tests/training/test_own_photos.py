"""Images of one's own, from a config to a record: names, sizes, warnings."""

import dataclasses
import os

import keras
import numpy as np
import pytest
from data import photos
from support import tiny_network

from gnsmall_keras import cli
from gnsmall_keras.config import Facts, RunConfig, settle_images
from gnsmall_keras.data.augment import moments, normalize
from gnsmall_keras.data.sources import load_data
from gnsmall_keras.distill.checks import load_teacher
from gnsmall_keras.models.catalogue import STARTS
from gnsmall_keras.models.ghostnet import ghostnetv3_small
from gnsmall_keras.models.saving.files import class_names_of
from gnsmall_keras.models.saving.pretrained import PUBLISHED, start_from
from gnsmall_keras.records.run import RunRecord
from gnsmall_keras.sweeps import sweep as sweeps
from gnsmall_keras.sweeps.plan import SweepConfig
from gnsmall_keras.training import fit as learn
from gnsmall_keras.training import run as training
from gnsmall_keras.training.advice import find_warnings
from gnsmall_keras.training.experiment import resolve
from gnsmall_keras.training.splits import settled, split

pytestmark = pytest.mark.any_backend

NAMES = ("left", "right", "Äpfel")
FACTS = Facts("0123456789abcdef", True, 270)


@pytest.fixture
def folder(tmp_path):
    """Three classes of 12 images, told apart by their colour."""
    generator = np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for image in range(12):
            pixels = generator.integers(0, 60, (40, 50, 3))
            pixels[..., number] += 150
            photos.Image.fromarray(pixels.astype("u1")).save(
                tmp_path / "photos" / name / f"{image}.png"
            )
    return tmp_path / "photos"


def _train(config, out, monkeypatch):
    def small(name, *, input_shape=(32, 32, 3), **options):
        model = tiny_network(name, **options)
        if input_shape == (32, 32, 3):
            return model
        inputs = keras.Input(input_shape)
        return keras.Model(
            inputs,
            keras.layers.Dense(options["classes"])(
                keras.layers.GlobalAveragePooling2D()(inputs)
            ),
        )

    monkeypatch.setattr(learn, "create_model", small)
    return training.train(config, out=out, progress=False, kernels="keras")


def test_one_folder_has_one_name_however_it_is_spelled(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    spellings = ("photos", "photos/", "./photos", str(folder), "x/../photos")
    (folder.parent / "x").mkdir()
    found = {
        settled(RunConfig(data=path), load_data(path)).name
        for path in spellings
    }
    assert len(found) == 1
    monkeypatch.chdir(folder)
    assert settled(RunConfig(data="."), load_data(".")).name in found


def test_a_moved_folder_keeps_its_runs_and_a_renamed_one_has_others(folder):
    """Of the path a run's name has the folder's, and nothing else."""
    names = []
    for place in ("photos", "elsewhere/photos", "elsewhere/pictures"):
        new = folder.parent / place
        new.parent.mkdir(exist_ok=True)
        folder = folder.rename(new)
        names.append(
            settled(RunConfig(data=str(folder)), load_data(folder)).name
        )
    photos, moved, renamed = names
    assert moved == photos
    assert (renamed.digest, renamed != photos) == (photos.digest, True)


def test_other_images_are_another_run(folder):
    before = settled(RunConfig(data=str(folder)), load_data(folder))
    (folder / "left" / "0.png").unlink()
    after = settled(RunConfig(data=str(folder)), load_data(folder))
    assert before.digest != after.digest
    with pytest.raises(ValueError, match="no longer those .* planned"):
        settled(before, load_data(folder))


def test_a_batch_is_no_more_than_the_images_that_are_not_held_out(folder):
    for file in folder.glob("*/?.png"):
        if int(file.stem) > 2:
            file.unlink()
    for file in folder.glob("*/1?.png"):
        file.unlink()
    dataset = load_data(folder)  # of 3 classes, a third of 9 is the test
    config = settled(RunConfig(data=str(folder)), dataset)
    fitting = split(dataset, resolve(config).partition).fitting
    assert (len(fitting.images), config.batch_size) == (3, 3)


def test_known_data_are_named_as_before():
    digits = RunConfig(width=0.5)
    assert settled(digits, load_data("digits")) == digits
    assert digits.recipe == "quick"
    path = RunConfig(data="a/cifar")
    assert path.name == RunConfig(data="a/cifar", recipe="quick").name


@pytest.mark.parametrize(
    ("images", "batch"), [(5, 5), (100, 8), (270, 16), (1500, 32), (9000, 64)]
)
def test_few_images_have_small_batches_and_many_steps(images, batch):
    config = settle_images(RunConfig(data="p"), FACTS._replace(images=images))
    recipe = config.resolved_recipe
    assert (config.recipe, recipe.batch_size) == ("finetune", batch)
    steps = images // batch * recipe.epochs
    assert steps >= 1000 or recipe.epochs == 80
    assert recipe.start == "cifar10"  # of width 1.0 there is one
    given = RunConfig(data="p", epochs=3, batch_size=4, recipe="quick")
    kept = settle_images(given, FACTS).resolved_recipe
    assert (kept.epochs, kept.batch_size) == (3, 4)


def test_many_images_have_the_usual_recipe():
    many = FACTS._replace(images=50_000)
    assert settle_images(RunConfig(data="p"), many).recipe == "quick"


def test_weights_to_start_with_are_there_for_some_widths():
    known = [
        (name, width) for name in PUBLISHED for width, _ in PUBLISHED[name]
    ]
    assert known == [*STARTS]
    config = settle_images(RunConfig(data="p", width=0.4), FACTS)
    assert config.resolved_recipe.start == "random"
    with pytest.raises(
        ValueError, match=r"weights: gns 0.25, .*gns_nogate 0.5\."
    ):
        RunConfig(width=0.4, start="cifar10")


@pytest.mark.parametrize("how", [{"start": "cifar10"}, {"recipe": "finetune"}])
@pytest.mark.parametrize("split", [{"seed": 3}, {"validation_fraction": 0.2}])
def test_a_start_that_has_seen_the_held_out_images_is_refused(how, split):
    with pytest.raises(ValueError, match=r"says nothing\. Received: data="):
        RunConfig(data="cifar10", **how, **split)
    for fine in (
        {"seed": 0},  # that they were trained with
        {**split, "start": "random"},
        {**split, "protocol": "paper"},
        {**split, "data": "cifar100"},
        {**split, "recipe": "finetune", "start": None, "width": 0.4},
    ):
        RunConfig(**{"data": "cifar10", **how, **fine})


def test_a_start_takes_all_but_the_head():
    """On other sizes; of grey images the stem sees what it saw in colour."""
    model = ghostnetv3_small(
        0.25, classes=3, input_shape=(48, 48, 1), head_units=80
    )
    source = ghostnetv3_small(0.25, head_units=320, weights="cifar10")
    head = model.get_layer("head_conv").get_weights()
    start_from(model, "cifar10", network="gns", width=0.25)
    np.testing.assert_array_equal(
        model.get_layer("head_conv").get_weights()[0], head[0]
    )
    name = "blocks_0_0_ghost1_primary"
    for mine, other in zip(
        model.get_layer(name).get_weights(),
        source.get_layer(name).get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, other)
    grey = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 1), "u1")
    kernels = [
        each.get_layer("stem").get_weights()[0][0] for each in (model, source)
    ]
    seen = [
        keras.ops.convert_to_numpy(
            keras.ops.conv(
                normalize(np.repeat(grey, kernel.shape[2], -1)), kernel
            )
        )
        for kernel in kernels
    ]
    shift = seen[0] - seen[1]
    np.testing.assert_allclose(
        shift, np.broadcast_to(shift.mean((0, 1, 2)), shift.shape), atol=1e-4
    )


def test_grey_pixels_are_normalised_by_the_average_of_colours():
    mean, std = moments(1)
    assert mean == pytest.approx(moments(3)[0].mean())
    grey = np.array([[[0], [255]]], np.uint8)
    expected = (grey / 255 - mean) / std
    np.testing.assert_allclose(normalize(grey), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="3 channels"):
        normalize(np.zeros((1, 2, 2), np.uint8))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"image_size": 50}, "a multiple of 8 from 32 to 128"),
        ({"model": "gnd", "image_size": 40}, "a multiple of 16 for gnd"),
        ({"channels": 2}, r"one of \(3, 1\)"),
        ({"aspect": "zoom"}, "one of"),
    ],
)
def test_values_outside_their_range_are_refused(values, told):
    with pytest.raises(ValueError, match=told):
        RunConfig(**values)


def test_crops_grow_with_the_image():
    views = resolve(RunConfig(image_size=96)).learning.views
    assert views.padding == 3 * resolve(RunConfig()).learning.views.padding


@pytest.mark.parametrize(
    ("made", "other"), [("--no-flip", True), ("--flip", False)]
)
def test_a_cache_is_mirrored_as_its_student_is(
    folder, tmp_path, monkeypatch, made, other
):
    teacher = tiny_network("gns", classes=len(NAMES))
    teacher.save(tmp_path / "teacher.keras")
    cache = tmp_path / "cache"
    arguments = ["--teacher", f"{tmp_path}/teacher.keras", "--views", "1"]
    arguments += ["--data", str(folder), "--out", str(cache), made]
    assert cli.main(["cache-teacher", *arguments]) == 0
    config = RunConfig(
        data=str(folder),
        recipe="quick",
        epochs=1,
        batch_size=8,
        strategy="kd",
        cache=str(cache),
        flip=not other,
    )
    record = _train(config, tmp_path, monkeypatch)
    assert record.images["flippable"] is not other
    config = dataclasses.replace(config, flip=other)
    told = f"made with {{'flip': {not other}}}.*--recipe quick --(no-)?flip`"
    with pytest.raises(ValueError, match=told):
        _train(config, tmp_path, monkeypatch)


def test_a_record_and_a_model_have_the_classes(folder, tmp_path, monkeypatch):
    config = RunConfig(data=str(folder), epochs=2, start="random", width=0.4)
    config = dataclasses.replace(config, start=None, aspect="squash")
    record = _train(config, tmp_path / "runs", monkeypatch)
    assert record.images["class_names"] == sorted(NAMES)
    assert record.images["aspect"] == "squash"
    assert record.images["test_fraction"] == 0.2
    assert any("split off" in note for note in record.images["notes"])
    assert any("mirrored" in note for note in record.images["notes"])
    assert RunRecord.from_json(record.to_json()) == record
    path = tmp_path / "runs" / record.slug / "model.keras"
    assert class_names_of(path) == tuple(sorted(NAMES))
    load_teacher(path, classes=3, class_names=sorted(NAMES))
    with pytest.raises(ValueError, match="has other classes.*'cat'"):
        load_teacher(path, classes=3, class_names=["cat", "dog", "cow"])


def test_size_and_channels_reach_the_network(folder, tmp_path, monkeypatch):
    config = RunConfig(
        data=str(folder), epochs=1, width=0.4, image_size=40, channels=1
    )
    record = _train(config, tmp_path / "runs", monkeypatch)
    path = tmp_path / "runs" / record.slug / "model.keras"
    assert keras.saving.load_model(path).input_shape == (None, 40, 40, 1)
    assert record.images["image_size"] == 40


def test_a_validation_split_is_used_where_there_is_one(folder):
    (folder / "train").mkdir()
    for name in NAMES:
        (folder / name).rename(folder / "train" / name)
        (folder / "val" / name).mkdir(parents=True)
        os.link(
            folder / "train" / name / "0.png", folder / "val" / name / "v.png"
        )
    data = load_data(folder)
    config = settled(RunConfig(data=str(folder)), data)
    parts = split(data, resolve(config).partition)
    assert len(parts.validation.images) == 3
    assert len(parts.fitting.images) == len(data.train_images)
    paper = dataclasses.replace(config, protocol="paper")
    assert not len(split(data, resolve(paper).partition).validation.images)


def test_a_sweep_compares_the_images(folder, tmp_path):
    index = tmp_path / "index.jsonl"
    values = {"data": str(folder), "width": 0.5, "strategy": "baseline"}
    asked = sweeps.with_images(SweepConfig(runs=[values]))
    (config,) = asked.configs
    assert config.data_digest == load_data(folder).digest
    todo = sweeps.list_todo(asked, index)
    assert [one.digest for one in todo.pending] == [config.digest]
    (folder / "left" / "0.png").unlink()
    (other,) = sweeps.with_images(SweepConfig(runs=[values])).configs
    assert other.digest != config.digest


def test_a_sweeps_teacher_reads_the_same_images(folder):
    student = {
        "data": str(folder),
        "image_size": 40,
        "width": 0.5,
        "strategy": "kd",
        "teachers": ["@big"],
    }
    asked = sweeps.with_images(
        SweepConfig(runs=[student], teachers={"big": {"width": 1.0}})
    )
    (teacher,) = asked.teacher_configs
    assert teacher.image_size == 40
    assert asked.configs[0].teachers == (teacher.slug,)


def _warnings(**given):
    usual = {
        "images": 300,
        "classes": 3,
        "labels": np.repeat([0, 1, 2], 10),
        "accuracy": 0.9,
        "losses": [1.0, 0.5],
    }
    options = {"epochs": 100, "batch_size": 16}
    options = {name: given.pop(name, options[name]) for name in options}
    learning = resolve(RunConfig(**options)).learning
    return find_warnings(learning, **usual | given)


def test_classes_without_a_validation_image_are_named(
    folder, tmp_path, monkeypatch, capsys
):
    """Of 10, 2 and 10 images three are held out, stratified by class."""
    for file in (folder / "right").glob("*.png"):
        if int(file.stem) > 2:
            file.unlink()
    config = RunConfig(data=str(folder), recipe="quick", epochs=1, batch_size=8)
    record = _train(config, tmp_path / "runs", monkeypatch)
    told = "no validation image is of ['right']: "
    assert [told in line for line in record.images["warnings"]].count(True) == 1
    assert f"warning: {told}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, None),
        ({"images": 40, "epochs": 8}, "an epoch has 2 steps of 16 images"),
        (
            {"images": 40, "epochs": 8},
            "add images, or train for more epochs (--epochs 250)",
        ),
        (
            {"images": 40, "epochs": 8, "batch_size": 32},
            "1 steps of 32 images, the training 8; more of smaller batches",
        ),
        ({"accuracy": 1 / 3}, "33.33 % of 30 images, is not above guessing"),
        ({"losses": [1.0, 731_638_848.0]}, "ended at 731,638,848.0"),
        ({"losses": [float("nan")]}, "the training diverged"),
        ({"accuracy": None}, None),
    ],
)
def test_warnings_name_the_cure(given, told):
    found = _warnings(**given)
    assert len(found) == (told is not None)
    if told:
        assert told in found[0]
        assert "--" in found[0]
