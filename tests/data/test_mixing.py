"""Cutout, mixup and CutMix: exact, seeded, and drawn after all else."""

from dataclasses import fields

import numpy as np
import pytest

from gnsmall_keras.data.augment import Views, normalize
from gnsmall_keras.data.batches import RemainingBatches, TrainingBatches
from gnsmall_keras.data.mixing import Mixing

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, (50, 32, 32, 3), np.uint8)
NUMBERS = np.arange(50)  # each image is its own class
OPTIONS = {"batch_size": 16, "seed": 7}
EACH = [{"cutout": 9}, {"mixup": 0.4}, {"cutmix": 1.0}]


def _batches(images=IMAGES, **options):
    seen, mixed = (
        {f.name: options.pop(f.name) for f in fields(kind) if f.name in options}
        for kind in (Views, Mixing)
    )
    return TrainingBatches(
        images,
        NUMBERS[: len(images)],
        views=Views(**seen),
        mixing=Mixing(**mixed),
        classes=50,
        **OPTIONS | options,
    )


def _epoch(batches):
    batches.on_epoch_begin()
    pairs = [batches[i] for i in range(len(batches))]
    return [np.concatenate(part) for part in zip(*pairs, strict=True)]


def _pairs(batches, batch):
    """Images before and after, their partners, and shares of the two."""
    before, numbers = _batches(padding=0)[batch]
    after, labels = batches[batch]
    assert labels.dtype == np.float32
    assert labels.shape == (len(before), 50)
    np.testing.assert_allclose(labels.sum(axis=1), 1.0, rtol=1e-6)
    each = np.arange(len(before))
    own = labels[each, numbers]
    rest = labels.copy()
    rest[each, numbers] = 0
    partners = np.where(own < 1, rest.argmax(axis=1), numbers)
    assert sorted(partners) == sorted(numbers)
    paired = own < 1  # the others are mixed with themselves
    (share,) = set(own[paired].tolist())
    where = [numbers.tolist().index(partner) for partner in partners]
    return before, after, before[where], paired, share


@pytest.mark.parametrize("side", [1, 8, 9])
def test_cutout_sets_a_square_to_zero_and_nothing_else(side):
    """Compared with the very crops and flips of training without it."""
    images = np.full((50, 32, 32, 3), 7, np.uint8)  # no pixel is the mean
    options = {"border": "reflect"}
    plain, numbers = _epoch(_batches(images, **options))
    holed, labels = _epoch(_batches(images, **options, cutout=side))
    np.testing.assert_array_equal(labels, numbers)
    hole = (holed == 0).all(axis=-1)
    np.testing.assert_array_equal(holed[~hole], plain[~hole])
    whole = 0
    for mask in hole:
        rows, columns = mask.any(axis=1), mask.any(axis=0)
        np.testing.assert_array_equal(mask, rows[:, None] & columns)
        for line in (rows, columns):
            assert side - side // 2 <= line.sum() <= side
            inside = np.flatnonzero(line)
            assert len(inside) == np.ptp(inside) + 1
            at_border = inside[0] == 0 or inside[-1] == 31
            assert line.sum() == side or at_border
        whole += mask.sum() == side**2
    assert whole > 20


def test_the_squares_middle_is_any_pixel():
    images = np.full((3000, 32, 32, 3), 7, np.uint8)
    batches = TrainingBatches(
        images,
        np.zeros(3000, int),
        batch_size=3000,
        seed=0,
        mixing=Mixing(cutout=16),
    )
    found = (batches[0][0] == 0).all(axis=-1).mean(axis=0)
    middles, line = np.ogrid[:32, :32]
    holed = (middles - 8 <= line) & (line < middles + 8)
    expected = np.outer(holed.mean(axis=0), holed.mean(axis=0))
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.035)


def test_a_square_larger_than_the_image_is_cut_off():
    images, _ = _epoch(_batches(cutout=100))
    assert not images.any()


def test_mixup_is_a_mean_of_two_images_and_of_their_labels():
    batches = _batches(padding=0, mixup=0.4)
    shares = set()
    for batch in range(4):
        before, after, others, _, share = _pairs(batches, batch)
        shares.add(share)
        expected = share * before + (1 - share) * others
        np.testing.assert_allclose(after, expected, rtol=0, atol=1e-6)
        assert after.dtype == np.float32
    assert len(shares) == 4


def test_cutmix_takes_a_box_and_its_share_of_the_label():
    batches = _batches(padding=0, cutmix=1.0)
    for batch in range(4):
        before, after, others, paired, share = _pairs(batches, batch)
        for own, other, found in zip(
            before[paired], others[paired], after[paired], strict=True
        ):
            taken = (found == other).all(axis=-1)
            box = taken.any(axis=1)[:, None] & taken.any(axis=0)
            np.testing.assert_array_equal(taken, box)
            np.testing.assert_array_equal(found[~taken], own[~taken])
            assert 1 - taken.mean() == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize(("alpha", "expected"), [(1.0, 0.5), (0.2, 0.1727)])
def test_shares_are_betas(alpha, expected):
    """How often the larger one is below 3/4, by Beta(alpha, alpha)."""
    batches = _batches(IMAGES[:, :2, :2], mixup=alpha, batch_size=50)
    larger = []
    for _ in range(400):
        batches.on_epoch_begin()
        larger.append(batches[0][1].max(axis=1).min())
    found = np.mean(np.array(larger) < 0.75)
    assert found == pytest.approx(expected, abs=0.06)


def test_each_batch_takes_mixup_or_cutmix():
    """A box leaves pixels as they may be; a mean of two hardly ever."""
    every = np.arange(256, dtype=np.uint8)[:, None].repeat(3, axis=1)
    values = normalize(every)
    batches = _batches(padding=0, mixup=1.0, cutmix=1.0, batch_size=2)
    boxes = []
    for _ in range(4):
        batches.on_epoch_begin()
        for batch in range(25):
            images, labels = batches[batch]
            if (labels == 1).any():  # mixed with themselves
                continue
            known = np.isin(images, values).all(axis=(1, 2, 3))
            assert known[0] == known[1]
            boxes.append(known[0])
    assert 0.3 < np.mean(boxes) < 0.7


@pytest.mark.parametrize("mixing", [*EACH, {"mixup": 0.4, "cutmix": 1.0}])
def test_an_epoch_can_be_repeated_and_entered_anywhere(mixing):
    batches, again = _batches(**mixing), _batches(**mixing)
    first, second = _epoch(batches), _epoch(batches)
    for ours, theirs in zip(first, _epoch(again), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    rest = RemainingBatches(again, 1)
    for ours, theirs in zip(second, _epoch(rest), strict=True):
        np.testing.assert_array_equal(ours[16:], theirs)
    assert not np.array_equal(first[0], second[0])


@pytest.mark.parametrize("mixing", EACH)
def test_without_augmentation_nothing_is_mixed(mixing):
    plain = _epoch(_batches(augment=False))
    mixed = _epoch(_batches(augment=False, **mixing))
    for ours, theirs in zip(mixed, plain, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("mixing", EACH)
def test_stored_logits_of_other_images_are_refused(mixing):
    logits = np.zeros((1, 50, 50), np.float32)
    with pytest.raises(ValueError, match=f"Received with them: {mixing}"):
        _batches(teacher_logits=logits, **mixing)


def test_mixed_labels_need_the_number_of_classes():
    with pytest.raises(ValueError, match="cutmix=1.0, classes=None. Pass"):
        TrainingBatches(IMAGES, NUMBERS, **OPTIONS, mixing=Mixing(cutmix=1.0))
