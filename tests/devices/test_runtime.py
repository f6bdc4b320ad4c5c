"""Files on the runtimes of devices, in environments that hold nothing else."""

import re
import runpy
import subprocess
import sys

import keras
import numpy as np
import pytest
from data import photos
from PIL import Image
from support import ROOT

from gnsmall_keras.config import ExportConfig
from gnsmall_keras.data.decoding import decode
from gnsmall_keras.devices.runtime import TFLiteModel
from gnsmall_keras.export.convert import convert

pytestmark = pytest.mark.export
# Images that the script is given, one by one, and the package's runner.
COUNTS = [(10, 50), pytest.param((50, 200), marks=pytest.mark.slow)]
ENLARGED = 300  # images
SCRIPT = ROOT / "tflite/run_model.py"
# The script on some images and the package's runner on more, with the default
# kernels and with the reference's.
MANY = """
import contextlib, functools, io, runpy, sys
import numpy as np
script, model, folder, some, more, out, runtime = sys.argv[1:]
from gnsmall_keras.devices.runtime import TFLiteModel
module = {"tflite-runtime": "tflite_runtime", "litert": "ai_edge_litert"}
interpreter = __import__(module[runtime] + ".interpreter").interpreter
plain = interpreter.Interpreter
reference = interpreter.OpResolverType.BUILTIN_REF
rows = []
for resolver in (interpreter.OpResolverType.AUTO, reference):
    interpreter.Interpreter = functools.partial(
        plain, experimental_op_resolver_type=resolver
    )
    for index in range(int(some)):
        sys.argv = [script, model, f"{folder}/{index}.png"]
        with contextlib.redirect_stdout(io.StringIO()):
            rows.append(runpy.run_path(script)["raw"])
interpreter.Interpreter = plain
images = np.load(f"{folder}/images.npy")[: int(more)]
for name in (runtime, runtime + "-reference"):
    rows.extend(TFLiteModel(model, runtime=name).predict_raw(images))
np.save(out, np.stack(rows))
"""

ONE = """
import sys
from gnsmall_keras.devices.runtime import TFLiteModel
TFLiteModel(sys.argv[1], runtime=sys.argv[2])
"""


@pytest.fixture(params=["tflite-runtime", "litert"])
def device(request, device_python):
    """Name and Python of an environment like a device's."""
    return request.param, device_python(request.param)


