"""Teacher logits that are computed once and stored."""

import json

import keras
import numpy as np
import pytest

from gnsmall_keras.data.augment import Augmentation, Views, normalize
from gnsmall_keras.distill import cache
from gnsmall_keras.distill.cache import cache_teacher
from gnsmall_keras.distill.stored_teacher import (
    CachedTeacher,
    images_digest,
    teacher_digest,
)
from gnsmall_keras.distill.teachers import FrozenTeacher

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, (30, 8, 8, 3), np.uint8)
LABELS = (np.arange(30) % 4).astype("int32")
OPTIONS = {"views": 3, "seed": 5, "augment": True, "flip": True}


def _teacher(seed=1, *, classes=4, size=8, gain=1.0, activation=None):
    """Logits that tell where each pixel is, so each crop and mirroring."""
    teacher = keras.Sequential(
        [
            keras.Input((size, size, 3)),
            keras.layers.Flatten(),
            keras.layers.Dense(classes, activation=activation),
        ]
    )
    generator = np.random.default_rng(seed)
    kernel = generator.normal(0.0, 0.2 * gain, (size * size * 3, classes))
    teacher.set_weights([kernel, generator.normal(0.0, gain, classes)])
    return teacher


@pytest.fixture(scope="module")
def teacher():
    return _teacher()


@pytest.fixture(autouse=True)
def batches_of_twelve(monkeypatch):
    """Three teacher batches a view, the last one short."""
    monkeypatch.setattr(cache, "_BATCH_SIZE", 12)


def _cache(teacher, path, **changes):
    arguments = {"images": IMAGES, "labels": LABELS, "progress": False}
    arguments |= {"path": path} | OPTIONS | changes
    return cache_teacher(teacher, **arguments)


def _load(path, images=IMAGES, labels=LABELS, teacher=None):
    return CachedTeacher.load(
        path, images=images, labels=labels, teacher=teacher
    )


@pytest.fixture
def calls(monkeypatch):
    """The sizes of all batches that any model has predicted."""
    sizes = []
    predict = keras.Model.predict_on_batch

    def counted(self, x):
        sizes.append(len(x))
        return predict(self, x)

    monkeypatch.setattr(keras.Model, "predict_on_batch", counted)
    return sizes


def _epochs(batches, count):
    """Yields images, stored logits and labels of each batch of each epoch."""
    for _ in range(count):
        batches.on_epoch_begin()
        for batch in range(len(batches)):
            inputs, labels = batches[batch]
            yield inputs["images"], inputs["teacher_logits"], labels
        batches.on_epoch_end()


@pytest.mark.contract
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"flip": False},
        {"augment": False, "views": 1},
    ],
    ids=["cropped and mirrored", "cropped", "plain"],
)
def test_stored_logits_are_the_live_teachers(teacher, tmp_path, options):
    _cache(teacher, tmp_path, **options)
    stored = _load(tmp_path, teacher=teacher)
    batches = stored.batches(IMAGES, LABELS, batch_size=7, seed=9)
    seen = 0
    for images, logits, labels in _epochs(batches, 4):
        live = teacher.predict_on_batch(images)
        assert logits.dtype == np.float32
        # Half a unit in the last place of float16, and of float32 sums.
        np.testing.assert_allclose(logits, live, rtol=2**-11, atol=1e-4)
        seen += len(labels)
    assert seen == 4 * 30


def test_views_differ_and_repeat(teacher, tmp_path):
    stored = _cache(teacher, tmp_path)
    batches = stored.batches(
        IMAGES, LABELS, batch_size=30, seed=9, shuffle=False
    )
    images, logits = zip(
        *((images, logits) for images, logits, _ in _epochs(batches, 6)),
        strict=True,
    )
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert not np.array_equal(images[one], images[other])
        assert not np.array_equal(logits[one], logits[other])
    for epoch in range(3):
        np.testing.assert_array_equal(images[epoch], images[epoch + 3])
        np.testing.assert_array_equal(logits[epoch], logits[epoch + 3])


def test_order_has_a_seed_of_its_own(teacher, tmp_path):
    stored = _cache(teacher, tmp_path)

    def order_and_first_view(seed):
        batches = stored.batches(IMAGES, LABELS, batch_size=30, seed=seed)
        ((images, logits, _),) = _epochs(batches, 1)
        order = batches.indices(0, 0)
        sorting = np.argsort(order)
        return order, images[sorting], logits[sorting]

    first, second = order_and_first_view(1), order_and_first_view(2)
    assert not np.array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    np.testing.assert_array_equal(first[2], second[2])


def test_remainder_can_be_dropped(teacher, tmp_path):
    stored = _cache(teacher, tmp_path)
    batches = stored.batches(
        IMAGES, LABELS, batch_size=7, seed=9, drop_remainder=True
    )
    assert len(batches) == 4


