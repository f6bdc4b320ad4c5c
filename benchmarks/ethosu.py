"""Prints what Vela says of the published files on four Ethos-U.

Usage: python benchmarks/ethosu.py [files]
"""

import sys
from pathlib import Path

from gnsmall_keras.devices.ethosu import ACCELERATORS, map_to_ethosu

FILES = sorted(Path(__file__).parents[1].glob("tflite/*-micro.tflite"))

for file in sys.argv[1:] or FILES:
    for accelerator in ACCELERATORS:
        report = map_to_ethosu(file, accelerator)
        print(f"{Path(file).stem:30} {accelerator:14} {report}", flush=True)