@pytest.fixture(scope="module")
def folder(device_images, tmp_path_factory):
    path = tmp_path_factory.mktemp("images")
    np.save(path / "images.npy", device_images)
    for index, image in enumerate(device_images):
        Image.fromarray(image).save(path / f"{index}.png")
    return path


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_reference_kernels_are_the_same_everywhere(
    device, folder, device_images, int8_file, tmp_path, counts
):
    name, python = device
    out, files = tmp_path / "rows.npy", (SCRIPT, int8_file, folder)
    subprocess.run(
        [python, "-c", MANY, *files, *map(str, counts), out, name],
        env={"PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
    )
    some, more = counts
    by_script, by_script_reference, fast, reference = np.split(
        np.load(out), np.cumsum([some, some, more])
    )
    runner = TFLiteModel(int8_file, runtime="litert-reference")
    expected = runner.predict_raw(device_images[:more])
    np.testing.assert_array_equal(reference, expected)
    np.testing.assert_array_equal(by_script_reference, expected[:some])
    np.testing.assert_array_equal(by_script, fast[:some])


def _run(python, *arguments):
    done = subprocess.run(
        [python, SCRIPT, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stderr.splitlines()
    told = [line for line in lines if not line.startswith("INFO")]
    return done.returncode, done.stdout.splitlines(), told


def test_the_script_prints_three_classes(device, folder, int8_file, tmp_path):
    names = [f"class {number}" for number in range(10)]
    (tmp_path / "names.txt").write_text("\n".join(names) + "\n")
    with Image.open(folder / "0.png") as image:
        image.convert("L").resize((64, 48)).save(tmp_path / "large.jpg")
    status, printed, told = _run(
        device[1],
        int8_file,
        tmp_path / "large.jpg",
        "--labels",
        tmp_path / "names.txt",
    )
    assert (status, len(printed), told) == (0, 3, [])
    assert all(line.startswith("class ") for line in printed)


def test_the_script_finds_labels_beside_the_file(
    device, folder, int8_file, tmp_path
):
    (tmp_path / "model.tflite").write_bytes(int8_file.read_bytes())
    (tmp_path / "labels.txt").write_text("".join(f"k{n}\n" for n in range(10)))
    status, printed, _ = _run(
        device[1], tmp_path / "model.tflite", folder / "0.png"
    )
    assert (status, len(printed)) == (0, 3)
    assert all(line.startswith("k") for line in printed)


def test_the_script_prints_the_values_of_the_output(
    device, folder, device_images
):
    file = ROOT / "tflite/gns-w1-cifar10-micro.tflite"
    values = TFLiteModel(file).predict(device_images)
    surest = int(values.max(axis=-1).argmax())
    status, printed, _ = _run(device[1], file, folder / f"{surest}.png")
    found = [float(line.split(": ")[1]) for line in printed]
    expected = np.sort(values[surest])[:-4:-1]
    assert status == 0
    assert expected[0] > 5.3  # too far from the zero point for 8 bits
    np.testing.assert_allclose(found, expected, atol=0.3)  # kernels differ


def test_the_script_tells_errors_in_a_line(
    device, folder, int8_file, tmp_path, edge_tpu_file
):
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "nine.txt").write_text("\n".join("abcdefghi"))
    cut = tmp_path / "cut.tflite"
    cut.write_bytes(int8_file.read_bytes()[:-20_000])
    image = folder / "0.png"
    for arguments, message in (
        ((int8_file, tmp_path / "text.png"), "cannot identify image"),
        ((int8_file, tmp_path / "none.png"), "No such file"),
        ((int8_file, image, "--labels", tmp_path / "nine.txt"), "9 labels"),
        ((int8_file, image, "--delegate", "libnone.so"), "libnone.so"),
        ((edge_tpu_file, image), "edgetpu-custom-op"),
        ((cut, image), "damaged|not a valid Flatbuffer"),
    ):
        status, printed, told = _run(device[1], *arguments)
        assert (status, printed, len(told)) == (1, [], 1), told
        assert re.match(f"error: .*({message})", told[0])


def test_files_that_do_not_run_are_explained(
    device, int8_file, tmp_path, edge_tpu_file
):
    name, python = device
    cut = tmp_path / "cut.tflite"
    cut.write_bytes(int8_file.read_bytes()[:-20_000])
    for file, message in (
        (cut, f"does not run on {name}"),
        (edge_tpu_file, "compiled for the Edge TPU"),
    ):
        done = subprocess.run(
            [python, "-c", ONE, file, name],
            env={"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert re.search(f"^ValueError: .*{message}", done.stderr, re.M)


def test_the_edge_tpus_script_runs_without_one(
    device, folder, int8_file, tmp_path
):
    _, python = device
    (tmp_path / "labels.txt").write_text("\n".join("abcdefghij"))
    script = ROOT / "tflite/edgetpu/classify.py"
    images = [folder / "0.png", folder / "1.png"]
    done = subprocess.run(
        [python, script, int8_file, tmp_path / "labels.txt", *images, "--cpu"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(re.findall(r"png: [a-j] \(.* ms\)", done.stdout)) == 2


def test_the_script_is_short():
    assert len(SCRIPT.read_text().splitlines()) <= 45


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("quantization", ["int16x8", "float32"])
def test_the_script_reads_the_scale_of_the_input(tmp_path, quantization):
    """Of files that take neither int8 nor uint8."""
    dense = keras.layers.Dense(10, kernel_initializer="he_normal")
    shape, few = (8, 8, 3), np.random.default_rng(0).integers(0, 200, (9, 192))
    images = few.astype(np.uint8).reshape(-1, *shape)
    layers = [keras.Input(shape), keras.layers.Flatten(), dense]
    config = ExportConfig(quantization=quantization)
    made = convert(keras.Sequential(layers), config, calibration_images=images)
    model, photo = tmp_path / "model.tflite", tmp_path / "photo.png"
    model.write_bytes(made.data)
    images[0, :4] = 255  # more than the calibration saw
    Image.fromarray(images[0]).save(photo)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(SCRIPT), str(model), str(photo)])
        patch.setattr(sys, "excepthook", sys.excepthook)
        raw = runpy.run_path(str(SCRIPT))["raw"]
    expected = TFLiteModel(model).predict_raw(images[:1])[0]
    np.testing.assert_array_equal(raw, expected)


# The script ends after one image; of a GIF Pillow keeps the file open.
@pytest.mark.slow  # 300 starts of a runtime
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_script_and_the_loader_find_the_same_class(real_data, tmp_path):
    """Images enlarged to 320 x 240, as files of all kinds in turn."""
    model = ROOT / "tflite/gns-w0.5-cifar10-micro.tflite"
    kinds = sorted(photos.KINDS | photos.GREY_KINDS)
    loaded, by_script = [], []
    for index, image in enumerate(real_data.test_images[:ENLARGED]):
        large = Image.fromarray(image).resize((320, 240), Image.BICUBIC)
        kind = kinds[index % len(kinds)]
        file = tmp_path / f"{index} {kind}"
        file.write_bytes(photos.encode(kind, large))
        loaded.append(
            decode(file.read_bytes(), image_size=32, channels=3, aspect="crop")
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [str(SCRIPT), str(model), str(file)])
            patch.setattr(sys, "excepthook", sys.excepthook)
            by_script.append(runpy.run_path(str(SCRIPT))["raw"])
    found = TFLiteModel(model, runtime="litert").predict_raw(np.stack(loaded))
    np.testing.assert_array_equal(np.stack(by_script), found)
    assert len(set(found.argmax(axis=-1))) > 3
