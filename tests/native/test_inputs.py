"""Batches as Keras takes them, and memory that goes with a network."""

import gc
import weakref

import keras
import numpy as np
import pytest

from gnsmall_keras import cores
from gnsmall_keras.distill.distiller import Distiller
from gnsmall_keras.distill.losses import LabelCrossEntropy
from gnsmall_keras.models.ghostnet import ghostnetv3_small
from gnsmall_keras.native import choice, network
from gnsmall_keras.training.optimizers.muon import CoupledSGD

SIDE, IMAGES, CLASSES = 8, 6, 4
BACKEND = keras.config.backend()
pytestmark = [
    pytest.mark.backend,
    *([pytest.mark.slow] if BACKEND == "jax" else []),
]


# Each distiller's graphs are traced for several seconds.
long_on_tensorflow = (
    pytest.mark.slow if BACKEND == "tensorflow" else lambda test: test
)


def _student(channels=3, head_units=8):
    keras.utils.set_random_seed(0)
    shape = (SIDE, SIDE, channels)
    return ghostnetv3_small(
        0.25, classes=CLASSES, input_shape=shape, head_units=head_units
    )


def _distiller(channels=3):
    distiller = Distiller(student=_student(channels), kernels="native")
    distiller.compile(CoupledSGD(0.1), loss=LabelCrossEntropy())
    return distiller


def _images(channels=3):
    shape = (IMAGES, SIDE, SIDE, channels)
    return np.random.default_rng(7).normal(size=shape).astype("float32")


LABELS = np.arange(IMAGES) % CLASSES


def _bfloat16(images):
    if BACKEND == "torch":
        import torch

        return torch.from_numpy(images).to(torch.bfloat16)
    return keras.ops.cast(images, "bfloat16")


@long_on_tensorflow
@pytest.mark.filterwarnings("ignore:The structure of `inputs`")
@pytest.mark.parametrize(
    ("channels", "form"),
    [
        (1, lambda images: images[..., 0]),
        (1, lambda images: images[..., None]),
        (3, lambda images: [images]),
        (3, _bfloat16),
    ],
    ids=["grey", "grey twice", "list", "bfloat16"],
)
def test_forms_of_a_batch(channels, form):
    images = np.round(_images(channels) * 8) / 8  # as bfloat16 has them
    found = []
    for batch in (images, form(images)):
        distiller = _distiller(channels)
        distiller.train_on_batch(batch, LABELS)
        answers = distiller.predict_on_batch(batch)
        found.append([*distiller.student.get_weights(), answers])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_images_of_another_size_are_refused():
    for shape in ((IMAGES, 8, 9, 3), (IMAGES, 8, 8), (IMAGES, 8, 8, 3, 2)):
        with pytest.raises(ValueError, match="Images must be"):
            network.NativeNetwork.as_batch(
                choice.network_for_inference(_student(), "native"),
                np.zeros(shape, "float32"),
            )


def test_an_empty_batch():
    distiller = _distiller()
    found = distiller.predict_on_batch(_images()[:0])
    assert np.shape(found) == (0, CLASSES)


def test_an_engine_goes_with_its_last_network():
    """It keeps the memory of its largest batch."""
    student = _student(head_units=9)  # graphs of other tests may live on
    first = choice.network_for_training(student, "native")
    second = choice.network_for_inference(student, "native")
    assert first.engine is second.engine
    engine = weakref.ref(first.engine)
    del first
    gc.collect()
    assert engine() is not None
    del second
    gc.collect()
    assert engine() is None


@pytest.mark.parametrize(
    ("given", "threads"),
    [
        ("2", 2),
        (" 3 ,1", 3),
        ("", None),
        ("0", None),
        ("-1", None),
        ("²", None),
        ("many", None),
        ("9" * 5000, None),
    ],
    ids=str,
)
def test_number_of_threads(given, threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert cores.asked_threads() == threads
