"""Which networks the engine computes: a model's plan, or why it has none.

The engine knows the GhostNets of `models.ghostnet` as they are built. A model
is compared with that layer by layer: class, settings, inputs and weights. What
was edited, frozen or added is found here, and Keras computes such a model.
"""

import functools
from typing import NamedTuple

import keras
from keras import layers

from gnsmall_keras.models.keras_private import (
    nodes_of,
    operation_of,
    without_tensorflow,
)
from gnsmall_keras.models.layers import (
    BranchedConv2D,
    BranchedDepthwiseConv2D,
)
from gnsmall_keras.models.spec import BlockPlan
from gnsmall_keras.native.plan import (
    NetworkPlan,
    Weight,
    parameters_of,
    statistics_of,
)

# Settings that decide no result any more, or are compared by themselves.
_FREE = {"name", "trainable", "dtype", "kernel_initializer", "bias_initializer"}
_MOVING = ("moving_mean", "moving_variance")
_NO_KERNEL = 3  # of a block without a depthwise kernel of its own


class Mismatch(ValueError):
    """Why the engine does not compute a model, in one line.

    Attributes:
        is_ghostnet: whether the model has layers of a GhostNet at all.
    """

    def __init__(self, message: str, *, is_ghostnet: bool = True):
        super().__init__(message)
        self.is_ghostnet = is_ghostnet


class _Expected(NamedTuple):
    kind: type
    config: dict
    inputs: list[str]  # names of layers


class Match(NamedTuple):
    """A model that the engine computes."""

    plan: NetworkPlan
    parameters: list[keras.Variable]  # in the engine's order
    statistics: list[keras.Variable]


@without_tensorflow()
def match(model: keras.Model, *, training: bool = True) -> Match:
    """Returns a GhostNet's plan and its variables.

    Args:
        model: any.
        training: whether it is to be trained, so that no layer may be frozen
            or add a loss.

    Raises:
        Mismatch: if it is not, layer by layer, what `ghostnetv3_small` or
            `ghostnetv3` builds, in float32.
    """
    nodes = _nodes_of(model)
    try:
        plan = _read_plan(model)
    except (LookupError, AttributeError, ValueError, TypeError):
        raise Mismatch(
            f"{model.name!r} has not the layers of a GhostNet"
        ) from None
    expected = _expected_layers(plan)
    if set(nodes) != set(expected):
        names = sorted(set(nodes) ^ set(expected))
        raise Mismatch(f"layer {names[0]!r} is missing or added")
    for name, layer in expected.items():
        _compare(nodes[name], name, layer)
    if training:
        _check_trained(model)
    outputs = [_source(tensor) for tensor in model.outputs]
    if outputs != ["logits"] or len(model.inputs) != 1:
        raise Mismatch(f"{model.name!r} has other inputs or outputs")
    found = {
        (layer.name, variable.name): variable
        for layer in model.layers
        for variable in layer.variables
    }
    parameters = _variables(found, parameters_of(plan))
    statistics = _variables(found, statistics_of(plan))
    if len(parameters) + len(statistics) != len(found):
        raise Mismatch(f"{model.name!r} has weights of its own")
    return Match(plan, parameters, statistics)


def _nodes_of(model):
    """The calls of a GhostNet by their layers' names."""
    nodes = nodes_of(model) if isinstance(model, keras.Model) else []
    kinds = (BranchedConv2D, BranchedDepthwiseConv2D)
    if not any(isinstance(node.operation, kinds) for node in nodes):
        raise Mismatch(f"{model.name!r} is no GhostNet", is_ghostnet=False)
    found = {node.operation.name: node for node in nodes}
    if type(model).__name__ != "Functional" or "call" in vars(model):
        raise Mismatch(f"{model.name!r} has a `call` of its own")
    if len(found) != len(nodes):
        raise Mismatch(f"{model.name!r} calls a layer several times")
    return found


def _source(tensor):
    return operation_of(tensor).name


def _read_plan(model):
    """What the model would be, by the sizes of some layers."""
    known = {layer.name: layer for layer in model.layers}
    height, width, channels = model.inputs[0].shape[1:]
    names = [
        name.removesuffix("_ghost1_primary")
        for name in known
        if name.endswith("_ghost1_primary")
    ]
    last = [name for name in known if name.endswith("_0_conv")]
    return NetworkPlan(
        height=height,
        width=width,
        channels=channels,
        classes=known["classifier"].filters,
        stem=known["stem"].filters,
        blocks=tuple(_read_block(known, name) for name in names),
        last=known[last[-1]].filters,
        head_units=known["head_conv"].filters,
    )


