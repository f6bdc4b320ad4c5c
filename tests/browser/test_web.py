"""The page of tflite/web in Chromium: the classes that LiteRT gives."""

import functools
import http.server
import io
import threading

import numpy as np
import pytest
from PIL import Image
from support import ROOT, cifar10_folder

from gnsmall_keras.data.sources import load_data
from gnsmall_keras.devices.runtime import TFLiteModel

pytestmark = pytest.mark.browser
FILES = ROOT / "tflite"
MODEL = FILES / "gns-w1-cifar10-android.tflite"
IMAGES = 50
FIRST_RESULT = 3_000  # milliseconds of the page's life, from disk


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address():
    """Of the page, as `npm start` serves it."""
    if not (FILES / "web/node_modules/@litertjs/core").is_dir():
        pytest.skip("no LiteRT.js; npm install --prefix tflite/web")
    handler = functools.partial(_Quiet, directory=str(FILES))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/web/"
        server.shutdown()


@pytest.fixture
def page(chromium):
    page = chromium.new_page()
    page.set_default_timeout(60_000)
    page.problems = []
    page.on(
        "console",
        lambda said: said.type == "error" and page.problems.append(said.text),
    )
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    yield page
    page.close()


def _images():
    if cifar10_folder():
        return load_data("cifar10").test_images[:IMAGES]
    shape = (IMAGES, 32, 32, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def _give(page, name, data):
    file = {"name": name, "mimeType": "image/png", "buffer": data}
    page.set_input_files("#file", files=[file])


def test_classes_are_those_of_litert(page, address, keep_screenshot):
    images = _images()
    expected = TFLiteModel(MODEL).predict_raw(images)
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    found = []
    for number, image in enumerate(images):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        _give(page, f"{number}.png", file.getvalue())
        page.wait_for_selector(f'body[data-count="{number + 1}"]')
        found.append(page.evaluate("document.body.dataset.values.split(' ')"))
    found = np.array(found, int)
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found.argmax(-1), expected.argmax(-1))
    assert page.problems == []
    first = page.evaluate("Number(document.body.dataset.first)")
    print(
        f"first result after {first} ms, then {page.inner_text('#status')}; "
        f"within {np.abs(found - expected).max()} steps of LiteRT"
    )
    assert first < FIRST_RESULT
    keep_screenshot(page, "web")


def test_what_is_transparent_is_black_and_not_the_picture_before(page, address):
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    for number, opacity in enumerate((255, 0)):
        file = io.BytesIO()
        Image.new("RGBA", (64, 64), (250, 90, 20, opacity)).save(file, "PNG")
        _give(page, f"{number}.png", file.getvalue())
        page.wait_for_selector(f'body[data-count="{number + 1}"]')
    pixel = page.evaluate(
        "[...document.querySelector('#image').getContext('2d')"
        ".getImageData(0, 0, 1, 1).data]"
    )
    assert pixel == [0, 0, 0, 255]


def test_files_and_images_that_do_not_fit_are_told(page, address):
    page.goto(f"{address}?model=../gns-w0.5-cifar10-micro.tflite")
    page.wait_for_selector("#error:not(:empty)")
    assert "--target web --quantization int8" in page.inner_text("#error")
    page.goto(f"{address}?model=../none.tflite")
    page.wait_for_selector("#error:not(:empty)")
    assert "No file at ../none.tflite" in page.inner_text("#error")
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    _give(page, "text.png", b"no image")
    page.wait_for_selector("#error:not(:empty)")
    assert "text.png is no image" in page.inner_text("#error")
    page.click("#camera")
    page.wait_for_function("document.body.innerText.includes('camera was')")
