"""Settings that every test needs before Keras is imported, and shared files.

Networks and .tflite files are made once for all tests of a process.
"""

import contextlib
import gc
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# On a GPU callbacks look at several steps together, which tests count.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The tests' JAX programs run once; compiling them quickly matters more.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true",
)


@pytest.fixture(autouse=True, scope="module")
def _freeze_garbage():
    """Spares Python's collector the modules before.

    TensorFlow's graphs are cycles: the collector looks at hundreds of them
    again and again, a quarter of the time of all tests of training.
    """
    yield
    gc.freeze()


def pytest_unconfigure():
    """Frozen garbage holds HDF5 files, which must go before Python does.

    HDF5's own end calls h5py for each that is left: a segmentation fault.
    """
    gc.unfreeze()


@pytest.fixture
def float64():
    """Weights and computation in double precision."""
    _set_precision("float64")
    yield
    _set_precision("float32")


def _set_precision(dtype):
    import keras

    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    if keras.config.backend() == "jax":
        import jax

        jax.config.update("jax_enable_x64", dtype == "float64")


# Files on devices.

DEVICE_IMAGES = 200
COMPARED = 100  # images on which runtimes are compared
ENVIRONMENTS = {
    "tflite-runtime": ("tflite-runtime==2.14.0", "numpy<2", "pillow"),
    "litert": ("ai-edge-litert>=2.1", "numpy", "pillow"),
}


class Exported(NamedTuple):
    """A network, its file for microcontrollers, and what it was made of."""

    model: Any
    path: Any
    report: Any
    conversion: Any  # the converter's files, before rewriting


@pytest.fixture(scope="session")
def real_data():
    """CIFAR-10 where it is at hand, else digits."""
    from support import cifar10_folder

    from gnsmall_keras.data.sources import load_data

    return load_data("cifar10" if cifar10_folder() else "digits")


@pytest.fixture(scope="session")
def device_images(real_data):
    return real_data.test_images[:DEVICE_IMAGES]


@pytest.fixture(scope="session")
def calibration_images(real_data):
    from gnsmall_keras.quantization.calibration import calibration_split

    return calibration_split(real_data, 20)


@pytest.fixture(scope="session")
def small_network(real_data):
    """GN-S 0.25 with random weights and moments of real images."""
    from support import network_with_moments

    return network_with_moments(real_data, width=0.25, head_units=64)


@pytest.fixture(scope="session")
def export(real_data):
    """Exports a network to a folder, in the process that users get."""
    from gnsmall_keras.export import tflite

    def run(model, folder, calibration_images, **options):
        path, made, convert = folder / "model.tflite", [], tflite.convert

        def recorded(*arguments, **given):
            made.append(convert(*arguments, **given))
            return made[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tflite, "convert", recorded)
            report = tflite.export_tflite(
                model,
                path,
                calibration_images=calibration_images,
                evaluation_images=real_data.test_images[:COMPARED],
                evaluation_labels=real_data.test_labels[:COMPARED],
                **options,
            )
        return Exported(model, path, report, made[0])

    return run


def convert_in_process(patch):
    """Lets conversions do without a process of their own, for seconds less."""
    from gnsmall_keras.export import convert

    @contextlib.contextmanager
    def here(*_, **__):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            yield SimpleNamespace(
                folder=folder, finish=lambda _: convert.work(folder)
            )

    patch.setattr(convert, "working", here)


@pytest.fixture
def in_process(monkeypatch):
    convert_in_process(monkeypatch)


@pytest.fixture(scope="session")
def phone_file(export, real_data, calibration_images, tmp_path_factory):
    """A network of odd width for phones, with its labels and its report."""
    from support import network_with_moments

    with pytest.MonkeyPatch.context() as patch:
        convert_in_process(patch)
        return export(
            network_with_moments(real_data, width=0.35, head_units=64),
            tmp_path_factory.mktemp("phone"),
            calibration_images,
            target="android",
            class_names=list(real_data.class_names),
        )


@pytest.fixture(scope="session")
def exported_small(export, small_network, calibration_images, tmp_path_factory):
    """The small network for microcontrollers."""
    folder = tmp_path_factory.mktemp("int8")
    with pytest.MonkeyPatch.context() as patch:
        convert_in_process(patch)
        return export(small_network, folder, calibration_images)


@pytest.fixture(scope="session")
def int8_file(exported_small):
    return exported_small.path


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
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    from gnsmall_keras.devices.resnet8 import RESNET8, resnet8

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
