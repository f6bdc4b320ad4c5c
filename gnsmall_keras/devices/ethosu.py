"""What Arm's Ethos-U makes of an int8 file, as Arm's compiler Vela says."""

import csv
import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from gnsmall_keras.devices.engines import read_file

_KILO = 1024
_CONFIG = "Arm/vela.ini"  # of the package
# System and memory as the package's file has them, and its own defaults.
_U55 = ("Ethos_U55_High_End_Embedded", "Shared_Sram")
_SYSTEMS = {
    "ethos-u55-128": _U55,
    "ethos-u55-256": _U55,
    "ethos-u65-256": ("Ethos_U65_Client_Server", "Dedicated_Sram_384KB"),
    "ethos-u85-256": ("Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram_384KB"),
}
ACCELERATORS = tuple(_SYSTEMS)


@dataclasses.dataclass(frozen=True)
class EthosUReport:
    """A file on one Ethos-U, by Vela's model of it; nothing was run.

    Attributes:
        accelerator: such as "ethos-u55-128": 128 multiply-accumulates a cycle.
        system: Vela's system configuration: clock and bandwidths.
        npu_operators: that the accelerator runs, as Vela splits the file's.
        cpu_operators: that are left to the processor, by name.
        sram_bytes: working memory.
        cycles: of one image, memory's included.
        inferences_per_second: at the configuration's clock.
        version: of Vela.
    """

    accelerator: str
    system: str
    npu_operators: int
    cpu_operators: list[str]
    sram_bytes: int
    cycles: int
    inferences_per_second: float
    version: str

    def __str__(self) -> str:
        """One line, which says that it is Vela's model."""
        return (
            f"{self.npu_operators} operators on the NPU, "
            f"{len(self.cpu_operators)} on the CPU; {self.sram_bytes:,} bytes "
            f"of SRAM, {self.cycles:,} cycles, "
            f"{self.inferences_per_second:,.0f} inferences/s (Vela "
            f"{self.version}'s model of {self.system}; not run)"
        )


def find_vela() -> str | None:
    """Returns the path of Arm's compiler, None where it is not installed."""
    beside = Path(sys.executable).parent
    return shutil.which("vela", path=os.fspath(beside)) or shutil.which("vela")


def map_to_ethosu(path: str | os.PathLike, accelerator: str) -> EthosUReport:
    """Compiles a file for an Ethos-U and returns what Vela says of it.

    Args:
        path: of an int8 .tflite file.
        accelerator: one of `ACCELERATORS`.

    Raises:
        ValueError: if the accelerator is unknown, Vela is not installed, or it
            refuses the file.
    """
    if accelerator not in _SYSTEMS:
        raise ValueError(
            f"`accelerator` must be one of {ACCELERATORS}. "
            f"Received: {accelerator!r}."
        )
    vela = find_vela()
    if vela is None:
        raise ValueError(
            "Files are compiled for Ethos-U by Vela, which is not installed. "
            "Run: pip install 'gnsmall-keras[vela]'"
        )
    data = read_file(path)
    system, memory = _SYSTEMS[accelerator]
    with tempfile.TemporaryDirectory(prefix="gnsmall-") as folder:
        work = Path(folder)
        (work / "model.tflite").write_bytes(data)
        told = _run(
            [
                vela,
                *("--accelerator-config", accelerator),
                *("--config", _CONFIG),
                *("--system-config", system),
                *("--memory-mode", memory),
                *("--output-dir", folder),
                "--show-cpu-operations",
                os.fspath(work / "model.tflite"),
            ],
            path,
        )
        (summary,) = work.glob("model_summary_*.csv")
        with summary.open(newline="") as file:
            (row,) = csv.DictReader(file)
    return EthosUReport(
        accelerator=accelerator,
        system=system,
        npu_operators=_count_npu_operators(told),
        cpu_operators=re.findall(r"^\s*CPU: (\w+)", told, re.MULTILINE),
        sram_bytes=round(float(row["sram_memory_used"]) * _KILO),
        cycles=round(float(row["cycles_total"])),
        inferences_per_second=round(float(row["inferences_per_second"]), 1),
        version=_run([vela, "--version"], path).strip(),
    )


def _count_npu_operators(text):
    pattern = r"NPU operators = (\d+)"
    found = re.search(pattern, text)
    if not found:
        raise ValueError(
            "Vela must say what it maps. Received: no line like "
            f"{pattern!r}. Install version 5.2: pip install ethos-u-vela==5.2.0"
        )
    return int(found[1])


def _run(command, path):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise ValueError(
            f"Vela must take the file. Received: {os.fspath(path)}, of which "
            f"it says: {lines[-1] if lines else 'nothing'}. Export with "
            "--target ethos-u --quantization int8."
        )
    return done.stdout


def map_all(
    path: str | os.PathLike,
) -> tuple[list[EthosUReport] | None, list[str]]:
    """Maps a file to each accelerator; returns the reports and violations.

    Returns:
        None and no violation where Vela is not installed.
    """
    if find_vela() is None:
        return None, []
    reports = [map_to_ethosu(path, each) for each in ACCELERATORS]
    return reports, [
        f"{', '.join(each.cpu_operators)}: left to the CPU by "
        f"{each.accelerator}"
        for each in reports
        if each.cpu_operators
    ]
