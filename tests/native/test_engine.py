"""The native kernels against every branch by itself in float64."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

from reference import (  # noqa: E402
    CASES,
    MATRICES,
    POLYNOMIAL,
    Case,
    inputs_of,
    outputs_of,
)

from gnsmall_keras.native import plan as plans  # noqa: E402
from gnsmall_keras.native.engine import Engine  # noqa: E402

pytestmark = pytest.mark.usefixtures("compiled")
RUNNER = Path(__file__).parent / "runner.cc"
SMALL = Case(sides=(8, 16), batch=3)
EXACT = [
    Case(batch=1, sides=(32, 32)),
    Case(batch=65, sides=(16, 8), channels=1, classes=5),
    Case(network="gnd", batch=33, sides=(32, 32)),
    Case(network="gns_nogate", width=0.5, batch=5, sides=(15, 18)),
]
# Minutes: `make test-all` alone.
LONG = [
    *(
        Case(width=width, batch=batch, sides=(32, 32), head_units=1280)
        for width, batch in (
            *((0.25, batch) for batch in (1, 63, 64, 65, 200)),
            (0.5, 200),
            (1.0, 64),
            (1.3, 65),
            (2.8, 63),
        )
    ),
    Case(network="gnd", width=0.5, batch=63, sides=(32, 32)),
    Case(network="gnd", width=1.0, batch=33, sides=(32, 32)),
]


@pytest.fixture(scope="module")
def engine():
    """A small network's."""
    return Engine(SMALL.plan(), threads=2)


