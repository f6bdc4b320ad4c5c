"""An int8 file as a program for a Cortex-M4, in an emulator."""

import runpy

import numpy as np
import pytest
from support import ROOT

from gnsmall_keras.devices import cortex_m
from gnsmall_keras.devices.cmsis_nn import quantize_multiplier, write_sources
from gnsmall_keras.devices.cmsis_nn.arena import plan_arena
from gnsmall_keras.devices.cortex_m import missing_tools, run_on_cortex_m
from gnsmall_keras.devices.resnet8 import RESNET8, resnet8
from gnsmall_keras.devices.runtime import TFLiteModel
from gnsmall_keras.export.graph import Graph
from gnsmall_keras.records.cited import read_cited

pytestmark = pytest.mark.export
SMALLEST = ROOT / "tflite/gns-w0.25-h320-cifar10-micro.tflite"
ANDROID = ROOT / "tflite/gns-w1-cifar10-android.tflite"


def _images(count):
    shape = (count, 32, 32, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("name", [SMALLEST.name, "MLPerf Tiny IC1"])
def test_integers_are_litert_s_and_instructions_those_cited(name, tmp_path):
    if missing_tools():
        pytest.skip("; ".join(missing_tools()))
    file = SMALLEST
    if name != SMALLEST.name:
        file = tmp_path / "resnet8.tflite"
        channels = RESNET8["resnet8-16-32-64"]
        file.write_bytes(resnet8(channels, softmax=False))
    images = _images(2)
    run = run_on_cortex_m(file, images)
    expected = TFLiteModel(file, runtime="litert-reference").predict_raw(images)
    np.testing.assert_array_equal(run.scores, expected)
    (cited,) = (one.instructions for one in read_cited() if one.name == name)
    # A compiler's next version is no failure.
    assert run.instructions[0] == pytest.approx(cited, rel=0.25)
    assert run.code_bytes < 40_000
    assert run.arena_bytes + run.scratch_bytes < 60_000


def test_make_mcu_downloads_nothing(monkeypatch):
    path = ROOT / "benchmarks/cortex_m4.py"
    some_images = runpy.run_path(str(path))["some_images"]

    def load_data(name):
        raise AssertionError(f"{name} would be downloaded")

    monkeypatch.setitem(some_images.__globals__, "load_data", load_data)
    monkeypatch.delenv("GNSMALL_DATA", raising=False)
    images, whose = some_images(2)
    assert (images.shape, whose) == ((2, 32, 32, 3), "random")


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(cortex_m.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="gcc-arm-none-eabi.*qemu-system-arm"):
        run_on_cortex_m(SMALLEST, _images(1))


def test_the_c_of_every_published_file_is_written():
    for file in sorted((ROOT / "tflite").glob("*-micro.tflite")):
        sources = write_sources(file.read_bytes())
        kinds = [each.kind for each in Graph(file.read_bytes()).operators]
        assert kinds.count("DEPTHWISE_CONV_2D") >= 20  # of ghost modules
        calls = sources.source.count("RunDepthwise(&")
        assert calls == kinds.count("DEPTHWISE_CONV_2D")
        assert sources.arena_bytes < 80_000


def test_other_operators_are_refused():
    with pytest.raises(ValueError, match="Received: [A-Z_0-9]+: "):
        write_sources(ANDROID.read_bytes())


def _without_bias(graph, operator):
    operator.inputs[2] = -1


def _of_groups(graph, operator):
    kernel = graph.constant(operator.inputs[1])
    half = kernel[..., : kernel.shape[-1] // 2]
    operator.inputs[1] = graph.add_constant(operator.inputs[1], half)


def _of_rows(graph, operator):
    shape = (1, 2, *graph.shape(operator.inputs[0])[1:])
    graph.tensors[operator.inputs[0]].shape = np.array(shape, np.int32)


def _of_a_column(graph, operator):
    _, height, width, channels = graph.shape(operator.inputs[0])
    shape = (1, height * width, 1, channels)
    graph.tensors[operator.inputs[0]].shape = np.array(shape, np.int32)


def _of_pixels(graph, operator, position):
    """Makes an operand of as many pixels as there are channels."""
    given = operator.inputs[position]
    channels = graph.shape(operator.outputs[0])[-1]
    operator.inputs[position] = graph.add_tensor(given, (1, channels, 1, 1))


def _with_a_gate_of_pixels(graph, operator):
    _of_pixels(graph, operator, 1)


def _of_pixels_and_channels(graph, operator):
    _of_pixels(graph, operator, 0)


def _with_a_constant(graph, operator):
    given = operator.inputs[-1]
    values = np.ones(graph.shape(given), np.int8)
    operator.inputs[-1] = graph.add_constant(given, values)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("CONV_2D", _without_bias, "constant kernel and bias"),
        ("FULLY_CONNECTED", _without_bias, "constant kernel and bias"),
        ("DEPTHWISE_CONV_2D", _without_bias, "constant kernel and bias"),
        ("CONV_2D", _of_groups, "groups"),
        ("FULLY_CONNECTED", _of_rows, "one pixel"),
        ("MUL", _with_a_constant, "constant"),
        ("ADD", _with_a_constant, "constant"),
        ("ADD", _of_a_column, "one shape"),
        ("MUL", _with_a_gate_of_pixels, "one shape, or one be of a value a"),
        ("MUL", _of_pixels_and_channels, "one shape, or one be of a value a"),
        ("CONCATENATION", _with_a_constant, "join two images"),
    ],
)
def test_what_cmsis_nn_would_compute_otherwise_is_refused(
    kind, change, message
):
    """Operators that are known, in a form that is not."""
    data = SMALLEST.read_bytes()
    if kind == "FULLY_CONNECTED":
        data = resnet8(RESNET8["resnet8-16-32-64"], softmax=False)
    write_sources(data)
    graph = Graph(data)
    operator = graph.of_kind(kind)[-1]
    change(graph, operator)
    with pytest.raises(ValueError, match=f"Received: {kind}: .*{message}"):
        write_sources(graph.to_bytes())


