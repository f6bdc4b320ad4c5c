"""Labels in a file: any reader of zip archives and MediaPipe find them.

What MediaPipe makes of large images is what Classifier.kt shrinks them for.
"""

import importlib.util
import io
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import ROOT, cifar10_folder

from gnsmall_keras.devices.runtime import TFLiteModel
from gnsmall_keras.export.graph import Graph
from gnsmall_keras.export.metadata import read_labels, with_labels

pytestmark = pytest.mark.export
# In a process of its own: MediaPipe brings a second TensorFlow Lite.
MEDIAPIPE = """
import sys
import mediapipe as mp
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision
model, images = sys.argv[1:]
options = vision.ImageClassifierOptions(
    base_options=BaseOptions(model_asset_path=model), max_results=1
)
with vision.ImageClassifier.create_from_options(options) as classifier:
    for image in (one for some in np.load(images).values() for one in some):
        picture = mp.Image(image_format=mp.ImageFormat.SRGB, data=image)
        result = classifier.classify(picture)
        print(result.classifications[0].categories[0].category_name)
"""

PUBLISHED = [path.name for path in (ROOT / "tflite").glob("*-android.tflite")]


def _by_mediapipe(file, labels, folder, *images):
    """The classes that MediaPipe gives images, arrays of several sizes."""
    if importlib.util.find_spec("mediapipe") is None:
        pytest.skip("mediapipe is not installed")
    np.savez(folder / "images.npz", *images)
    done = subprocess.run(
        [sys.executable, "-c", MEDIAPIPE, file, folder / "images.npz"],
        capture_output=True,
        text=True,
        check=True,
    )
    names = done.stdout.splitlines()
    return np.array([labels.index(name) for name in names])