def _distance(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


def _run(engine, inputs):
    logits, statistics, context = engine.forward(
        inputs.parameters, inputs.images
    )
    gradient = engine.backward(context, inputs.grad_logits)
    inferred = engine.infer(inputs.parameters, inputs.moving, inputs.images)
    return logits, statistics, gradient, inferred, _turn(engine, inputs)


def _turn(engine, inputs):
    return engine.orthogonalize(inputs.matrices, MATRICES, POLYNOMIAL, steps=5)


def _check(case):
    inputs = inputs_of(case)
    wanted = outputs_of(case, inputs)
    plain = outputs_of(case, inputs, torch.float32)
    logits, statistics, gradient, inferred, orthogonal = _run(
        Engine(case.plan()), inputs
    )
    # Where float32 has no more digits (a loss near 0, deep random networks with
    # logits of hundreds), as near as PyTorch's float32.
    loss = _loss(wanted.logits)
    assert abs(_loss(logits) - loss) <= max(
        abs(_loss(plain.logits) - loss), 1e-6 * loss
    )
    largest = max(1, np.abs(wanted.inferred).max())
    assert np.abs(inferred - wanted.inferred).max() <= max(
        np.abs(plain.inferred - wanted.inferred).max(), 1e-5 * largest
    )
    scale = 1 + np.abs(wanted.statistics)
    assert (np.abs(statistics - wanted.statistics) / scale).max() <= max(
        (np.abs(plain.statistics - wanted.statistics) / scale).max(), 1e-5
    )
    assert np.abs(orthogonal - wanted.orthogonal).max() <= 1e-5
    # Rounding turns single ReLUs, here and there.
    assert _distance(gradient, wanted.gradient) <= max(
        _distance(plain.gradient, wanted.gradient), 1e-5
    )


def _loss(logits):
    """Cross-entropy with labels 0, 1, ..., 0, 1, ..."""
    logits = logits.astype(float)
    labels = np.arange(len(logits)) % logits.shape[1]
    chosen = logits[np.arange(len(logits)), labels]
    return np.mean(np.log(np.exp(logits).sum(1)) - chosen)


@pytest.mark.parametrize("case", EXACT, ids=str)
def test_step_and_inference_equal_separate_branches(case):
    _check(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", LONG, ids=str)
def test_large_networks_equal_separate_branches(case):
    _check(case)


@pytest.mark.parametrize(
    "sides", [(4, 4), (2, 2), (1, 5), (5, 1), (3, 20), (1, 1)], ids=str
)
def test_maps_of_one_row_or_column(sides):
    """Their one row is the first as well as the last."""
    # Few values make a BatchNorm magnify rounding: a wrong sum does far more.
    case = Case(network="gns_nogate", sides=sides, batch=33)
    inputs = inputs_of(case)
    wanted = outputs_of(case, inputs)
    logits, statistics, gradient, inferred, _ = _run(
        Engine(case.plan()), inputs
    )
    assert _distance(logits, wanted.logits) < 1e-3
    assert _distance(statistics, wanted.statistics) < 1e-3
    assert _distance(gradient, wanted.gradient) < 2e-2
    assert _distance(inferred, wanted.inferred) < 1e-5


def test_number_of_threads_changes_no_bit():
    case = SMALL._replace(batch=70)
    inputs = inputs_of(case)
    first, *others = (
        _run(Engine(case.plan(), threads=threads), inputs)
        for threads in (1, 2, 5)
    )
    for other in others:
        for found, wanted in zip(other, first, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_contexts_live_side_by_side(engine):
    inputs = inputs_of(SMALL)
    gradient = _run(engine, inputs)[2]
    _, _, first = engine.forward(inputs.parameters, inputs.images)
    _, _, second = engine.forward(inputs.parameters, inputs.images[::-1].copy())
    engine.backward(second, inputs.grad_logits)
    again = engine.backward(first, inputs.grad_logits)
    np.testing.assert_array_equal(again, gradient)


def test_a_context_may_outlive_its_engine():
    """Python finalises what is in a cycle in any order."""
    inputs = inputs_of(SMALL)
    for _ in range(5):
        engine = Engine(SMALL.plan(), threads=2)
        _, _, context = engine.forward(inputs.parameters, inputs.images)
        engine.__del__()
        context.__del__()


def test_a_missing_image_in_a_block_counts_nowhere(engine):
    inputs = inputs_of(SMALL)
    alone = engine.infer(inputs.parameters, inputs.moving, inputs.images[:1])
    all_ = engine.infer(inputs.parameters, inputs.moving, inputs.images)
    np.testing.assert_array_equal(alone[0], all_[0])


def test_nan_in_an_image_is_nan_in_its_logits(engine):
    inputs = inputs_of(SMALL)
    images = inputs.images.copy()
    images[1, 2, 3, 0] = np.nan
    inferred = engine.infer(inputs.parameters, inputs.moving, images)
    np.testing.assert_array_equal(
        np.isnan(inferred).all(1), [False, True, False]
    )
    logits, _, _ = engine.forward(inputs.parameters, images)
    assert np.isnan(logits).all()


def test_a_context_serves_once(engine):
    inputs = inputs_of(SMALL)
    _, _, context = engine.forward(inputs.parameters, inputs.images)
    engine.backward(context, inputs.grad_logits)
    with pytest.raises(ValueError, match="one backward pass"):
        engine.backward(context, inputs.grad_logits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images: images.astype("float64"), "float32"),
        (lambda images: images[:, ::2], "shape"),
        (lambda images: images[:0], "at least one"),
        (lambda images: images[0], "shape"),
        (lambda images: images.tolist(), "NumPy"),
        (lambda images: images[::2][:, :, ::-1], "C-contiguous"),
    ],
)
def test_bad_images_are_named(engine, change, message):
    inputs = inputs_of(SMALL)
    with pytest.raises(ValueError, match=f"images.*{message}"):
        engine.forward(inputs.parameters, change(inputs.images))


def test_bad_parameters_and_gradients_are_named(engine):
    inputs = inputs_of(SMALL)
    with pytest.raises(ValueError, match="parameters.*shape"):
        engine.forward(inputs.parameters[1:], inputs.images)
    with pytest.raises(ValueError, match="statistics.*shape"):
        engine.infer(inputs.parameters, inputs.moving[1:], inputs.images)
    _, _, context = engine.forward(inputs.parameters, inputs.images)
    with pytest.raises(ValueError, match="grad_logits.*shape"):
        engine.backward(context, inputs.grad_logits[1:])
    with pytest.raises(ValueError, match="another engine"):
        Engine(SMALL.plan()).backward(context, inputs.grad_logits)


def test_a_plan_without_kernels_is_refused():
    block = SMALL.plan().blocks[1]._replace(kernel=7)
    plan = SMALL.plan()._replace(blocks=(block,))
    with pytest.raises(ValueError, match="depthwise kernel of that size"):
        Engine(plan)
    with pytest.raises(ValueError, match="threads"):
        Engine(SMALL.plan(), threads=0)


def test_weights_have_the_names_and_shapes_of_the_model():
    from gnsmall_keras.models.registry import create_model

    for case in (
        Case(width=0.5),
        Case(network="gns_nogate", width=0.5),
        Case(network="gnd", width=0.25, sides=(32, 32)),
    ):
        model = create_model(
            case.network,
            width=case.width,
            classes=case.classes,
            input_shape=(*case.sides, case.channels),
            head_units=case.head_units,
        )
        for weights, trainable in (
            (plans.parameters_of(case.plan()), True),
            (plans.statistics_of(case.plan()), False),
        ):
            found = {
                (layer.name, variable.name): tuple(variable.shape)
                for layer in model.layers
                for variable in layer.variables
                if variable.trainable == trainable
            }
            assert {(w.layer, w.name): w.shape for w in weights} == found


def test_runner_reproduces_the_stored_results(tmp_path, compiled):
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no compiler")
    runner = tmp_path / "runner"
    subprocess.run(
        [compiler, "-std=c++17", RUNNER, compiled, "-o", runner], check=True
    )
    done = subprocess.run(
        [runner, CASES], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_an_engine_may_end_before_its_context():
    """As in a cycle, where Python's collector takes them in any order."""
    engine = Engine(SMALL.plan(), threads=2)
    parameters = np.zeros(engine.parameter_count, "float32")
    images = np.zeros((3, 8, 16, 3), "float32")
    _, _, context = engine.forward(parameters, images)
    engine.__del__()
    assert not engine.is_alive
    del context  # would give its buffers to a pool that is gone
