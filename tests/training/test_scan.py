"""Chunks of steps as one program: bit for bit what single steps give."""

import shutil

import keras
import numpy as np
import pytest
from support import tiny_network

from gnsmall_keras.config import RunConfig
from gnsmall_keras.data.augment import Views, pad
from gnsmall_keras.data.batches import TrainingBatches
from gnsmall_keras.data.mixing import Mixing
from gnsmall_keras.models.saving.files import save_model
from gnsmall_keras.training import fit as learn
from gnsmall_keras.training import run as fit
from gnsmall_keras.training.interruption import (
    StopRequest,
    TrainingInterrupted,
)
from gnsmall_keras.training.scan import loop as scanned
from gnsmall_keras.training.scan.canonical import rewritten
from gnsmall_keras.training.scan.images import Shape, make_batch
from gnsmall_keras.training.scan.plan import (
    chunk_length,
    chunks_of,
    pixel_values,
    plan_epoch,
    plan_in_order,
)
from gnsmall_keras.training.scan.single import plain_errors

pytestmark = [
    pytest.mark.contract,
    pytest.mark.skipif(keras.config.backend() != "jax", reason="JAX alone"),
]
SMOKE = {"width": 0.25, "epochs": 2, "batch_size": 128}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(learn, "create_model", tiny_network)


@pytest.fixture
def train(monkeypatch, tmp_path):
    """Trains; returns the record and the last checkpoint's arrays."""
    kept = {}

    def remove(path):
        if path.is_file():
            with np.load(path) as arrays:
                kept.update(arrays)

    monkeypatch.setattr(fit.checkpoint, "remove", remove)

    def trained(config, loop, **options):
        kept.clear()
        out = tmp_path / loop
        record = fit.train(
            config, out=out, progress=False, loop=loop, **options
        )
        kept.pop("state")
        return record, dict(kept)

    return trained


def _teachers(folder):
    names = []
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        path = folder / f"teacher-{seed}.keras"
        save_model(tiny_network("gns", classes=10), path)
        names.append(str(path))
    return tuple(names)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"select": "validation"}, id="selected"),
        pytest.param(
            {
                "recipe": "paper",
                "batch_size": 256,
                "ema_momentum": 0.9,
                "cutout": 8,
                "mixup": 0.4,
                "cutmix": 1.0,
            },
            id="short batch, averages, mixed",
        ),
        pytest.param(
            {"recipe": "best", "augment": False},
            id="plain, muon",
            marks=pytest.mark.slow,
        ),
        pytest.param({"strategy": "kd", "mixup": 0.4}, id="kd"),
        pytest.param(
            {"strategy": "ensemble", "confidence_weights": True},
            id="ensemble",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"strategy": "assistant", "assistants": ("gns-w0.5",)},
            id="assistant",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_chunks_are_steps_bit_for_bit(train, tmp_path, options):
    """Losses, weights, velocities, averages and metrics after two epochs."""
    if "strategy" in options:
        count = 2 if options["strategy"] == "ensemble" else 1
        options = {**options, "teachers": _teachers(tmp_path)[:count]}
    config = RunConfig(**{**SMOKE, **options})
    steps, expected = train(config, "steps")
    chunks, found = train(config, "chunks")
    assert chunks.history == steps.history
    assert chunks.test_predictions == steps.test_predictions
    assert (steps.hardware["loop"], chunks.hardware["loop"]) == (
        "steps",
        "chunks",
    )
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.slow
def test_a_cached_teacher_s_logits_are_those_of_the_view(train, tmp_path):
    (teacher, _) = _teachers(tmp_path)
    for out in ("steps", "chunks"):
        folder = tmp_path / out / "who"
        folder.mkdir(parents=True)
        shutil.copy(teacher, folder / "model.keras")
        (folder / "record.json").write_text("{}")
    config = RunConfig(**SMOKE, strategy="kd", cache="who")
    steps, expected = train(config, "steps")
    chunks, found = train(config, "chunks")
    assert chunks.history == steps.history
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize("first", ["steps", "chunks"])
def test_a_run_stopped_in_an_epoch_goes_on_by_chunks(
    train, monkeypatch, tmp_path, first
):
    """Chunks go on where chunks were, and where single steps were."""
    config = RunConfig(**SMOKE)
    _, expected = train(config, "steps")
    looks = []

    class Stop(fit.StopRequest):
        @property
        def reason(self):
            looks.append(self.steps)
            return "enough" if self.steps in (3, 4, 13, 14) else ""

    with monkeypatch.context() as patch:
        patch.setattr(fit, "StopRequest", Stop)
        with pytest.raises(TrainingInterrupted, match="enough"):
            fit.train(
                config, out=tmp_path / "chunks", progress=False, loop=first
            )
    record, found = train(config, "chunks")
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
    loops = {"steps": "steps; then chunks", "chunks": "chunks"}
    assert record.hardware["loop"] == loops[first]