def _halved(image, side):
    """As MiddleSquare.kt, whose bilinear steps leave out no pixel."""
    edge = side
    while 2 * edge <= image.width:
        edge *= 2
    for size in (edge >> step for step in range((edge // side).bit_length())):
        scale = image.width / size
        image = image.transform(
            (size, size),
            Image.Transform.AFFINE,
            (scale, 0, 0, 0, scale, 0),
            Image.Resampling.BILINEAR,
        )
    return image


def test_pixels_are_read_of_copies_in_memory_and_over_black():
    """Android's decoder gives bitmaps of the GPU; getPixels undoes opacity."""
    folder = ROOT / "tflite/android"
    first_bitmap = (
        r"Bitmap\.createBitmap\([^()]*\)\s*"
        r"\.copy\(Bitmap\.Config\.ARGB_8888, false\)"
    )
    assert re.search(first_bitmap, (folder / "MiddleSquare.kt").read_text())
    for file in folder.glob("*Classifier.kt"):
        text = file.read_text()
        assert "middleSquare(bitmap, side)" in text
        assert ("getPixels" in text) == ("value * alpha" in text)


@pytest.fixture(scope="module")
def labels(real_data):
    return list(real_data.class_names)


@pytest.mark.parametrize(
    "published", [pytest.param("", marks=pytest.mark.slow), *PUBLISHED]
)
def test_mediapipe_names_the_class_that_litert_finds(
    request, device_images, labels, tmp_path, published
):
    if published and not cifar10_folder():
        pytest.skip("GNSMALL_DATA does not name CIFAR-10")
    file = ROOT / "tflite" / published
    if not published:  # seconds of conversion, for this case alone
        file = request.getfixturevalue("phone_file").path
    found = _by_mediapipe(file, labels, tmp_path, device_images)
    values = TFLiteModel(file).predict_raw(device_images).astype(int)
    assert len(set(found)) > 1
    # Of equal scores MediaPipe may take another one.
    best = values[np.arange(len(found)), found]
    np.testing.assert_array_equal(best, values.max(axis=-1))


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_large_images_keep_their_class_if_they_are_halved_first(
    name, device_images, labels, tmp_path
):
    if not cifar10_folder():
        pytest.skip("GNSMALL_DATA does not name CIFAR-10")
    file = ROOT / "tflite" / name
    grain = np.random.default_rng(0).normal(0, 25, (600, 600, 1))
    enlarged = (
        Image.fromarray(image).resize((600, 600), Image.Resampling.BICUBIC)
        for image in device_images[:50]
    )
    large = [
        Image.fromarray(np.clip(image + grain, 0, 255).astype(np.uint8))
        for image in enlarged
    ]
    trained = [image.resize((32, 32), Image.Resampling.BOX) for image in large]
    values = TFLiteModel(file).predict_raw(np.stack(trained))
    halved = [_halved(image, 32) for image in large]
    found = _by_mediapipe(file, labels, tmp_path, large, halved)
    same = found.reshape(2, -1) == values.argmax(axis=-1)
    by_mediapipe, by_us = same.mean(axis=-1)
    assert by_us >= 0.9 > 0.6 > by_mediapipe


def test_labels_change_no_output(int8_file, device_images, labels, tmp_path):
    data = int8_file.read_bytes()
    labelled = with_labels(data, labels)
    assert labelled == with_labels(data, labels), "the same bytes"
    (tmp_path / "model.tflite").write_bytes(labelled)
    for runtime in ("litert-reference", "tflite-micro"):
        before, after = (
            TFLiteModel(path, runtime=runtime).predict_raw(device_images[:5])
            for path in (int8_file, tmp_path / "model.tflite")
        )
        np.testing.assert_array_equal(before, after)


def test_labels_are_a_file_in_the_file(int8_file, labels, tmp_path):
    labelled = with_labels(int8_file.read_bytes(), labels)
    assert read_labels(labelled) == labels
    assert read_labels(int8_file.read_bytes()) == []
    (tmp_path / "model.tflite").write_bytes(labelled)
    with zipfile.ZipFile(tmp_path / "model.tflite") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["labels.txt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda labels: labels[:-1], "one a class, 10. Received: 9"),
        (lambda labels: [*labels[:-1], "two\nlines"], "in one line"),
    ],
)
def test_labels_are_checked(int8_file, labels, change, message):
    with pytest.raises(ValueError, match=message):
        with_labels(int8_file.read_bytes(), change(labels))


def test_labels_may_have_spaces_and_joiners_of_any_script():
    data = (ROOT / "tflite/gns-w0.25-h320-cifar10-micro.tflite").read_bytes()
    names = [*map(str, range(8)), "犬\u3000猫", "👩\u200d🚀"]
    assert read_labels(with_labels(data, names)) == names


def _schema():
    """MediaPipe's readers of metadata, without MediaPipe itself."""
    found = importlib.util.find_spec("mediapipe")
    if found is None:
        pytest.skip("mediapipe is not installed")
    folder = Path(found.origin).parent / "tasks/metadata"
    path = folder / "metadata_schema_py_generated.py"
    spec = importlib.util.spec_from_file_location("schema", path)
    schema = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(schema)
    return schema


@pytest.mark.parametrize("channels", [3, 1])
def test_metadata_say_whether_a_network_takes_grey_images(channels):
    schema = _schema()
    name = "gns-w0.25-h320-cifar10-micro.tflite"
    graph = Graph((ROOT / "tflite" / name).read_bytes())
    shape = np.array([1, 32, 32, channels], np.int32)
    graph.tensors[graph.inputs[0]].shape = shape
    names = [*map(str, range(10))]
    labelled = Graph(with_labels(graph.to_bytes(), names))
    (entry,) = (
        each
        for each in labelled.model.metadata
        if each.name == b"TFLITE_METADATA"
    )
    data = bytes(labelled.model.buffers[entry.buffer].data)
    metadata = schema.ModelMetadataT.InitFromObj(
        schema.ModelMetadata.GetRootAs(data)
    )
    (image,) = metadata.subgraphMetadata[0].inputTensorMetadata
    kinds = schema.ColorSpaceType
    expected = kinds.RGB if channels == 3 else kinds.GRAYSCALE
    assert image.content.contentProperties.colorSpace == expected
    assert len(image.processUnits[0].options.mean) == channels


def test_labels_of_other_makers_have_other_names():
    name = "gns-w0.25-h320-cifar10-micro.tflite"
    file = io.BytesIO((ROOT / "tflite" / name).read_bytes())
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("labelmap.txt", "cat\ndog\n")
    assert read_labels(file.getvalue()) == []


def test_a_file_is_labelled_once(int8_file, labels):
    labelled = with_labels(int8_file.read_bytes(), labels)
    with pytest.raises(ValueError, match="without metadata"):
        with_labels(labelled, labels)
