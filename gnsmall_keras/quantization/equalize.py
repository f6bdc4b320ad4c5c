"""Channels of like ranges, so that one scale for all of them wastes little.

A fused ReLU network computes the same when a channel is multiplied by a
positive number where it is made and divided by it where it is used (Nagel et
al., "Data-Free Quantization through Weight Equalization and Bias Correction",
2019). Weights have a scale for each channel, activations one for all: wide
channels would take the steps from narrow ones.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from gnsmall_keras.export.graph import Graph

# Of the inverse range. At 1 activations would be alike and the next kernels
# uneven; at 0.5 both share.
POWER = 0.5
# Range of a channel, of the widest one's in its tensor. The kernels of dead
# channels would become so large that XNNPACK refuses their scales.
_LEAST = 0.01
_PASSING = (
    "AVERAGE_POOL_2D",
    "MAX_POOL_2D",
    "MEAN",
    "PAD",
    "RESIZE_BILINEAR",
    "RESIZE_NEAREST_NEIGHBOR",
)


def equalize(
    network: Graph,
    magnitudes: dict[int, np.ndarray],
    power: float = POWER,
    fixed: Sequence[int] = (),
) -> None:
    """Rescales channels where that is exact, and nowhere else.

    Args:
        network: float; its kernels and biases are changed in place.
        magnitudes: largest magnitude `(channels,)` of each computed tensor,
            on some images.
        power: 0 changes nothing, 1 gives all channels one range.
        fixed: tensors whose channels stay as they are.
    """
    ties = _tie(network)
    ties.fix(*fixed)
    factors = ties.factors(magnitudes, power)
    for operator in network.operators:
        if operator.is_linear:
            into = factors[ties.nodes(operator.inputs[0])]
            made = factors[ties.nodes(operator.outputs[0])]
            _rescale(network, operator, into, made)


class _Ties:
    """Which channels must have one factor, and which the factor 1.

    A node is a channel of a tensor; node 0 stands for all that stay as they
    are.
    """

    def __init__(self, network):
        sizes = [
            (network.shape(tensor) or (1,))[-1]
            for tensor in range(len(network))
        ]
        ends = np.cumsum([1, *sizes])
        self._ranges = [
            range(start, end) for start, end in itertools.pairwise(ends)
        ]
        self._parents = list(range(ends[-1]))

    def nodes(self, tensor):
        return self._ranges[tensor]

    def is_fixed(self, tensor):
        return all(self._find(node) == 0 for node in self.nodes(tensor))

    def fix(self, *tensors):
        for tensor in tensors:
            for node in self.nodes(tensor):
                self._join(node, 0)

    def tie(self, first, second):
        """Ties two rows of nodes; unequal rows broadcast, and are fixed."""
        for node in () if len(first) == len(second) else (*first, *second):
            self._join(node, 0)
        for one, other in zip(first, second, strict=False):
            self._join(one, other)

    def factors(self, magnitudes, power):
        """Returns the factor of every node."""
        roots = np.array([self._find(n) for n in range(len(self._parents))])
        largest = np.zeros(len(roots))
        for tensor, values in magnitudes.items():
            own = roots[self.nodes(tensor)]
            np.maximum.at(
                largest, own, np.maximum(values, _LEAST * max(values))
            )
        largest[0] = 1.0
        return np.where(largest > 0, largest, 1.0)[roots] ** -power

    def _find(self, node):
        while self._parents[node] != node:
            self._parents[node] = self._parents[self._parents[node]]
            node = self._parents[node]
        return node

    def _join(self, one, other):
        low, high = sorted((self._find(one), self._find(other)))
        self._parents[high] = low


def _tie(network):
    ties = _Ties(network)
    made = {tensor for op in network.operators for tensor in op.outputs}
    for tensor in range(len(network)):
        if tensor not in made or tensor in network.outputs:
            ties.fix(tensor)
    for operator in network.operators:
        _tie_operator(ties, network, operator)
    return ties


def _tie_operator(ties, network, operator):
    inputs, (output, *others) = operator.sources, operator.outputs
    kind, homogeneous = operator.kind, operator.activation in ("NONE", "RELU")
    if not homogeneous or others:
        ties.fix(*inputs, output, *others)
    elif operator.is_linear:
        if not _is_plain(network, operator):
            ties.fix(inputs[0], output)
    elif kind in _PASSING and _keeps_channels(network, operator):
        ties.tie(ties.nodes(inputs[0]), ties.nodes(output))
    elif kind == "CONCATENATION":
        joined = [node for tensor in inputs for node in ties.nodes(tensor)]
        ties.tie(joined, ties.nodes(output))
    elif kind == "ADD":
        for tensor in inputs:
            ties.tie(ties.nodes(tensor), ties.nodes(output))
    elif kind == "MUL":  # by a gate, which stays as it is
        free = [t for t in inputs if not ties.is_fixed(t)]
        ties.fix(*free[1:])
        for tensor in free[:1]:
            ties.tie(ties.nodes(tensor), ties.nodes(output))
        if not free:
            ties.fix(output)
    else:
        ties.fix(*inputs, output)


def _keeps_channels(network, operator):
    """Whether the output has the input's channels; a mean may be over them."""
    if operator.kind != "MEAN":
        return True
    image, axes = operator.inputs
    over, rank = network.constant(axes), len(network.shape(image))
    return over is not None and rank - 1 not in over.ravel() % rank


def _is_plain(network, operator):
    """Whether each channel of the input has its own weights in the kernel."""
    source, kernel = operator.inputs[:2]
    if network.constant(kernel) is None:
        return False
    channels = network.shape(source)[-1]
    if operator.kind == "DEPTHWISE_CONV_2D":
        return True
    return network.shape(kernel)[-1] == channels


def _rescale(network, operator, into, made):
    if np.all(into == 1.0) and np.all(made == 1.0):
        return
    tensor = network.own_input(operator, 1)
    kernel = network.constant(tensor)
    if operator.kind == "DEPTHWISE_CONV_2D":
        kernel = kernel * (made / np.repeat(into, len(made) // len(into)))
    else:
        rows = (-1, *(1,) * (kernel.ndim - 1))
        kernel = kernel * np.reshape(made, rows) / into
    network.set_constant(tensor, kernel)
    if len(operator.sources) > 2:
        tensor = network.own_input(operator, 2)
        network.set_constant(tensor, network.constant(tensor) * made)