def test_what_is_stored(teacher, tmp_path):
    stored = _cache(teacher, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cache.json",
        "view-0000.npy",
        "view-0001.npy",
        "view-0002.npy",
    ]
    assert json.loads((tmp_path / "cache.json").read_text()) == {
        "schema": 2,
        "alternate": False,
        "padding": 4,
        "border": "zeros",
        "data_digest": images_digest(IMAGES, LABELS),
        "teacher_digest": teacher_digest(teacher),
        "images": 30,
        "classes": 4,
        **OPTIONS,
    }
    for logits in stored.logits:
        assert isinstance(logits, np.memmap)
        assert (logits.dtype, logits.shape) == (np.float16, (30, 4))


def test_every_batch_has_one_shape(teacher, tmp_path, calls):
    _cache(teacher, tmp_path)
    assert calls == [12] * 9


def test_few_images_are_one_batch(teacher, tmp_path, calls):
    _cache(teacher, tmp_path, images=IMAGES[:5], labels=LABELS[:5])
    assert calls == [5] * 3


def test_a_whole_cache_is_not_computed_again(teacher, tmp_path, calls):
    _cache(teacher, tmp_path)
    calls.clear()
    _cache(_teacher(), tmp_path)  # the same weights in another model
    assert calls == []


def test_interrupted_cache_goes_on_with_what_is_missing(
    teacher, tmp_path, calls, monkeypatch
):
    whole = _cache(teacher, tmp_path / "whole")
    calls.clear()

    count = keras.Model.predict_on_batch

    def until_interrupted(self, x):
        if len(calls) == 4:  # in the second of three views
            raise KeyboardInterrupt
        return count(self, x)

    path = tmp_path / "again"
    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "predict_on_batch", until_interrupted)
        with pytest.raises(KeyboardInterrupt):
            _cache(teacher, path)
    assert sorted(file.name for file in path.iterdir()) == [
        "begun.json",
        "view-0000.npy",
    ]
    with pytest.raises(ValueError, match="goes on where it was interrupted"):
        _load(path)
    with pytest.raises(ValueError, match="holds a cache of something else"):
        _cache(_teacher(2), path)

    calls.clear()
    _cache(teacher, path)
    assert len(calls) == 6
    for file in (tmp_path / "whole").iterdir():
        assert (path / file.name).read_bytes() == file.read_bytes()
    assert len(list(path.iterdir())) == 1 + whole.views


def test_views_of_unknown_origin_are_computed_anew(teacher, tmp_path):
    _cache(_teacher(2), tmp_path)
    (tmp_path / "cache.json").unlink()
    found = _cache(teacher, tmp_path)
    live = teacher.predict_on_batch(_view(0))
    np.testing.assert_allclose(found.logits[0], live, rtol=1e-3, atol=1e-3)


def _view(number):
    augment = Augmentation(IMAGES, Views(flip=True))
    view = augment.view(np.arange(30), seed=5, view=number)
    return normalize(view)


def test_truncated_cache_is_refused_and_mended(teacher, tmp_path, calls):
    whole = _cache(teacher, tmp_path)
    expected = np.array(whole.logits)
    file = tmp_path / "view-0001.npy"
    stored = file.read_bytes()
    header = stored.replace(b"}", b"{", 1)  # a tokenizer's error, in NumPy
    for content in (stored[:-10], b"", header):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="view-0001.npy must hold"):
            _load(tmp_path)
        calls.clear()
        mended = _cache(teacher, tmp_path)
        assert len(calls) == 3
        np.testing.assert_array_equal(np.array(mended.logits), expected)
    file.unlink()
    with pytest.raises(ValueError, match="missing or truncated"):
        _load(tmp_path)


def test_other_data_are_refused(teacher, tmp_path):
    stored = _cache(teacher, tmp_path)
    others = IMAGES.copy()
    others[3, 2, 1, 0] ^= 1
    labels = LABELS.copy()
    labels[0] = 1
    for data in ((others, LABELS), (IMAGES, labels), (IMAGES[:9], LABELS[:9])):
        with pytest.raises(ValueError, match="these very images and labels"):
            _load(tmp_path, *data)
        with pytest.raises(ValueError, match="these very images and labels"):
            stored.batches(*data, batch_size=3, seed=0)


def test_other_teacher_is_refused(teacher, tmp_path):
    _cache(teacher, tmp_path)
    with pytest.raises(ValueError, match="of this very teacher"):
        _load(tmp_path, teacher=_teacher(2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views": 4}, r"views=4 \(there: 3\)"),
        ({"seed": 6}, r"seed=6 \(there: 5\)"),
        ({"flip": False}, r"flip=False \(there: True\)"),
        ({"images": IMAGES[::-1]}, "data_digest="),
    ],
    ids=str,
)
def test_folder_of_another_cache_is_refused(
    teacher, tmp_path, changes, message
):
    _cache(teacher, tmp_path)
    with pytest.raises(ValueError, match=message):
        _cache(teacher, tmp_path, **changes)
    _load(tmp_path)