def _read_block(known, name):
    strided = known.get(f"{name}_dw")
    depthwise = strided or known.get(f"{name}_shortcut_dw")
    squeeze = known.get(f"{name}_se_reduce")
    return BlockPlan(
        name=name,
        kernel=depthwise.kernel_size[0] if depthwise else _NO_KERNEL,
        hidden=2 * known[f"{name}_ghost1_primary"].filters,
        out=2 * known[f"{name}_ghost2_primary"].filters,
        squeeze=squeeze.filters if squeeze else 0,
        stride=2 if strided else 1,
        gate=f"{name}_ghost1_gate_conv" in known,
    )


def _compare(node, name, expected):
    """Checks one layer: what it is, how it is set and how it is called."""
    layer = node.operation
    if type(layer) is not expected.kind:
        raise Mismatch(
            f"layer {name!r} is a {type(layer).__name__}, not a "
            f"{expected.kind.__name__}"
        )
    if layer.dtype_policy.name != "float32":
        raise Mismatch(
            f"layer {name!r} computes in {layer.dtype_policy.name}, not float32"
        )
    if "call" in vars(layer):
        raise Mismatch(f"layer {name!r} has a `call` of its own")
    ours, theirs = layer.get_config(), expected.config
    for key in sorted({*ours, *theirs} - _FREE):
        if ours.get(key) != theirs.get(key):
            raise Mismatch(
                f"layer {name!r} has {key}={_short(ours.get(key))}, not "
                f"{_short(theirs.get(key))}"
            )
    found = [_source(tensor) for tensor in node.input_tensors]
    # Who calls the model says whether it is training; a layer's own does not.
    named = set(node.arguments.kwargs) - {"training"}
    if found != expected.inputs or named or len(node.arguments.args) > 1:
        raise Mismatch(f"layer {name!r} is called otherwise")


def _check_trained(model):
    """Checks that all is trained, and by the loss alone."""
    if not model.trainable:
        raise Mismatch(f"{model.name!r} is frozen")
    for layer in model.layers:
        if not layer.trainable:
            raise Mismatch(f"layer {layer.name!r} is frozen")
    for variable in model.variables:
        moves = not variable.name.endswith(_MOVING)
        if variable.trainable != moves:
            raise Mismatch(f"{variable.path!r} is frozen")
        if variable.regularizer is not None or variable.constraint is not None:
            raise Mismatch(f"{variable.path!r} has a regulariser or constraint")


def _short(value):
    """What a configuration says, in a word."""
    return value.get("class_name") if isinstance(value, dict) else value


def _variables(found, weights: tuple[Weight, ...]):
    variables = []
    for weight in weights:
        variable = found.get((weight.layer, weight.name))
        if variable is None or tuple(variable.shape) != tuple(weight.shape):
            raise Mismatch(f"layer {weight.layer!r} has other weights")
        variables.append(variable)
    return variables


@functools.lru_cache(maxsize=16)
def _expected_layers(plan: NetworkPlan):
    """Every layer by its name, as `models.ghostnet` builds them."""
    network = _Network()
    shape = (plan.height, plan.width, plan.channels)
    x = network.add("images", layers.InputLayer, shape=shape)
    x = network.branched("stem", x, plan.stem, kernel_size=3, branches=1)
    x = network.add("stem_relu", layers.ReLU, x)
    side, channels = (plan.height, plan.width), plan.stem
    for block in plan.blocks:
        x, side = _block(network, x, block, side, channels)
        channels = block.out
    name = f"blocks_{int(plan.blocks[-1].name.split('_')[1]) + 1}_0"
    x = network.branched(f"{name}_conv", x, plan.last, branches=1)
    x = network.add(f"{name}_relu", layers.ReLU, x)
    x = network.pool("head_pool", x)
    x = network.conv("head_conv", x, plan.head_units)
    x = network.add("head_relu", layers.ReLU, x)
    x = network.conv("classifier", x, plan.classes)
    network.add("logits", layers.Flatten, x)
    return network.layers


