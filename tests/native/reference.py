"""The networks branch by branch in PyTorch, in any precision.

As a program, writes `cases.txt`: what `runner.cc` must reproduce.
"""

import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from gnsmall_keras.models import spec
from gnsmall_keras.models.fusion import EPSILON
from gnsmall_keras.native import plan as plans
from gnsmall_keras.native.plan import NetworkPlan, Weight

STAGES = {
    "gns": spec.GNS_STAGES,
    "gns_nogate": spec.GNS_STAGES,
    "gnd": spec.GND_STAGES,
}
CASES = Path(__file__).parent / "cases.txt"
PROJECTIONS = 8


class Case(NamedTuple):
    """One network and batch."""

    network: str = "gns"
    width: float = 0.25
    batch: int = 7
    sides: tuple[int, int] = (16, 16)
    channels: int = 3
    classes: int = 3
    head_units: int = 16

    def plan(self) -> NetworkPlan:
        """Returns the network's plan."""
        stages = STAGES[self.network]
        return NetworkPlan(
            *self.sides,
            self.channels,
            self.classes,
            spec.make_divisible(spec.STEM_CHANNELS * self.width),
            tuple(
                spec.plan_blocks(
                    stages, self.width, gates=self.network != "gns_nogate"
                )
            ),
            spec.make_divisible(stages[-1][-1].hidden * self.width),
            self.head_units,
        )


STORED = (
    Case(),
    Case(width=0.5, batch=65, sides=(16, 24), channels=1, classes=10),
    Case(batch=130, sides=(8, 8), channels=4, head_units=7),
    Case(network="gnd", batch=9, sides=(32, 32)),
)


def numbers(count: int, seed: int) -> np.ndarray:
    """Returns float32 in [-1/2, 1/2), the same as runner.cc's."""
    h = np.arange(count, dtype=np.uint32) + np.uint32(seed * 0x9E3779B9 % 2**32)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        h = (h ^ (h >> np.uint32(shift))) * np.uint32(factor)
    return ((h >> np.uint32(8)) / 2**24 - 0.5).astype(np.float32)


MATRICES = (3, 5), (2, 70, 33), (1, 9), (150, 170)  # as in runner.cc
POLYNOMIAL = 3.4445, -4.775, 2.0315  # Muon's


class Inputs(NamedTuple):
    """What goes into one step and one inference."""

    parameters: np.ndarray
    images: np.ndarray
    grad_logits: np.ndarray
    moving: np.ndarray
    matrices: np.ndarray


def inputs_of(case: Case) -> Inputs:
    """Returns the arrays of `case`, the same as runner.cc's."""
    plan = case.plan()
    shape = (case.batch, plan.height, plan.width, plan.channels)
    grad_logits = numbers(case.batch * plan.classes, 3).reshape(case.batch, -1)
    return Inputs(
        numbers(_count(plans.parameters_of(plan)), 1),
        numbers(int(np.prod(shape)), 2).reshape(shape) * np.float32(4),
        grad_logits / np.float32(case.batch),
        np.abs(numbers(_count(plans.statistics_of(plan)), 4)) + np.float32(0.5),
        numbers(sum(map(math.prod, MATRICES)), 5),
    )


class Outputs(NamedTuple):
    """What the engine must return."""

    logits: np.ndarray
    statistics: np.ndarray
    gradient: np.ndarray
    inferred: np.ndarray
    orthogonal: np.ndarray


def outputs_of(
    case: Case, inputs: Inputs, dtype: torch.dtype = torch.float64
) -> Outputs:
    """Computes every branch by itself."""
    images = torch.tensor(inputs.images, dtype=dtype)
    parameters = torch.tensor(
        inputs.parameters, dtype=dtype, requires_grad=True
    )
    network = _Network(case.plan(), parameters, None)
    logits = network(images)
    logits.backward(torch.tensor(inputs.grad_logits, dtype=dtype))
    with torch.no_grad():
        moving = torch.tensor(inputs.moving, dtype=dtype)
        inferred = _Network(case.plan(), parameters, moving)(images)
    gradient: Any = parameters.grad
    return Outputs(
        *(
            part.detach().double().numpy()
            for part in (
                logits,
                network.statistics(),
                gradient,
                inferred,
                _orthogonal(torch.tensor(inputs.matrices, dtype=dtype)),
            )
        )
    )


def _orthogonal(vector):
    """Five of Newton and Schulz's iterations on each matrix."""
    a, b, c = POLYNOMIAL
    results = []
    sizes = [math.prod(shape) for shape in MATRICES]
    for part, shape in zip(torch.split(vector, sizes), MATRICES, strict=True):
        x = part.reshape(shape)
        x = x / torch.linalg.matrix_norm(x, keepdim=True)
        for _ in range(5):
            square = x @ x.mT
            x = a * x + (b * square + c * square @ square) @ x
        results.append(x.ravel())
    return torch.cat(results)


