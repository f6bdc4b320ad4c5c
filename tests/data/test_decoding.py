"""One set of rules for pixels, here and in the script for devices."""

import io
import os
import re
import runpy
import subprocess
import sys
import types
from importlib.machinery import ModuleSpec

import numpy as np
import pytest
from data import photos
from PIL import Image
from support import ROOT

from gnsmall_keras.data.decoding import ASPECTS, decode, prepare_array

OPTIONS = {"image_size": 32, "channels": 3, "aspect": "squash"}
ALL = photos.KINDS | photos.GREY_KINDS


def _close(found, channels=3):
    """Apart from the middle lines, where quadrants meet."""
    side = len(found)
    rows = [i for i in range(side) if abs(i - (side - 1) / 2) > 3]
    wanted = photos.expected(side, channels).astype(int)
    difference = np.abs(found.astype(int) - wanted)[rows][:, rows]
    assert difference.max() <= 14, difference.max()


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("size", [(640, 480), (45, 61)])
def test_every_kind_gives_the_same_picture(kind, size):
    data = photos.encode(kind, photos.picture(*size))
    grey = kind in photos.GREY_KINDS
    found = decode(data, **OPTIONS)
    assert found.shape == (32, 32, 3)
    assert found.dtype == np.uint8
    if grey:
        assert np.ptp(found.astype(int), axis=-1).max() == 0
        found = found[..., :1]
    _close(found, 1 if grey else 3)
    _close(decode(data, **OPTIONS | {"channels": 1, "image_size": 64}), 1)


def test_aspects():
    """A wide picture: its middle, all of it with borders, or squeezed."""
    pixels = np.full((100, 300, 3), 10, np.uint8)
    pixels[:, 100:200] = 200
    found = {
        aspect: prepare_array(pixels, **OPTIONS | {"aspect": aspect})[..., 0]
        for aspect in ASPECTS
    }
    assert np.all(found["crop"] == 200)
    assert found["squash"][5].tolist() == found["squash"][30].tolist()
    assert found["squash"][5, [2, 16, 30]].tolist() == [10, 200, 10]
    assert found["pad"][16, [2, 16, 30]].tolist() == [10, 200, 10]
    assert np.all(found["pad"][[0, 9, 22, 31]] == 0)


def test_an_image_of_the_right_size_is_left_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    for aspect in ASPECTS:
        found = decode(out.getvalue(), **OPTIONS | {"aspect": aspect})
        np.testing.assert_array_equal(found, pixels)


@pytest.fixture(scope="module")
def by_script():
    """What a script of tflite/ gives a model, its runtime replaced."""
    given = {}

    class Interpreter:
        def __init__(self, model, **options):
            self.shape, self.dtype = model

        def get_input_details(self):
            shape = np.array(self.shape, np.int32)
            zero = -128 if self.dtype is np.int8 else 0
            one = {"index": 0, "shape": shape, "dtype": self.dtype}
            return [{**one, "quantization": (1.0, zero)}]

        def get_output_details(self):
            return [{"index": 1, "quantization": (0.0, 0)}]

        def set_tensor(self, index, values):
            given["pixels"] = values

        def get_tensor(self, index):
            return np.zeros((1, 2), np.int8)

        def allocate_tensors(self):
            pass

        invoke = allocate_tensors

    runtime = types.ModuleType("ai_edge_litert")
    runtime.__spec__ = ModuleSpec("ai_edge_litert", None)  # it is looked for
    runtime.interpreter = types.ModuleType("ai_edge_litert.interpreter")
    model = str(ROOT / "pyproject.toml")  # only asked whether it is a zip

    def run(file, side, channels, aspect, dtype=np.uint8, edge_tpu=False):
        shape = (1, side, side, channels)
        runtime.interpreter.Interpreter = lambda model, **options: Interpreter(
            (shape, dtype)
        )
        script = str(ROOT / "tflite/run_model.py")
        arguments = [script, model, str(file)]
        if aspect != "crop":
            arguments += ["--aspect", aspect]
        if edge_tpu:
            script = str(ROOT / "tflite/edgetpu/classify.py")
            labels = str(ROOT / "tflite/labels.txt")
            arguments = [script, model, labels, str(file), "--cpu"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "ai_edge_litert", runtime)
            name = "ai_edge_litert.interpreter"
            patch.setitem(sys.modules, name, runtime.interpreter)
            patch.setattr(sys, "argv", arguments)
            patch.setattr(sys, "excepthook", sys.excepthook)
            runpy.run_path(script)
        return given["pixels"][0]

    return run


