"""Kernels of a training step on an H100, counted without one, on JAX.

Usage: pip install "jax[cuda13]"
       KERAS_BACKEND=jax JAX_PLATFORMS=cpu JAX_SKIP_CUDA_CONSTRAINTS_CHECK=1 \
           python benchmarks/gpu_kernels.py [batch] [width] [recipe]

XLA compiles for a GPU that is described to it. Of the step of GN-S, for what is
done at once on GPUs (branches, and matrices of Muon) and for the ways of CPUs
in both (docs/adr/0011): kernels by kind, what they read and write, seconds to
compile. Products of matrices and convolutions are chosen without trying them,
which on a GPU would make the step several times slower than it is
(docs/log.md); their number is right. Minutes on a CPU.
"""

import collections
import importlib.metadata
import math
import re
import sys
import time

import numpy as np
from branches_at_once import WAYS, state_of

from gnsmall_keras import ghostnetv3_small
from gnsmall_keras.models import kernels
from gnsmall_keras.recipes import RECIPES
from gnsmall_keras.training.devices import on_devices
from gnsmall_keras.training.fit import compile_model

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


def compile_step(batch_size: int, width: float, recipe: str) -> str:
    """Returns the optimised program of the way that is set, as text."""
    import jax
    from jax.experimental import topologies

    target = topologies.get_topology_desc(
        platform="cuda", target_config=_H100, topology="1x1x1"
    )
    sharding = jax.sharding.SingleDeviceSharding(target.devices[0])

    def described(array):
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

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


def count(program: str) -> tuple[collections.Counter, float]:
    """Returns the kernels by kind, and the bytes they read and write."""
    found, sizes, moved = collections.Counter(), {}, 0
    for line in program[program.index("\nENTRY") :].splitlines():
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
        moved += sizes[name] + sum(sizes.get(other, 0) for other in read)
    return found, moved


def _size(shape):
    """Bytes of all arrays; s8 is the room that products of matrices have."""
    return sum(
        _BYTES.get(dtype, 0) * math.prod(map(int, filter(None, sides)))
        for dtype, text in re.findall(r"(\w+)\[([\d,]*)\]", shape)
        for sides in [text.split(",")]
    )


if __name__ == "__main__":
    defaults = "256", "1.0", "paper"
    batch, width, recipe = [*sys.argv[1:], *defaults[len(sys.argv) - 1 :]]
    version = importlib.metadata.version("jax")
    print(
        f"GN-S {width}, {batch} images, recipe {recipe}, for an H100, "
        f"JAX {version}"
    )
    with on_devices():
        for way, at_once in WAYS.items():
            kernels.is_jax_on_gpu = lambda at_once=at_once: at_once
            began = time.perf_counter()
            program = compile_step(int(batch), float(width), recipe)
            kinds, moved = count(program)
            total = kinds.total()
            kinds = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
            print(
                f"{way}: {total} kernels, {moved / 1e9:.2f} GB, "
                f"{time.perf_counter() - began:.0f} s; {kinds}",
                flush=True,
            )
