"""What the tests of files on devices share: images, a file, environments."""

import subprocess
import sys

import flatbuffers
import pytest
from ai_edge_litert import schema_py_generated as schema
from support import cifar10_folder, network_with_moments

from gnsmall_keras.data.sources import load_data
from gnsmall_keras.devices.resnet8 import RESNET8, resnet8
from gnsmall_keras.export.tflite import export_tflite
from gnsmall_keras.quantization.calibration import calibration_split

DEVICE_IMAGES = 200
ENVIRONMENTS = {
    "tflite-runtime": ("tflite-runtime==2.14.0", "numpy<2", "pillow"),
    "litert": ("ai-edge-litert>=2.1", "numpy", "pillow"),
}


@pytest.fixture(scope="session")
def real_data():
    """CIFAR-10 where it is at hand, else digits."""
    return load_data("cifar10" if cifar10_folder() else "digits")


@pytest.fixture(scope="session")
def device_images(real_data):
    return real_data.test_images[:DEVICE_IMAGES]


@pytest.fixture(scope="session")
def tiny_network(real_data):
    """GN-S 0.25 with random weights and moments of real images."""
    return network_with_moments(real_data, width=0.25, head_units=64)


@pytest.fixture(scope="session")
def int8_file(tiny_network, real_data, tmp_path_factory):
    """The network for microcontrollers."""
    path = tmp_path_factory.mktemp("int8") / "model.tflite"
    export_tflite(
        tiny_network,
        path,
        calibration_images=calibration_split(real_data, 20),
    )
    return path


@pytest.fixture(scope="session")
def device_python(pytestconfig):
    """Makes an environment of a few packages; kept between sessions.

    It skips where there can be none.
    """

    def make(name):
        packages = ENVIRONMENTS[name]
        folder = pytestconfig.cache.mkdir("devices") / name
        python = folder / "bin/python"
        ready = folder / "ready"
        if name == "tflite-runtime" and sys.version_info[:2] != (3, 11):
            pytest.skip("tflite-runtime 2.14 needs Python 3.11")
        if ready.is_file() and ready.read_text() == " ".join(packages):
            return python
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        for command in (
            [sys.executable, "-m", "venv", "--clear", "--without-pip", folder],
            [*pip, "--python", python, "install", "--quiet", *packages],
        ):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"no environment {name}: {done.stderr[-300:]}")
        ready.write_text(" ".join(packages))
        return python

    return make


@pytest.fixture(scope="session")
def edge_tpu_file(tmp_path_factory):
    """What edgetpu_compiler makes: all operators in one of its own."""
    data = resnet8(RESNET8["resnet8-16-32-64"])
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    code, operator = schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode = code.deprecatedBuiltinCode = (
        schema.BuiltinOperator.CUSTOM
    )
    code.customCode = b"edgetpu-custom-op"
    graph = model.subgraphs[0]
    operator.inputs, operator.outputs = graph.inputs, graph.outputs
    model.operatorCodes, graph.operators = [code], [operator]
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), b"TFL3")
    path = tmp_path_factory.mktemp("edge") / "model_edgetpu.tflite"
    path.write_bytes(builder.Output())
    return path