# The script ends after one image; of a GIF Pillow keeps the file open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ALL)
def test_the_script_for_devices_gives_the_same_pixels(
    kind, by_script, tmp_path
):
    """Noise enlarged to 320 x 240, in all modes, sizes and aspects."""
    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, (32, 32, 3), np.uint8)
    large = Image.fromarray(small).resize((320, 240), Image.Resampling.BICUBIC)
    data = photos.encode(kind, large)
    file = tmp_path / kind
    file.write_bytes(data)
    for side, channels in ((32, 3), (96, 3), (32, 1)):
        for aspect in ASPECTS:
            options = {"image_size": side, "channels": channels}
            expected = decode(data, **options, aspect=aspect)
            found = by_script(file, side, channels, aspect)
            np.testing.assert_array_equal(found, expected)
    found = by_script(file, 32, 1, "crop", np.int8)
    expected = decode(data, image_size=32, channels=1, aspect="crop")
    np.testing.assert_array_equal(found, expected.astype(int) - 128)


# One of each kind of pixels; the rest is run_model.py's.
@pytest.mark.parametrize(
    "kind",
    [
        *("plain.png", "UPPER.JPG", "turned6.jpg", "print.jpeg", "clear.png"),
        *("palette.png", *photos.GREY_KINDS),
    ],
)
@pytest.mark.parametrize("channels", [3, 1])
def test_the_edge_tpus_script_gives_the_same_pixels(
    kind, channels, by_script, tmp_path
):
    file = tmp_path / kind
    file.write_bytes(photos.encode(kind, photos.picture(320, 240)))
    expected = decode(
        file.read_bytes(), image_size=32, channels=channels, aspect="crop"
    )
    found = by_script(file, 32, channels, "crop", np.int8, edge_tpu=True)
    np.testing.assert_array_equal(found, expected.astype(int) - 128)


@pytest.mark.parametrize("kind", ["turned6.jpg", "clear.png", "sixteen.png"])
def test_the_microcontrollers_command_gives_the_same_pixels(kind, tmp_path):
    text = (ROOT / "tflite/micro/README.md").read_text("utf-8")
    (code,) = re.findall(r'python -c "([^"]*)" \| \./classify', text)
    data = photos.encode(kind, photos.picture(320, 240))
    (tmp_path / "photo.png").write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
    )
    expected = decode(data, image_size=32, channels=3, aspect="crop")
    assert done.stdout == expected.tobytes()


def test_opacity_is_the_same_in_the_script(by_script, tmp_path):
    """Every colour with every opacity, in the picture's own size."""
    colour, opacity = np.mgrid[:256, :256].astype(np.uint8)
    image = np.stack([colour, 255 - colour, colour // 2, opacity], axis=-1)
    for part, corner in enumerate(np.ndindex(2, 2)):
        rows, columns = (slice(128 * i, 128 * i + 128) for i in corner)
        file = tmp_path / f"{part}.png"
        Image.fromarray(image[rows, columns]).save(file)
        found = by_script(file, 128, 3, "crop")
        options = OPTIONS | {"image_size": 128}
        np.testing.assert_array_equal(
            found, decode(file.read_bytes(), **options)
        )
        pixels = image[rows, columns].astype(float)
        exact = pixels[..., :3] * pixels[..., 3:] / 255
        assert np.abs(found - exact).max() <= 0.501


@pytest.mark.parametrize("mode", ["I", "F"])
@pytest.mark.parametrize("edge_tpu", [False, True])
def test_32_bits_are_refused_by_all(mode, edge_tpu, by_script, tmp_path):
    file = tmp_path / "deep.tif"
    Image.new(mode, (40, 40), 100).save(file)
    with pytest.raises(ValueError, match="it has 32 bits a pixel"):
        decode(file.read_bytes(), **OPTIONS)
    with pytest.raises(TypeError, match="Cannot cast"):
        by_script(file, 32, 3, "crop", edge_tpu=edge_tpu)
