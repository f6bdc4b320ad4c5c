"""The images that quantisation-aware training learns on."""

import dataclasses

import numpy as np
import pytest
from support import ROOT

from gnsmall_keras.config import ExportConfig, RunConfig
from gnsmall_keras.data.augment import MEAN, STD
from gnsmall_keras.models.ghostnet import ghostnetv3_small
from gnsmall_keras.quantization.qat import (
    QuantizationTraining,
    batches_of,
    prepare_training,
)
from gnsmall_keras.records.run import read_records
from gnsmall_keras.training.experiment import resolve
from gnsmall_keras.training.splits import split

pytestmark = pytest.mark.export


def _export_config(**options):
    return ExportConfig(quantization="int8-qat", **options)


def _run_on(dataset, **config):
    (record, *_) = read_records(ROOT / "papermill_runs/index.jsonl")
    return dataclasses.replace(
        record,
        data_digest=dataset.digest,
        config={**record.config, "data": "digits", **config},
    )


def test_a_network_learns_on_the_images_of_its_run(model, dataset):
    run = _run_on(dataset, seed=3, validation_fraction=0.2)
    config = RunConfig(seed=3, validation_fraction=0.2)
    expected = split(dataset, resolve(config).partition)
    found = prepare_training(model, dataset, _export_config(qat_epochs=2), run)
    np.testing.assert_array_equal(found.images, expected.fitting.images)
    np.testing.assert_array_equal(
        found.validation_images, expected.validation.images
    )
    assert found.epochs == 2
    # Its own fused form teaches, alone.
    assert found.label_weight == 0.0
    assert found.temperature == 1.0
    assert found.teacher.count_params() < model.count_params()


def test_no_image_is_held_out_of_the_paper_s_protocol(model, dataset):
    run = _run_on(dataset, protocol="paper")
    found = prepare_training(model, dataset, _export_config(), run)
    assert len(found.images) == len(dataset.train_images)
    assert not found.validates


def test_few_images_are_of_all_classes(model, dataset):
    order = np.argsort(dataset.train_labels, kind="stable")  # as folders have
    by_class = dataclasses.replace(
        dataset,
        train_images=dataset.train_images[order],
        train_labels=dataset.train_labels[order],
    )
    found = prepare_training(model, by_class, _export_config(qat_images=100))
    assert np.bincount(found.labels).tolist() == [10] * 10


def test_fewer_images_than_a_batch_are_one_batch(model, dataset):
    found = prepare_training(model, dataset, _export_config(qat_images=30))
    assert len(batches_of(found)) == 1
    assert found.batch_size == 30
    usual = prepare_training(model, dataset, _export_config(qat_images=70))
    assert usual.batch_size == 64


@pytest.mark.parametrize(("side", "most"), [(32, 2), (96, 6)])
def test_crops_move_by_as_much_of_the_image_as_in_training(side, most):
    rows = np.arange(side, dtype=np.uint8)[:, None, None]
    images = np.broadcast_to(rows, (64, side, side, 3))
    training = QuantizationTraining(images=images, labels=np.zeros(64, int))
    seen, _ = batches_of(training)[0]
    middle = np.asarray(seen)[:, side // 2, 0, 0]
    found = np.rint(255 * (middle * STD[0] + MEAN[0])) - side // 2
    assert np.abs(found).max() == most


def test_training_data_must_fit(model, dataset):
    good = QuantizationTraining(
        images=dataset.train_images[:64], labels=dataset.train_labels[:64]
    )
    good.check(model)
    for changes, message in (
        ({"images": good.images / 255.0}, "uint8 pixels"),
        ({"labels": good.labels + 1}, r"in \[0, 10\)"),
        ({"teacher": ghostnetv3_small(0.25, classes=7)}, "7"),
        (
            {
                "validation_images": good.images,
                "validation_labels": good.labels + 1,
            },
            r"`validation_images` must be in \[0, 10\)",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(good, **changes).check(model)
    for changes, message in (
        ({"labels": good.labels[1:]}, "one length"),
        ({"validation_images": good.images}, "or neither"),
        (
            {
                "validation_images": good.images,
                "validation_labels": good.labels[1:],
            },
            "`validation_images` and `validation_labels`",
        ),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 65}, "batch_size"),
        ({"peak_learning_rate": np.nan}, "peak_learning_rate"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(good, **changes)


def test_numbers_of_numpy_reach_the_other_process(dataset, tmp_path):
    training = QuantizationTraining(
        images=dataset.train_images[:64],
        labels=dataset.train_labels[:64],
        epochs=np.int64(3),
        label_weight=np.float32(0.5),
    )
    training.save(tmp_path)
    found = QuantizationTraining.load(tmp_path)
    assert (found.epochs, found.label_weight) == (3, 0.5)
