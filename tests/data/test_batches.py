"""Splits, augmentation and batches: seeded, complete, the same everywhere."""

import hashlib

import numpy as np
import pytest

from gnsmall_keras.data.augment import (
    MEAN,
    STD,
    Augmentation,
    Views,
    normalize,
)
from gnsmall_keras.data.batches import (
    EvaluationBatches,
    RemainingBatches,
    TrainingBatches,
)
from gnsmall_keras.data.dataset import split_indices, stratified_subset

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, (50, 32, 32, 3), np.uint8)
LABELS = np.arange(50) % 5


def _epoch(batches):
    batches.on_epoch_begin()
    pairs = [batches[i] for i in range(len(batches))]
    batches.on_epoch_end()
    return [np.concatenate(part) for part in zip(*pairs, strict=True)]


def test_split_is_stratified_seeded_and_complete():
    labels = np.repeat(np.arange(10), 50)
    train, validation = split_indices(labels, fraction=0.1, seed=3)
    assert np.all(np.bincount(labels[validation]) == 5)
    assert sorted([*train, *validation]) == list(range(500))
    again, _ = split_indices(labels, fraction=0.1, seed=3)
    np.testing.assert_array_equal(train, again)
    other, _ = split_indices(labels, fraction=0.1, seed=4)
    assert not np.array_equal(train, other)


@pytest.mark.parametrize(("classes", "images"), [(10, 4), (2, 2)])
def test_of_few_images_one_of_each_class_is_held_out(classes, images):
    labels = np.repeat(np.arange(classes), images)
    train, validation = split_indices(labels, fraction=0.15, seed=0)
    assert labels[validation].tolist() == list(range(classes))
    assert len(train) == classes * (images - 1)


def test_split_of_too_few_images_is_refused():
    with pytest.raises(ValueError, match="cannot be split"):
        split_indices(np.arange(5), fraction=0.1, seed=0)


def test_part_of_a_split_is_pinned_and_has_every_class():
    labels = np.repeat(np.arange(10), 50)
    indices = stratified_subset(labels, 50)
    np.testing.assert_array_equal(indices, stratified_subset(labels, 50))
    assert np.all(np.bincount(labels[indices]) == 5)
    assert len(stratified_subset(labels, 501)) == 500


def test_normalisation_is_the_papers():
    pixels = np.array([0, 128, 255], np.uint8)
    expected = (pixels / 255 - MEAN) / STD
    np.testing.assert_allclose(normalize(pixels), expected, rtol=1e-5)
    assert normalize(pixels).dtype == np.float32


def test_crops_and_flips_are_parts_of_the_padded_image():
    views = Augmentation(IMAGES, Views(flip=True))(
        np.arange(50), np.random.default_rng(1)
    )
    padded = np.pad(IMAGES, ((0, 0), (4, 4), (4, 4), (0, 0)))
    flipped = 0
    for view, image in zip(views, padded, strict=True):
        crops = [
            image[row : row + 32, column : column + 32]
            for row in range(9)
            for column in range(9)
        ]
        straight = any(np.array_equal(view, crop) for crop in crops)
        mirrored = any(np.array_equal(view, crop[:, ::-1]) for crop in crops)
        assert straight or mirrored
        flipped += mirrored
    assert 10 < flipped < 40


def test_crops_can_reflect_the_border():
    augment = Augmentation(
        IMAGES, Views(flip=False, padding=2, border="reflect")
    )
    views = augment(np.arange(50), np.random.default_rng(1))
    border = ((0, 0), (2, 2), (2, 2), (0, 0))
    padded = np.pad(IMAGES, border, mode="reflect")
    corners = set()
    for view, image in zip(views, padded, strict=True):
        corners |= {
            (row, column)
            for row in range(5)
            for column in range(5)
            if np.array_equal(view, image[row : row + 32, column : column + 32])
        }
    assert len(corners) > 15


def test_an_alternating_flip_mirrors_every_other_epoch():
    """Each image in one of two epochs, half of them in the first."""
    batches = TrainingBatches(
        IMAGES,
        LABELS,
        batch_size=50,
        seed=3,
        shuffle=False,
        views=Views(alternate=True, padding=0),
    )
    plain = normalize(IMAGES)
    counts = []
    for epoch in range(4):
        images, _ = _epoch(batches)
        mirrored = (images == plain[:, :, ::-1]).all(axis=(1, 2, 3))
        straight = (images == plain).all(axis=(1, 2, 3))
        assert np.all(mirrored ^ straight)
        counts.append(mirrored)
        assert epoch < 1 or np.all(counts[-1] ^ counts[-2])
    assert 10 < counts[0].sum() < 40


