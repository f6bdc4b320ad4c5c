"""An int8 file as C for a Cortex-M without an interpreter, on CMSIS-NN.

It is a second witness: kernels of the chip, not TensorFlow Lite Micro's
reference, in a program for its instruction set. The C that it calls is
tflite/micro/cmsis_nn/.
"""

import math
from typing import NamedTuple

import numpy as np

from gnsmall_keras.devices.cmsis_nn.arena import plan_arena
from gnsmall_keras.export.graph import Graph

_HEADER = """\
#ifndef NETWORK_H_
#define NETWORK_H_

#include <stdint.h>

#define INPUT_BYTES {inputs}
#define OUTPUT_BYTES {outputs}
#define ARENA_BYTES {arena}

void RunNetwork(const int8_t* pixels, int8_t* scores);

#endif  // NETWORK_H_
"""
_SOURCE = """\
#include "network.h"

#include <string.h>

#include "kernels.h"

static int8_t g_arena[ARENA_BYTES] __attribute__((aligned(16)));

{constants}

void RunNetwork(const int8_t* pixels, int8_t* scores) {{
  memcpy({first}, pixels, INPUT_BYTES);
{calls}
  memcpy(scores, {last}, OUTPUT_BYTES);
}}
"""
_LEFT_SHIFT = 20  # of sums, as LiteRT has it
_LONGEST_SHIFT = 31


class Sources(NamedTuple):
    """A network's C, and the memory of its images."""

    header: str
    source: str
    arena_bytes: int


def write_sources(data: bytes) -> Sources:
    """Returns network.h and network.c of an int8 file.

    Args:
        data: of a .tflite file.

    Raises:
        ValueError: if it has an operator, an option or a type of tensors that
            is not known here.
    """
    return _Writer(Graph(data)).write()


def quantize_multiplier(value: float) -> tuple[int, int]:
    """Returns LiteRT's fixed-point form: multiplier / 2**31 * 2**shift."""
    if value == 0.0:
        return 0, 0
    fraction, shift = math.frexp(value)
    multiplier = math.floor(fraction * 2**31 + 0.5)
    if multiplier == 2**31:
        multiplier, shift = 2**30, shift + 1
    return (0, 0) if shift < -_LONGEST_SHIFT else (multiplier, shift)


