"""An int8 file on an emulated Cortex-M4: its integers, instructions, memory."""

import dataclasses
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from gnsmall_keras.devices.cmsis_nn import write_sources
from gnsmall_keras.devices.engines import read_file
from gnsmall_keras.devices.runtime import TFLiteModel

COMPILER, EMULATOR = "arm-none-eabi-gcc", "qemu-system-arm"
_KERNELS = Path(__file__).parents[2] / "tflite/micro/cmsis_nn"
_PROCESSOR = (
    "-mcpu=cortex-m4",
    "-mthumb",
    "-mfpu=fpv4-sp-d16",
    "-mfloat-abi=hard",
)
_FLAGS = (
    "-std=gnu11",
    "-O3",
    "-ffunction-sections",
    "-fdata-sections",
    "-Wl,--gc-sections",
    "--specs=rdimon.specs",
    "--specs=nano.specs",
    "-nostartfiles",
)
_MACHINE = (
    "-machine",
    "mps2-an386",
    "-nographic",
    "-monitor",
    "none",
    "-serial",
    "none",
    "-semihosting",
    "-icount",
    "shift=0",
)
_PARTS = ("cmsis_nn", "cmsis_core")
_MOST_SECONDS = 600


@dataclasses.dataclass(frozen=True)
class CortexMRun:
    """What a file did on an emulated Cortex-M4.

    Attributes:
        scores: the file's own output values, int8 `(n, classes)`.
        instructions: of each image, to 40; the emulator counts instructions,
            not cycles.
        code_bytes: of flash, without the weights.
        arena_bytes: for the images between operators.
        scratch_bytes: that CMSIS-NN takes beside it.
    """

    scores: np.ndarray
    instructions: list[int]
    code_bytes: int
    arena_bytes: int
    scratch_bytes: int


def missing_tools() -> list[str]:
    """Returns what is to be installed before `run_on_cortex_m`, if anything."""
    missing = []
    if not shutil.which(COMPILER):
        missing.append(
            "apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi"
        )
    if not shutil.which(EMULATOR):
        missing.append("apt-get install qemu-system-arm")
    if importlib.util.find_spec("bakenn") is None:
        missing.append("pip install 'gnsmall-keras[mcu]'")
    return missing


def run_on_cortex_m(path: str | os.PathLike, images: np.ndarray) -> CortexMRun:
    """Builds a file for a Cortex-M4 with CMSIS-NN and runs it in QEMU.

    The program has no interpreter: `cmsis_nn.write_sources` calls CMSIS-NN's
    kernels, which the package bakenn brings.

    Args:
        path: of an int8 .tflite file, as `--target micro` writes it.
        images: raw pixels, uint8 `(n, height, width, 3)`.

    Raises:
        ValueError: if a tool is missing, the file has other operators than
            GN-S, or the program fails.
    """
    missing = missing_tools()
    if missing:
        raise ValueError(
            "An emulated Cortex-M4 needs a compiler, an emulator and CMSIS-NN. "
            f"Run: {'; '.join(missing)}."
        )
    if not _KERNELS.is_dir():
        raise ValueError(
            "The program's C is in a checkout of gnsmall_keras. Received: "
            f"none at {_KERNELS}. Run it there."
        )
    data = read_file(path)
    model = TFLiteModel(path, runtime="litert-reference")
    if model.dtypes != ("int8", "int8"):
        raise ValueError(
            "A microcontroller's file takes and returns int8. Received: "
            f"{model.dtypes}. Export with --target micro --quantization int8."
        )
    if images.dtype != np.uint8 or images.shape[1:] != model.input_shape[1:]:
        raise ValueError(
            f"`images` must be uint8 of shape (n, *{model.input_shape[1:]}). "
            f"Received: {images.dtype} {images.shape}."
        )
    sources = write_sources(data)
    with tempfile.TemporaryDirectory(prefix="gnsmall-") as folder:
        work = Path(folder)
        (work / "network.h").write_text(sources.header)
        (work / "network.c").write_text(sources.source)
        (work / "images.bin").write_bytes((images ^ 0x80).tobytes())
        program = _build(work)
        told = _emulate(program)
        scores = np.fromfile(work / "scores.bin", np.int8)
        weights = _object_data(work)
        text = _sections(program)
    return CortexMRun(
        scores=scores.reshape(len(images), model.classes),
        instructions=[
            int(count) for count in re.findall(r"instructions (\d+)", told)
        ],
        code_bytes=text - weights,
        arena_bytes=sources.arena_bytes,
        scratch_bytes=int(re.findall(r"scratch (\d+)", told)[-1]),
    )


def _vendor():
    """CMSIS-NN's sources and the core's headers; bakenn's licences apply."""
    found = importlib.util.find_spec("bakenn")
    return Path(found.origin).parent / "backend/cmsis_nn/vendor"


def _build(work):
    vendor = _vendor()
    command = [COMPILER, *_PROCESSOR, *_FLAGS]
    command += [f"-I{work}", f"-I{_KERNELS}"]
    command += [f"-I{vendor / part}/Include" for part in _PARTS]
    command += [f"-T{_KERNELS / 'mps2_an386.ld'}"]
    command += map(str, sorted(_KERNELS.glob("*.c")))
    # Without its own memcpy: newlib has one.
    command += [
        str(file)
        for file in sorted((vendor / "cmsis_nn/Source").rglob("*.c"))
        if not file.name.startswith("bakenn")
    ]
    _run([*command, str(work / "network.c"), "-o", "program.elf"], work)
    return work / "program.elf"


def _emulate(program):
    return _run([EMULATOR, *_MACHINE, "-kernel", str(program)], program.parent)


def _run(command, folder):
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_MOST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"{command[0]} did not end within {_MOST_SECONDS} s. Give fewer "
            "images."
        ) from None
    if done.returncode:
        lines = " | ".join(done.stderr.splitlines()[-5:])
        raise ValueError(
            f"{command[0]} ended with status {done.returncode}: {lines}"
        )
    return done.stdout


def _sections(program):
    """Bytes of flash: code, constants and the values that RAM begins with."""
    told = _run(["arm-none-eabi-size", str(program)], program.parent)
    text, data = told.splitlines()[1].split()[:2]
    return int(text) + int(data)


def _object_data(work):
    """Bytes of the network's constants."""
    command = [COMPILER, *_PROCESSOR, "-std=gnu11", "-O3", f"-I{work}"]
    command += [f"-I{_KERNELS}", "-c", str(work / "network.c")]
    _run([*command, "-o", "network.o"], work)
    told = _run(["arm-none-eabi-size", "-A", "network.o"], work)
    return sum(
        int(size)
        for name, size in re.findall(r"^\.(\S+)\s+(\d+)", told, re.M)
        if name.startswith("rodata")
    )
