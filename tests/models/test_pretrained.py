"""Weights that come with the package."""

import tomllib

import keras
import numpy as np
import pytest
from support import ROOT, cifar10_folder

import gnsmall_keras as gns
from gnsmall_keras.models.saving import pretrained
from gnsmall_keras.records.predictions import unpack_correct
from gnsmall_keras.records.run import read_records

pytestmark = pytest.mark.any_backend

PUBLISHED = {
    "gns": pretrained.GHOSTNETV3_SMALL,
    "gns_nogate": pretrained.GHOSTNETV3_SMALL_NOGATE,
}
KEYS = [(name, *sizes) for name, known in PUBLISHED.items() for sizes in known]
WEIGHTS = ROOT / "gnsmall_keras" / "weights"
IMAGES = 500  # of the test split


def _build(name, width, head_units, **options):
    return gns.create_model(
        name, width=width, head_units=head_units, weights="cifar10", **options
    )


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(key, marks=pytest.mark.slow if number else [])
        for number, key in enumerate(KEYS)
    ],
    ids=str,
)
def trained(request):
    """A network's key, and the network, built once."""
    return request.param, _build(*request.param)


def test_weights_are_those_of_the_published_file(trained):
    (name, *sizes), model = trained
    file = PUBLISHED[name][tuple(sizes)].file
    published = gns.load_model(WEIGHTS / file)
    for ours, theirs in zip(
        model.get_weights(), published.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert [one.path for one in model.variables] == [
        one.path for one in published.variables
    ]


def test_they_recognise_the_images_that_their_run_recognised(trained):
    key, model = trained
    fields = ("model", "width", "head_units")
    if not cifar10_folder():
        pytest.skip("GNSMALL_DATA does not name CIFAR-10")
    data = gns.load_data("cifar10")
    images = gns.normalize(data.test_images[:IMAGES])
    logits = keras.ops.convert_to_numpy(model(images, training=False))
    correct = logits.argmax(axis=-1) == data.test_labels[:IMAGES]
    # Rounding may turn an image whose two best classes are as good as equal.
    shares = [
        np.mean(correct == unpack_correct(record.test_predictions)[:IMAGES])
        for record in read_records(ROOT / "papermill_runs/index.jsonl")
        if record.test_predictions
        and tuple(map(record.config.get, fields)) == key
        and record.config["data"] == "cifar10"
    ]
    assert max(shares) > 0.995


def test_every_published_network_is_pinned_and_in_the_wheel():
    files = {path.name for path in WEIGHTS.glob("*.keras")}
    known = [one for some in PUBLISHED.values() for one in some.values()]
    pinned = {one.file for one in (*known, *pretrained.TEACHERS)}
    assert files == pinned
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == [WEIGHTS.parent.name]
    sizes = [(WEIGHTS / name).stat().st_size for name in files]
    assert max(sizes) < 5_000_000
    assert sum(sizes) < 20_000_000


def test_a_classifier_of_ones_own_goes_on_the_head():
    """As the message of an error for other classes says."""
    with pytest.raises(ValueError, match="'head_relu'") as error:
        _build(*KEYS[0], classes=3)
    assert "3 channels, 3 classes" in str(error.value)
    base = _build(*KEYS[0])
    features = keras.layers.Flatten()(base.get_layer("head_relu").output)
    outputs = keras.layers.Dense(3)(features)
    model = keras.Model(base.input, outputs)
    assert model(np.zeros((2, 32, 32, 3), "float32")).shape == (2, 3)


def test_other_sizes_of_images_are_taken():
    model = _build(*KEYS[0], input_shape=(64, 64, 3))
    assert model.input_shape == (None, 64, 64, 3)


@pytest.mark.parametrize(
    ("options", "received"),
    [
        ({"width": 0.75}, "width=0.75, head_units=1280"),
        ({"width": 0.25}, "width=0.25, head_units=1280"),
        ({"weights": "imagenet"}, "weights='imagenet'"),
    ],
)
def test_unknown_weights_are_refused_with_those_there_are(options, received):
    with pytest.raises(ValueError, match="width=1, head_units=1280") as error:
        gns.create_model("gns", **{"weights": "cifar10", **options})
    assert received in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0" * 64}, "not the file that was published"),
        ({"file": "none.keras"}, r"There is no network none\.keras"),
    ],
    ids=["damaged", "missing"],
)
def test_a_damaged_or_missing_file_is_refused(monkeypatch, change, message):
    name, *sizes = KEYS[0]
    known, key = PUBLISHED[name], tuple(sizes)
    monkeypatch.setitem(known, key, known[key]._replace(**change))
    with pytest.raises(ValueError, match=message):
        _build(*KEYS[0])