class _Writer:
    def __init__(self, graph):
        self._graph, self._shape = graph, graph.shape
        self._operators = graph.operators
        self._constants = []
        sizes, lifetimes = {}, {}
        for step, operator in enumerate(self._operators):
            for tensor in (*operator.sources, *operator.outputs):
                constant = graph.constant(tensor) is not None
                _check_type(operator, graph.dtype(tensor), constant=constant)
                if constant:
                    continue
                sizes[tensor] = math.prod(self._shape(tensor))
                first, _ = lifetimes.get(tensor, (step, step))
                lifetimes[tensor] = (first, step)
        self._input = graph.inputs[0]
        self._output = graph.outputs[0]
        self._sizes = sizes
        self._offsets, self._arena = plan_arena(lifetimes, sizes)

    def write(self):
        calls = [
            self._call(number, operator)
            for number, operator in enumerate(self._operators)
        ]
        header = _HEADER.format(
            inputs=self._sizes[self._input],
            outputs=self._sizes[self._output],
            arena=self._arena,
        )
        source = _SOURCE.format(
            constants="\n".join(self._constants),
            first=self._place(self._input),
            last=self._place(self._output),
            calls="\n".join(f"  {call}" for call in calls),
        )
        return Sources(header, source, self._arena)

    def _call(self, number, operator):
        write = {
            "CONV_2D": self._conv,
            "DEPTHWISE_CONV_2D": self._conv,
            "AVERAGE_POOL_2D": self._pool,
            "ADD": self._binary,
            "MUL": self._binary,
            "CONCATENATION": self._concat,
            "LOGISTIC": self._table,
            "RESIZE_NEAREST_NEIGHBOR": self._resize,
            "MEAN": self._mean,
            "FULLY_CONNECTED": self._dense,
            "RESHAPE": self._copy,
        }.get(operator.kind)
        if write is None:
            _refuse(operator, "no such operator is known here")
        return write(number, operator)

    def _conv(self, number, operator):
        image, kernel, bias = self._weighted(operator)
        (out,) = operator.outputs
        options = operator.options
        if options.dilationHFactor != 1 or options.dilationWFactor != 1:
            _refuse(operator, "its kernel must not be dilated")
        channels = self._shape(image)[-1]
        plain = operator.kind == "CONV_2D"
        if plain and self._shape(kernel)[-1] != channels:
            _refuse(operator, "it must not have groups of channels")
        weights = self._weights(number, image, kernel, bias, out)
        window = self._shape(kernel)[1:3]
        self._describe_window(number, operator, window, weights)
        name = "RunConv" if plain else "RunDepthwise"
        return f"{name}(&o{number}, {self._place(image)}, {self._place(out)});"

    def _weighted(self, operator):
        """An operator's image, kernel and bias; the last two are constants."""
        image, *constants = operator.sources
        values = map(self._graph.constant, constants)
        if len(constants) != 2 or any(each is None for each in values):
            _refuse(operator, "it must have a constant kernel and bias")
        return image, *constants

    def _weights(self, number, image, kernel, bias, out):
        """Writes the arrays of a kernel; returns how `Conv` names them."""
        graph = self._graph
        channels = self._shape(out)[-1]
        scales = np.broadcast_to(graph.scales(kernel), channels)
        pairs = [
            quantize_multiplier(
                graph.scale(image) * float(scale) / graph.scale(out)
            )
            for scale in scales
        ]
        self._array("int8_t", f"k{number}", graph.constant(kernel))
        self._array("int32_t", f"b{number}", graph.constant(bias))
        self._array("int32_t", f"m{number}", [pair[0] for pair in pairs])
        self._array("int32_t", f"s{number}", [pair[1] for pair in pairs])
        return (
            f".weights = k{number}, .bias = b{number}, "
            f".multipliers = m{number}, .shifts = s{number}"
        )

    def _dense(self, number, operator):
        """Of one pixel, as a convolution."""
        image, kernel, bias = self._weighted(operator)
        (out,) = operator.outputs
        units, channels = self._shape(kernel)
        if self._sizes[image] != channels:
            _refuse(operator, "its input must be one pixel")
        weights = self._weights(number, image, kernel, bias, out)
        low, high = self._limits(operator)
        self._constants.append(
            f"static const Conv o{number} = {{.in = {{1, 1, {channels}}}, "
            f".out = {{1, 1, {units}}}, .kernel_height = 1, "
            f".kernel_width = 1, .stride = 1, "
            f".in_zero = {self._graph.zero_point(image)}, "
            f".out_zero = {self._graph.zero_point(out)}, .low = {low}, "
            f".high = {high}, {weights}}};"
        )
        return f"RunConv(&o{number}, {self._place(image)}, {self._place(out)});"

    def _copy(self, number, operator):
        image, out = operator.inputs[0], operator.outputs[0]
        return (
            f"memcpy({self._place(out)}, {self._place(image)}, "
            f"{self._sizes[out]});"
        )

    def _pool(self, number, operator):
        options = operator.options
        image, out = operator.inputs[0], operator.outputs[0]
        if not self._same_scale(image, out):
            _refuse(operator, "its output must have its input's scale")
        window = options.filterHeight, options.filterWidth
        self._describe_window(number, operator, window)
        return (
            f"RunAveragePool(&o{number}, {self._place(image)}, "
            f"{self._place(out)});"
        )

    def _describe_window(self, number, operator, window, more=""):
        image, out = operator.inputs[0], operator.outputs[0]
        options = operator.options
        if options.strideH != options.strideW:
            _refuse(operator, "its strides must be equal")
        sides, made = self._shape(image)[1:3], self._shape(out)[1:3]
        same = operator.padding == "SAME"
        top, left = (
            max((to - 1) * options.strideH + taps - side, 0) // 2 * same
            for side, to, taps in zip(sides, made, window, strict=True)
        )
        low, high = self._limits(operator)
        self._constants.append(
            f"static const Conv o{number} = {{.in = {self._c_shape(image)}, "
            f".out = {self._c_shape(out)}, .kernel_height = {window[0]}, "
            f".kernel_width = {window[1]}, .stride = {options.strideH}, "
            f".pad_top = {top}, .pad_left = {left}, "
            f".in_zero = {self._graph.zero_point(image)}, "
            f".out_zero = {self._graph.zero_point(out)}, .low = {low}, "
            f".high = {high}, {more}}};"
        )

    def _binary(self, number, operator):
        graph, kind = self._graph, operator.kind
        (out,) = operator.outputs
        if not self._sizes.keys() >= {*operator.inputs}:
            _refuse(operator, "none of its operands may be a constant")
        pair = sorted(operator.inputs, key=lambda each: -self._sizes[each])
        shape, part, made = map(self._shape, (*pair, out))
        spread, channels = shape != part, made[-1]
        first, second, to = map(graph.scale, (*pair, out))
        one_each = math.prod(part) == part[-1] == channels and shape == made
        if spread and kind == "ADD":
            _refuse(operator, "its operands must have one shape")
        if spread and not one_each:
            _refuse(
                operator,
                "its operands must have one shape, or one be of a value a "
                "channel",
            )
        scales = [(0, 0), (0, 0)]
        if kind == "ADD":
            most = 2.0 * max(first, second)
            scales = [
                quantize_multiplier(each / most) for each in (first, second)
            ]
            whole = quantize_multiplier(most / (2**_LEFT_SHIFT * to))
        else:
            whole = quantize_multiplier(first * second / to)
        low, high = self._limits(operator)
        zeros = ", ".join(str(graph.zero_point(each)) for each in pair)
        scaled = ", ".join(f"{{{one}, {two}}}" for one, two in scales)
        self._constants.append(
            f"static const Binary o{number} = {{.size = {self._sizes[out]}, "
            f".channels = {channels}, .zeros = {{{zeros}}}, "
            f".out_zero = {graph.zero_point(out)}, .low = {low}, "
            f".high = {high}, .spread = {int(spread)}, "
            f".scales = {{{scaled}}}, "
            f".out_scale = {{{whole[0]}, {whole[1]}}}}};"
        )
        places = ", ".join(map(self._place, (*pair, out)))
        return f"Run{kind.title()}(&o{number}, {places});"

    def _concat(self, number, operator):
        (out,) = operator.outputs
        parts = operator.inputs
        axis = operator.options.axis % len(self._shape(out))
        images = len(parts) == 2 and self._sizes.keys() >= {*parts}
        if not images or axis != len(self._shape(out)) - 1:
            _refuse(operator, "it must join two images along their channels")
        if not all(self._same_scale(part, out) for part in parts):
            _refuse(operator, "its output must have its inputs' scale")
        pixels = math.prod(self._shape(out)[:-1])
        given = ", ".join(
            f"{self._shape(part)[-1]}, {self._place(part)}" for part in parts
        )
        return f"RunConcat({pixels}, {given}, {self._place(out)});"

    def _table(self, number, operator):
        image, out = operator.inputs[0], operator.outputs[0]
        graph = self._graph
        if (graph.scale(out), graph.zero_point(out)) != (1 / 256, -128):
            _refuse(operator, "its output must have the scale 1/256")
        values = np.arange(-128, 128) - graph.zero_point(image)
        sigmoid = 1.0 / (1.0 + np.exp(-graph.scale(image) * values))
        table = np.clip(np.floor(256.0 * sigmoid + 0.5) - 128, -128, 127)
        self._array("int8_t", f"t{number}", table.astype(int))
        return (
            f"RunTable({self._sizes[out]}, t{number}, {self._place(image)}, "
            f"{self._place(out)});"
        )

    def _resize(self, number, operator):
        image, out = operator.inputs[0], operator.outputs[0]
        sides, made = self._shape(image)[1:3], self._shape(out)[1:3]
        if any(to % side for side, to in zip(sides, made, strict=True)) or (
            operator.options.alignCorners
        ):
            _refuse(operator, "it must repeat whole pixels")
        self._constants.append(
            f"static const Shape o{number} = {self._c_shape(image)};"
        )
        return (
            f"RunResize(&o{number}, {made[0] // sides[0]}, "
            f"{made[1] // sides[1]}, {self._place(image)}, {self._place(out)});"
        )

    def _mean(self, number, operator):
        graph = self._graph
        image, out = operator.inputs[0], operator.outputs[0]
        axes = graph.constant(operator.inputs[1])
        if axes is None or sorted(axes.ravel().tolist()) != [1, 2]:
            _refuse(operator, "it must be over an image's pixels")
        multiplier, shift = quantize_multiplier(
            graph.scale(image) / graph.scale(out)
        )
        pixels = math.prod(self._shape(image)[1:3])
        further = min(pixels.bit_length() - 1, 32, 31 + shift)
        multiplier, shift = (multiplier << further) // pixels, shift - further
        self._constants.append(
            f"static const Shape o{number} = {self._c_shape(image)};\n"
            f"static const Scale s{number} = {{{multiplier}, {shift}}};"
        )
        return (
            f"RunMean(&o{number}, {graph.zero_point(image)}, "
            f"{graph.zero_point(out)}, &s{number}, {self._place(image)}, "
            f"{self._place(out)});"
        )

    def _limits(self, operator):
        """The least and the most that an operator's activation lets pass."""
        activation = operator.activation
        if activation not in ("NONE", "RELU"):
            _refuse(operator, f"{activation} is not known")
        zero_point = self._graph.zero_point(operator.outputs[0])
        return (max(-128, zero_point) if activation == "RELU" else -128), 127

    def _same_scale(self, one, other):
        return all(
            of(one) == of(other)
            for of in (self._graph.scale, self._graph.zero_point)
        )

    def _c_shape(self, tensor):
        return "{" + ", ".join(map(str, self._shape(tensor)[1:])) + "}"

    def _place(self, tensor):
        return f"g_arena + {self._offsets[tensor]}"

    def _array(self, kind, name, values):
        text = ", ".join(map(str, np.asarray(values).ravel().tolist()))
        self._constants.append(f"static const {kind} {name}[] = {{{text}}};")


def _check_type(operator, dtype, *, constant):
    """Of a tensor; constant biases, axes and shapes are INT32."""
    if dtype != "INT8" and not (constant and dtype == "INT32"):
        raise ValueError(
            "C on CMSIS-NN is made of files whose tensors are all INT8. "
            f"Received: {operator.kind}: a tensor of {dtype}. Export the "
            "network with --target micro --quantization int8, without "
            "--float-layers."
        )


def _refuse(operator, reason):
    raise ValueError(
        f"C on CMSIS-NN is made of operators of GN-S's and ResNet-8's. "
        f"Received: {operator.kind}: {reason}. Run the file on TensorFlow "
        "Lite Micro: gnsmall c-array."
    )