def _change_description(path, **changes):
    file = path / "cache.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_unreadable_description_is_refused(teacher, tmp_path):
    _cache(teacher, tmp_path)
    file = tmp_path / "cache.json"
    for content, message in (
        (b"{", "must be JSON"),
        (b"\xff", "must be JSON"),
        (b"[]", "schema=None"),
        (b'{"schema": 9}', "schema=9"),
        (b'{"schema": 2, "new": 0}', r"unknown: \['new'\]"),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            _load(tmp_path)


def test_cache_of_fewer_classes_is_refused(teacher, tmp_path):
    _cache(teacher, tmp_path)
    _change_description(tmp_path, classes=3)
    with pytest.raises(ValueError, match=r"labels in \[0, 3\]"):
        _load(tmp_path)


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ({"classes": 3}, {}, "has 3 classes"),
        ({"size": 9}, {}, "takes images"),
        ({"activation": "softmax"}, {}, "logits are needed"),
        ({"gain": np.nan}, {}, "logits that are NaN or inf"),
        ({}, {"labels": LABELS - 1}, r"labels in \[-1, 2\]"),
        ({}, {"labels": LABELS[:9]}, "images=30, labels=9"),
        ({}, {"labels": LABELS.tolist()}, "Received: a list. Use np.asarray"),
        ({}, {"images": IMAGES[:0], "labels": LABELS[:0]}, "images=0"),
        ({}, {"views": 0}, "views=0"),
        ({}, {"views": 1.5}, "views=1.5"),
        ({}, {"augment": False}, "views=3, augment=False"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(options, changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        _cache(_teacher(**options), tmp_path, **changes)
    with pytest.raises(ValueError, match="without it"):
        _load(tmp_path)


def test_what_is_no_model_is_refused(teacher, tmp_path):
    with pytest.raises(ValueError, match="Received: FrozenTeacher. Give the"):
        _cache(FrozenTeacher(teacher), tmp_path)
    assert not list(tmp_path.iterdir())


def test_logits_beyond_float16_are_cut_off(tmp_path):
    stored = _cache(_teacher(gain=1e6), tmp_path)
    logits = np.array(stored.logits)
    assert np.isfinite(logits).all()
    assert np.abs(logits).max() == np.finfo(np.float16).max


def test_a_cache_is_not_opened_with_a_list_of_labels(teacher, tmp_path):
    cached = _cache(teacher, tmp_path)
    labels = LABELS.tolist()
    with pytest.raises(ValueError, match="Received: a list"):
        _load(tmp_path, labels=labels)
    with pytest.raises(ValueError, match="Received: a list"):
        cached.batches(IMAGES, labels, batch_size=5, seed=0)


@pytest.mark.contract
def test_digests_are_the_same_on_every_backend():
    weights = [np.arange(768).reshape(192, 4) / 100, np.arange(4)]
    for _ in range(2):  # whatever Keras names the layers
        teacher = _teacher()
        teacher.set_weights(weights)
        assert teacher_digest(teacher) == "d1db9b1c9594febd"
    assert images_digest(IMAGES, LABELS) == "147a402cd3334e40"


def test_digest_tells_shapes_and_order_apart(teacher):
    assert images_digest(IMAGES, LABELS) != images_digest(
        IMAGES.reshape(30, 4, 16, 3), LABELS
    )
    assert images_digest(IMAGES, LABELS) != images_digest(IMAGES[::-1], LABELS)
    assert teacher_digest(teacher) != teacher_digest(_teacher(2))


def test_progress_is_a_line_a_view(teacher, tmp_path, capsys):
    _cache(teacher, tmp_path / "quiet")
    assert capsys.readouterr().out == ""
    _cache(teacher, tmp_path / "shown", progress=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[2].startswith("teacher, view 3/3  ")


@pytest.mark.parametrize("call", ["cache", "load", "batches"])
def test_normalised_images_are_refused(teacher, tmp_path, call):
    """They would be normalised again, the student's too: nobody would see."""
    normalised = normalize(IMAGES)
    cached = _cache(teacher, tmp_path)
    calls = {
        "cache": lambda: _cache(teacher, tmp_path / "b", images=normalised),
        "load": lambda: _load(tmp_path, images=normalised),
        "batches": lambda: cached.batches(
            normalised, LABELS, batch_size=8, seed=0
        ),
    }
    with pytest.raises(ValueError, match=r"Received: float32\. Give them as"):
        calls[call]()
