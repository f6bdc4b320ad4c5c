"""Kernels of a training step on an H100, counted without one, on JAX.

Usage: pip install "jax[cuda13]"
       KERAS_BACKEND=jax JAX_PLATFORMS=cpu JAX_SKIP_CUDA_CONSTRAINTS_CHECK=1 \
           python benchmarks/gpu_kernels.py [batch] [width] [recipe] [runs ...]

XLA compiles for a GPU that is described to it. Of the step of GN-S, for what is
done at once on GPUs (branches, and matrices of Muon) and for the ways of CPUs
in both (docs/adr/0011): kernels by kind, what they read and write, seconds to
compile. With numbers of runs, such as 1 8: of a step in the loop of a chunk,
for so many runs in one program (docs/adr/0026). Products of matrices and
convolutions are chosen without trying them, which on a GPU would make the step
several times slower than it is (docs/log.md); their number is right. Minutes on
a CPU.
"""

import collections
import importlib.metadata
import math
import os
import re
import sys
import time

import numpy as np
from branches_at_once import WAYS, state_of

from gnsmall_keras import ghostnetv3_small
from gnsmall_keras.data.batches import TrainingBatches
from gnsmall_keras.distill.distiller import Distiller
from gnsmall_keras.models import kernels
from gnsmall_keras.recipes import RECIPES
from gnsmall_keras.training.devices import on_devices
from gnsmall_keras.training.fit import compile_model
from gnsmall_keras.training.scan import programs
from gnsmall_keras.training.scan.images import Shape
from gnsmall_keras.training.scan.plan import (
    chunk_length,
    pixel_values,
    plan_epoch,
)