def test_fixed_views_can_alternate_too():
    augment = Augmentation(IMAGES, Views(alternate=True, padding=0))
    views = [
        augment.view(np.arange(50), seed=3, view=view) for view in range(3)
    ]
    np.testing.assert_array_equal(views[0], views[2])
    np.testing.assert_array_equal(views[0], views[1][:, :, ::-1])


def test_the_rest_of_an_epoch_is_what_was_left():
    options = {"batch_size": 20, "seed": 3}
    whole = TrainingBatches(IMAGES, LABELS, **options)
    rest = RemainingBatches(TrainingBatches(IMAGES, LABELS, **options), 1)
    assert len(rest) == 2
    for ours, theirs in zip(_epoch(rest), _epoch(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs[20:])


def test_digits_are_not_mirrored():
    image = IMAGES[:1]
    augment = Augmentation(image, Views(flip=False))
    padded = np.pad(image[0], ((4, 4), (4, 4), (0, 0)))
    for seed in range(20):
        (view,) = augment(np.array([0]), np.random.default_rng(seed))
        assert any(
            np.array_equal(view, padded[r : r + 32, c : c + 32])
            for r in range(9)
            for c in range(9)
        )


def test_a_fixed_view_is_the_same_whatever_else_is_asked_for():
    augment = Augmentation(IMAGES, Views(flip=True))
    whole = augment.view(np.arange(50), seed=5, view=1)
    some = np.random.default_rng(2).permutation(50)[:20]
    np.testing.assert_array_equal(
        augment.view(some, seed=5, view=1), whole[some]
    )
    fewer = Augmentation(IMAGES[:20], Views(flip=True))
    np.testing.assert_array_equal(
        fewer.view(np.arange(20), seed=5, view=1), whole[:20]
    )
    for seed, view in ((5, 2), (6, 1)):
        other = augment.view(np.arange(50), seed=seed, view=view)
        assert not np.array_equal(other, whole)


def test_fixed_views_are_spread_over_all_crops_and_both_sides():
    row, column = np.mgrid[:32, :32]
    image = np.stack([row, column, row], axis=-1).astype(np.uint8) + 100
    images = np.repeat(image[None], 3000, 0)
    views = Augmentation(images, Views(flip=True)).view(
        np.arange(3000), seed=0, view=0
    )
    middle = views[:, 16, 16].astype(int) - 100  # where it was cut from
    mirrored = views[:, 16, 15, 1] > views[:, 16, 16, 1]
    assert 0.45 < mirrored.mean() < 0.55
    for shift in (middle[:, 0] - 16, middle[:, 1] - 16 + mirrored):
        counts = np.bincount(shift + 4)
        assert len(counts) == 9
        assert counts.min() > 250


def test_fixed_views_stay_what_they_are():
    # A change makes every stored teacher wrong: stored_teacher.SCHEMA with it.
    views = Augmentation(IMAGES, Views(flip=True)).view(
        np.arange(50), seed=7, view=3
    )
    digest = hashlib.sha256(np.ascontiguousarray(views)).hexdigest()
    assert digest[:16] == "698710e273f8c2b7"


@pytest.mark.contract
def test_batches_are_the_same_on_every_backend():
    batches = TrainingBatches(IMAGES, LABELS, batch_size=16, seed=7)
    images, labels = _epoch(batches)
    digest = hashlib.sha256(np.rint((images * STD + MEAN) * 255).astype("u1"))
    digest.update(labels.astype("u1"))
    assert digest.hexdigest()[:16] == "6f4162107c6aaec1"


def test_every_epoch_has_its_own_order_and_views():
    batches = TrainingBatches(IMAGES, LABELS, batch_size=16, seed=7)
    first, second = _epoch(batches), _epoch(batches)
    assert not np.array_equal(first[1], second[1])
    again = TrainingBatches(IMAGES, LABELS, batch_size=16, seed=7)
    np.testing.assert_array_equal(first[0], _epoch(again)[0])
    np.testing.assert_array_equal(second[0], _epoch(again)[0])


def test_an_epoch_has_every_image_once():
    batches = TrainingBatches(
        IMAGES, np.arange(50), batch_size=16, seed=7, views=Views(augment=False)
    )
    images, numbers = _epoch(batches)
    assert sorted(numbers) == list(range(50))
    np.testing.assert_array_equal(images, normalize(IMAGES)[numbers])


def test_remainder_can_be_dropped():
    batches = TrainingBatches(
        IMAGES, LABELS, batch_size=16, seed=7, drop_remainder=True
    )
    assert len(batches) == 3


def test_without_shuffling_the_order_is_the_given_one():
    batches = TrainingBatches(
        IMAGES, np.arange(50), batch_size=16, seed=7, shuffle=False
    )
    assert _epoch(batches)[1].tolist() == list(range(50))


def test_evaluation_keeps_order_and_rest():
    images, numbers = _epoch(
        EvaluationBatches(IMAGES, np.arange(50), batch_size=16)
    )
    assert numbers.tolist() == list(range(50))
    np.testing.assert_array_equal(images, normalize(IMAGES))


def test_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="batch_size=51, images=50"):
        TrainingBatches(IMAGES, LABELS, batch_size=51, seed=0)