class _Network:
    def __init__(self):
        self.layers: dict[str, _Expected] = {}

    def add(self, name, kind, *inputs, **options):
        config = _config(kind, **options)
        self.layers[name] = _Expected(kind, config, list(inputs))
        return name

    def branched(self, name, x, filters, **options):
        return self.add(name, BranchedConv2D, x, filters=filters, **options)

    def depthwise(self, name, x, size, **options):
        kind = BranchedDepthwiseConv2D
        return self.add(name, kind, x, kernel_size=size, **options)

    def conv(self, name, x, filters):
        return self.add(name, layers.Conv2D, x, filters=filters, kernel_size=1)

    def pool(self, name, x):
        return self.add(name, layers.GlobalAveragePooling2D, x, keepdims=True)


@functools.cache
def _config(kind, **options):
    return kind(**options).get_config()


def _block(network, inputs, plan, side, channels):
    name = f"{plan.name}_ghost1"
    x = _ghost(network, name, inputs, plan.hidden, channels, relu=True)
    if plan.gate:
        attention = _gate(network, f"{name}_gate", inputs, plan, side)
        x = network.add(f"{name}_multiply", layers.Multiply, x, attention)
    if plan.stride == 2:
        name = f"{plan.name}_dw"
        x = _strided(network, name, x, plan, branches=3, scale=True)
    if plan.squeeze:
        x = _squeeze(network, f"{plan.name}_se", x, plan)
    name = f"{plan.name}_ghost2"
    x = _ghost(network, name, x, plan.out, plan.hidden, relu=False)
    shortcut = inputs
    if plan.stride != 1 or channels != plan.out:
        shortcut = _shortcut(network, f"{plan.name}_shortcut", inputs, plan)
    side = tuple((length - 1) // plan.stride + 1 for length in side)
    return network.add(f"{plan.name}_add", layers.Add, x, shortcut), side


def _ghost(network, name, inputs, filters, channels, *, relu):
    half = (filters + 1) // 2
    primary = network.branched(
        f"{name}_primary", inputs, half, identity=channels == half
    )
    if relu:
        primary = network.add(f"{name}_primary_relu", layers.ReLU, primary)
    cheap = network.depthwise(
        f"{name}_cheap", primary, (3, 3), scale=True, identity=True
    )
    if relu:
        cheap = network.add(f"{name}_cheap_relu", layers.ReLU, cheap)
    return network.add(f"{name}_concat", layers.Concatenate, primary, cheap)


def _gate(network, name, x, plan, side):
    pooled = min(side) > 1
    if pooled:
        x = network.add(f"{name}_pool", layers.AveragePooling2D, x, pool_size=2)
    x = network.branched(f"{name}_conv", x, plan.hidden, branches=1)
    x = network.depthwise(f"{name}_row", x, (1, 5), branches=1)
    x = network.depthwise(f"{name}_column", x, (5, 1), branches=1)
    x = network.add(
        f"{name}_sigmoid", layers.Activation, x, activation="sigmoid"
    )
    if not pooled:
        return x
    return network.add(
        f"{name}_resize",
        layers.Resizing,
        x,
        height=side[0],
        width=side[1],
        interpolation="nearest",
    )


def _strided(network, name, x, plan, **options):
    padding = plan.kernel // 2
    x = network.add(f"{name}_pad", layers.ZeroPadding2D, x, padding=padding)
    size = (plan.kernel, plan.kernel)
    options |= {"strides": 2, "padding": "valid"}
    return network.depthwise(name, x, size, **options)


def _squeeze(network, name, inputs, plan):
    x = network.pool(f"{name}_pool", inputs)
    x = network.conv(f"{name}_reduce", x, plan.squeeze)
    x = network.add(f"{name}_relu", layers.ReLU, x)
    x = network.conv(f"{name}_expand", x, plan.hidden)
    gate = f"{name}_hard_sigmoid"
    x = network.add(gate, layers.Activation, x, activation="hard_sigmoid")
    return network.add(f"{name}_multiply", layers.Multiply, inputs, x)


def _shortcut(network, name, x, plan):
    if plan.stride == 2:
        x = _strided(network, f"{name}_dw", x, plan, branches=1, scale=False)
    else:
        size = (plan.kernel, plan.kernel)
        x = network.depthwise(f"{name}_dw", x, size, branches=1)
    return network.branched(f"{name}_conv", x, plan.out, branches=1)