# NVIDIA's numbers of an H100 SXM.
_H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  memory_bandwidth: 3352320000000 device_memory_size: 84942979072
  l2_cache_size: 52428800
  threads_per_warp: 32 threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  device_address_bits: 64
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 }
runtime_version { major: 13 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
_FLAGS = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}
_BYTES = {"pred": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4}
_LINE = re.compile(r"\s+(?:ROOT )?%(\S+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_NO_KERNELS = {"parameter", "constant", "bitcast", "tuple", "get-tuple-element"}


def on_h100():
    """Returns what describes an array there, `lead` being axes in front."""
    import jax
    from jax.experimental import topologies

    target = topologies.get_topology_desc(
        platform="cuda", target_config=_H100, topology="1x1x1"
    )
    sharding = jax.sharding.SingleDeviceSharding(target.devices[0])

    def described(array, lead=()):
        shape = (*lead, *array.shape)
        return jax.ShapeDtypeStruct(shape, array.dtype, sharding=sharding)

    return described


def compile_step(batch_size: int, width: float, recipe: str) -> str:
    """Returns the optimised program of the way that is set, as text."""
    import jax

    described = on_h100()
    model = ghostnetv3_small(width)
    compile_model(model, RECIPES[recipe], steps=39_200)
    batch = (
        np.zeros((batch_size, 32, 32, 3), np.float32),
        np.zeros((batch_size,), np.int32),
    )
    lowered = jax.jit(model.train_step, donate_argnums=0).lower(
        *jax.tree.map(described, (state_of(model), batch))
    )
    return lowered.compile(compiler_options=_FLAGS).as_text()


def compile_chunk(
    batch_size: int, width: float, recipe: str, runs: int
) -> tuple[str, float]:
    """Returns a chunk's program for so many runs, and seconds to compile it."""
    import jax

    described = on_h100()
    model = Distiller(ghostnetv3_small(width), kernels="keras")
    compile_model(model, RECIPES[recipe], steps=39_200)
    lead = (runs,) if runs > 1 else ()

    def of_each(tree):
        return jax.tree.map(lambda array: described(array, lead), tree)

    images, steps = 45_000, 45_000 // batch_size
    batches = TrainingBatches(
        np.zeros((batch_size, 32, 32, 3), np.uint8),
        np.zeros(batch_size, np.int32),
        batch_size=batch_size,
        seed=0,
    )
    plan = {
        name: np.broadcast_to(values[0], (steps, *values[0].shape))
        for name, values in plan_epoch(batches, 0)[0].items()
    }
    shared = {
        "images": np.broadcast_to(np.uint8(0), (50_000, 40, 40, 3)),
        "labels": np.zeros(50_000, np.int32),
        "values": pixel_values(3),
    }
    own = {}
    if runs > 1:
        own = {
            "rows": np.zeros(images, np.int32),
            "peak_learning_rate": np.float32(0),
            "label_smoothing": np.float32(0),
        }
    lowered = programs.Programs(model, runs=runs).train.lower(
        of_each(programs.state_of(model)),
        [],
        jax.tree.map(described, shared) | of_each(own),
        of_each(plan),
        0,
        shape=Shape(32, 32, 10),
        length=chunk_length(steps),
    )
    began = time.perf_counter(), _processor_seconds()
    program = lowered.compile(compiler_options=_FLAGS).as_text()
    print(f"{_processor_seconds() - began[1]:.0f} s of processors to compile")
    return program, time.perf_counter() - began[0]


def _processor_seconds():
    """Of this process, and of the assemblers that it started and awaited."""
    used = os.times()
    return sum(used[:4])


def body_of(program: str) -> str:
    """Returns what is done in each turn of the longest loop."""
    names = re.findall(r"body=%([\w.\-]+)", program)
    bodies = []
    for name in names:
        begin = program.index(f"\n%{name} ")
        bodies.append(program[begin : program.index("\n}", begin)])
    return max(bodies, key=len)


def count(program: str) -> tuple[collections.Counter, float]:
    """Returns the kernels by kind, and the bytes they read and write.

    What gathers, of all images or of a table, reads as much as it writes.
    """
    found, sizes, moved = collections.Counter(), {}, 0
    for line in program.splitlines():
        match = _LINE.match(line)
        if not match:
            continue
        name, shape, kind, rest = match.groups()
        sizes[name] = _size(shape)
        if kind in _NO_KERNELS:
            continue
        target = re.search(r'custom_call_target="([^"]+)"', line)
        found[target[1].strip("_") if target else kind] += 1
        read = re.findall(r"%([\w.\-]+)", rest.split("), ")[0])
        most = sizes[name] if "gather" in name else math.inf
        reads = (min(sizes.get(other, 0), most) for other in read)
        moved += sizes[name] + sum(reads)
    return found, moved


def _size(shape):
    """Bytes of all arrays; s8 is the room that products of matrices have."""
    return sum(
        _BYTES.get(dtype, 0) * math.prod(map(int, filter(None, sides)))
        for dtype, text in re.findall(r"(\w+)\[([\d,]*)\]", shape)
        for sides in [text.split(",")]
    )


def count_steps(batch: int, width: float, recipe: str) -> None:
    """Prints what a step by itself has, both ways."""
    for way, at_once in WAYS.items():
        kernels.is_jax_on_gpu = lambda at_once=at_once: at_once
        began = time.perf_counter()
        program = compile_step(batch, width, recipe)
        seconds = time.perf_counter() - began
        show(way, program[program.index("\nENTRY") :], seconds)


def count_chunks(batch: int, width: float, recipe: str, runs: list) -> None:
    """Prints what a step in a loop has, for each number of runs."""
    kernels.is_jax_on_gpu = lambda: True
    for number in runs:
        program, seconds = compile_chunk(batch, width, recipe, number)
        show(f"{number} in a loop", body_of(program), seconds, number)


def show(title: str, text: str, seconds: float, runs: int = 1) -> None:
    """Prints what a part of a program has."""
    kinds, moved = count(text)
    listed = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
    print(
        f"{title}: {kinds.total()} kernels, {moved / runs / 1e9:.2f} GB a run, "
        f"{seconds:.0f} s; {listed}",
        flush=True,
    )


if __name__ == "__main__":
    given, defaults = sys.argv[1:], ["256", "1.0", "paper"]
    batch, width, recipe = [*given[:3], *defaults[len(given) :]]
    version = importlib.metadata.version("jax")
    print(
        f"GN-S {width}, {batch} images, recipe {recipe}, for an H100, "
        f"JAX {version}"
    )
    with on_devices():
        if given[3:]:
            runs = [int(number) for number in given[3:]]
            count_chunks(int(batch), float(width), recipe, runs)
        else:
            count_steps(int(batch), float(width), recipe)