@pytest.mark.parametrize("dtype", ["FLOAT32", "INT16"])
@pytest.mark.parametrize("position", [0, 1])
def test_files_of_other_types_are_refused(dtype, position):
    """As dynamic files compute with floats, and int16x8 ones with int16."""
    graph = Graph(SMALLEST.read_bytes())
    tensor = graph.of_kind("CONV_2D")[-1].inputs[position]
    if position == 1:  # a constant kernel
        tensor = graph.add_constant(tensor, graph.constant(tensor), dtype)
        graph.of_kind("CONV_2D")[-1].inputs[position] = tensor
    graph.tensors[tensor].type = getattr(graph.schema.TensorType, dtype)
    with pytest.raises(ValueError, match=f"tensor of {dtype}.*int8, without"):
        write_sources(graph.to_bytes())


@pytest.mark.parametrize("value", [0.75, 1.0, 1e-3, 3.0, 0.9999999999999])
def test_multipliers_are_the_values(value):
    multiplier, shift = quantize_multiplier(value)
    assert 2**30 <= multiplier < 2**31
    assert multiplier / 2**31 * 2.0**shift == pytest.approx(value, rel=1e-9)


def test_tensors_that_live_at_once_do_not_overlap():
    generator = np.random.default_rng(1)
    lifetimes, sizes = {}, {}
    for tensor in range(40):
        first = int(generator.integers(0, 30))
        lifetimes[tensor] = (first, first + int(generator.integers(1, 6)))
        sizes[tensor] = int(generator.integers(1, 500))
    offsets, total = plan_arena(lifetimes, sizes)
    for one in offsets:
        assert offsets[one] % 16 == 0
        assert offsets[one] + sizes[one] <= total
        for other in range(one):
            apart = (
                offsets[one] + sizes[one] <= offsets[other]
                or offsets[other] + sizes[other] <= offsets[one]
            )
            early = lifetimes[one][1] < lifetimes[other][0]
            late = lifetimes[other][1] < lifetimes[one][0]
            assert apart or early or late