class _Network:
    def __init__(self, plan, parameters, moving):
        self.plan = plan
        self.weights = _split(parameters, plans.parameters_of(plan))
        self.moving = moving
        if moving is not None:
            self.moving = _split(moving, plans.statistics_of(plan))
        self.found = {}

    def __call__(self, x):
        x = x.permute(0, 3, 1, 2)
        x = functional.relu(self.conv(x, "stem"))
        for block in self.plan.blocks:
            x = self.block(x, block)
        (last,) = (
            layer
            for layer, name in self.weights
            if layer.endswith("_0_conv") and name == "kernel"
        )
        x = functional.relu(self.conv(x, last)).mean((2, 3))
        x = functional.relu(self.dense(x, "head_conv"))
        return self.dense(x, "classifier")

    def block(self, x, block):
        name = block.name
        y = self.ghost(x, f"{name}_ghost1", relu=True)
        if block.gate:
            y = y * self.gate(x, f"{name}_ghost1_gate", y.shape[2:])
        if block.stride == 2:
            y = self.depthwise(y, f"{name}_dw", 2)
        if block.squeeze:
            s = self.dense(y.mean((2, 3)), f"{name}_se_reduce")
            s = self.dense(functional.relu(s), f"{name}_se_expand")
            y = y * functional.hardsigmoid(s)[:, :, None, None]
        y = self.ghost(y, f"{name}_ghost2", relu=False)
        shortcut = f"{name}_shortcut"
        if (f"{shortcut}_dw", "kernel") in self.weights:
            x = self.depthwise(x, f"{shortcut}_dw", block.stride)
            x = self.conv(x, f"{shortcut}_conv")
        return y + x

    def ghost(self, x, name, *, relu):
        primary = self.conv(x, f"{name}_primary")
        primary = functional.relu(primary) if relu else primary
        cheap = self.depthwise(primary, f"{name}_cheap")
        cheap = functional.relu(cheap) if relu else cheap
        return torch.cat([primary, cheap], 1)

    def gate(self, x, name, size):
        x = self.conv(functional.avg_pool2d(x, 2), f"{name}_conv")
        x = self.depthwise(x, f"{name}_row")
        x = self.depthwise(x, f"{name}_column").sigmoid()
        return functional.interpolate(x, size=size, mode="nearest")

    def dense(self, x, name):
        kernel = self.weights[name, "kernel"][0, 0]
        return x @ kernel + self.weights[name, "bias"]

    def conv(self, x, name):
        kernel = self.weights[name, "kernel"]
        values = [
            functional.conv2d(
                x, part.permute(3, 2, 0, 1), padding=part.shape[0] // 2
            )
            for part in kernel
        ]
        return self.norms(values, x, name)

    def depthwise(self, x, name, stride=1):
        kernel = self.weights[name, "kernel"]
        values = [
            functional.conv2d(
                x,
                part.permute(2, 0, 1)[:, None],
                padding=(part.shape[0] // 2, part.shape[1] // 2),
                stride=stride,
                groups=x.shape[1],
            )
            for part in kernel
        ]
        return self.norms(values, x[:, :, ::stride, ::stride], name)

    def norms(self, values, center, name):
        total = 0.0
        for branch, value in enumerate(values):
            total = total + self.norm(value, name, "conv", branch)
        if (name, "scale_kernel") in self.weights:
            scale = self.weights[name, "scale_kernel"][:, None, None]
            total = total + self.norm(center * scale, name, "scale", None)
        if (name, "identity_gamma") in self.weights:
            total = total + self.norm(center, name, "identity", None)
        return total

    def norm(self, x, name, group, branch):
        def pick(weights, suffix):
            found = weights[name, f"{group}_{suffix}"]
            return found if branch is None else found[branch]

        affine = pick(self.weights, "gamma"), pick(self.weights, "beta")
        if self.moving is not None:
            moments = (
                pick(self.moving, "moving_mean"),
                pick(self.moving, "moving_variance"),
            )
            return functional.batch_norm(
                x, *moments, *affine, training=False, eps=EPSILON
            )
        with torch.no_grad():
            for suffix, value in (
                ("mean", x.mean((0, 2, 3))),
                ("variance", x.var((0, 2, 3))),
            ):
                key = name, f"{group}_moving_{suffix}"
                self.found.setdefault(key, []).append(value)
        return functional.batch_norm(
            x, None, None, *affine, training=True, eps=EPSILON
        )

    def statistics(self):
        """The batch's, in the engine's order."""
        weights = plans.statistics_of(self.plan)
        return torch.cat(
            [part for w in weights for part in self.found[w.layer, w.name]]
        )


def _split(vector, weights: tuple[Weight, ...]) -> dict:
    parts = torch.split(vector, [int(np.prod(w.shape)) for w in weights])
    return {
        (w.layer, w.name): part.reshape(w.shape)
        for w, part in zip(weights, parts, strict=True)
    }


def _count(weights: tuple[Weight, ...]) -> int:
    return sum(int(np.prod(weight.shape)) for weight in weights)


def _project(vector: np.ndarray) -> list[float]:
    """Scalar products with a few vectors of `numbers`, then its length."""
    found = [
        float(vector @ numbers(vector.size, 100 + seed).astype(float))
        for seed in range(PROJECTIONS)
    ]
    return [*found, float(np.linalg.norm(vector))]


def write_cases(file) -> None:
    """Writes the stored cases: a line of whole numbers, five of results."""
    for case in STORED:
        plan = case.plan()
        outputs = outputs_of(case, inputs_of(case))
        sizes = [case.batch, len(plan.blocks), *plans.numbers_of(plan)]
        print(*sizes, file=file)
        for vector in outputs:
            print(*(f"{v:.9e}" for v in _project(vector.ravel())), file=file)


if __name__ == "__main__":
    with CASES.open("w") if len(sys.argv) < 2 else sys.stdout as out:
        write_cases(out)