@pytest.mark.parametrize("count", [30, 60])
def test_labels_of_other_images_are_refused(count):
    labels = np.zeros(count, int)
    with pytest.raises(ValueError, match=f"labels={count}, images=50"):
        TrainingBatches(IMAGES, labels, batch_size=10, seed=0)


def test_normalised_images_are_refused():
    with pytest.raises(ValueError, match=r"must be uint8.*Received: float32"):
        TrainingBatches(normalize(IMAGES), LABELS, batch_size=16, seed=0)


def _logits(views, images=50, classes=5):
    """Numbers that tell view, image and class: vvv.ii + class / 10000."""
    view, image, label = np.mgrid[:views, :images, :classes]
    return (view + image / 100 + label / 10000).astype(np.float32)


def test_stored_logits_belong_to_the_batchs_images_and_view():
    batches = TrainingBatches(
        IMAGES,
        np.arange(50),
        batch_size=16,
        seed=7,
        teacher_logits=_logits(3),
        view_seed=1,
    )
    augment = Augmentation(IMAGES, Views(flip=True))
    for epoch in range(4):
        batches.on_epoch_begin()
        for batch in range(len(batches)):
            inputs, numbers = batches[batch]
            assert set(inputs) == {"images", "teacher_logits"}
            np.testing.assert_array_equal(
                numbers, batches.indices(epoch, batch)
            )
            expected = augment.view(numbers, seed=1, view=epoch % 3)
            np.testing.assert_array_equal(inputs["images"], normalize(expected))
            np.testing.assert_array_equal(
                inputs["teacher_logits"], _logits(3)[epoch % 3, numbers]
            )
            assert inputs["teacher_logits"].dtype == np.float32


def test_stored_logits_do_not_change_the_order():
    options = {"batch_size": 16, "seed": 7}
    plain = TrainingBatches(IMAGES, LABELS, **options)
    stored = TrainingBatches(
        IMAGES, LABELS, teacher_logits=_logits(2), **options
    )
    for epoch in range(2):
        for batch in range(len(plain)):
            np.testing.assert_array_equal(
                plain.indices(epoch, batch), stored.indices(epoch, batch)
            )


def test_without_augmentation_the_only_view_is_the_plain_image():
    batches = TrainingBatches(
        IMAGES,
        np.arange(50),
        batch_size=16,
        seed=7,
        views=Views(augment=False),
        teacher_logits=_logits(1),
    )
    for _ in range(2):
        batches.on_epoch_begin()
        inputs, numbers = batches[3]
        assert len(numbers) == 2
        np.testing.assert_array_equal(
            inputs["images"], normalize(IMAGES[numbers])
        )


@pytest.mark.parametrize(
    ("logits", "augment", "message"),
    [
        (_logits(2, images=40), True, r"shapes \[\(40, 5\)\] for images=50"),
        (_logits(1)[0], True, r"views=50 of shapes \[\(5,\)\]"),
        ([], True, r"views=0 of shapes \[\]"),
        ([_logits(1)[0], _logits(1)[0, :, :3]], True, r"views=2 of shapes"),
        (_logits(2), False, "must have one. Received: views=2"),
    ],
    ids=["fewer images", "one view", "none", "uneven", "not augmented"],
)
def test_stored_logits_that_do_not_fit_are_refused(logits, augment, message):
    with pytest.raises(ValueError, match=message):
        TrainingBatches(
            IMAGES,
            LABELS,
            batch_size=16,
            seed=0,
            views=Views(augment=augment),
            teacher_logits=logits,
        )