def test_an_epoch_makes_eight_trips_to_the_host(train, monkeypatch):
    made = []

    class Counted(scanned.ScanLoop):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr("gnsmall_keras.training.scan.single.ScanLoop", Counted)
    train(RunConfig(**SMOKE), "chunks")
    assert 0 < made[0].trips / SMOKE["epochs"] <= 8


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("views", "mixing"),
    [
        (Views(), Mixing(cutout=9)),
        (Views(padding=2, border="reflect", alternate=True), Mixing(mixup=0.4)),
        (Views(flip=False), Mixing(cutout=8, cutmix=1.0)),
        (Views(augment=False), Mixing()),
    ],
)
def test_images_are_made_as_numpy_makes_them(channels, views, mixing):
    import jax

    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (53, 32, 32, channels), np.uint8)
    labels = generator.integers(0, 10, 53)
    batches = TrainingBatches(
        images,
        labels,
        batch_size=16,
        seed=3,
        views=views,
        mixing=mixing,
        classes=10,
    )
    data = {
        "images": pad(images, views) if views.augment else images,
        "labels": labels.astype(np.int32),
        "values": pixel_values(channels),
    }
    make = jax.jit(
        lambda data, step: make_batch(
            data, step, Shape(32, 32, 10, mixing.cutout)
        )
    )
    batches.start_at(1)
    batches.on_epoch_begin()
    steps = [
        {name: values[step] for name, values in plan.items()}
        for plan in plan_epoch(batches, 1)
        for step in range(len(plan["index"]))
    ]
    assert len(steps) == len(batches) == 4
    for number, step in enumerate(steps):
        for found, expected in zip(
            make(data, step), batches[number], strict=True
        ):
            np.testing.assert_array_equal(found, expected)


def test_a_chunk_is_a_part_of_an_epoch_without_rest():
    assert [chunk_length(n) for n in (175, 351, 13, 7, 196)] == [
        *(35, 117, 13, 7, 49)
    ]
    assert chunks_of(0, 6, 3) == [(0, 3), (3, 3)]
    assert chunks_of(1, 6, 3) == [(1, 1), (2, 1), (3, 3)]
    whole, rest = plan_in_order(7, 3)
    assert whole["index"].shape == (2, 3)
    assert rest["index"].tolist() == [[6]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loop": "epochs"}, "must be one of"),
        ({"loop": "chunks", "kernels": "native"}, "not possible"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        fit.train(RunConfig(**SMOKE), out=tmp_path, progress=False, **options)


def test_a_budget_ends_before_a_chunk_that_would_pass_it():
    stop = StopRequest(60.0)
    assert not stop.reason
    stop.ahead = 61.0
    assert "time budget of 60 s" in stop.reason
    stop.look()
    stop.ahead = 0.0
    assert stop.reason, "the same until the next look"
    stop.look()
    assert not stop.reason


def test_sums_of_branches_read_them_in_the_order_of_their_axes():
    """For GPUs; the values stay, and sums of other arrays."""
    import jax

    def gradient(values):
        def loss(values):
            return (values.sum((0, 1, 2)) ** 2).sum() + values[0].sum()

        return jax.grad(loss)(values), values.sum(3)

    shape = (2, 3, 4, 4, 5, 6)  # runs, batch, height, width, branches, channels
    values = np.random.default_rng(0).normal(size=shape).astype("float32")
    expected = jax.jit(jax.vmap(gradient))(values)
    step = jax.jit(jax.vmap(rewritten(gradient, ordered=True)))
    assert step.lower(values).as_text().count("@LayoutConstraint(") == 2
    for found, wanted in zip(step(values), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("message", "kind", "words"),
    [
        ("RESOURCE_EXHAUSTED: 9 GiB", MemoryError, "Lower `batch_size`"),
        ("INTERNAL: device lost", OSError, "the same command goes on"),
    ],
)
def test_what_a_device_cannot_do_is_one_line(message, kind, words):
    from jax.errors import JaxRuntimeError

    with pytest.raises(kind, match="last checkpoint") as error, plain_errors():
        raise JaxRuntimeError(f"{message}\nand more")
    assert words in str(error.value)
    assert "and more" not in str(error.value)
