"""Classifies images: classify.py MODEL LABELS IMAGE... [--cpu]."""

import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from tflite_runtime.interpreter import Interpreter, load_delegate

LIBRARY = {
    "linux": "libedgetpu.so.1",
    "darwin": "libedgetpu.1.dylib",
    "win32": "edgetpu.dll",
}

paths = [path for path in sys.argv[1:] if path != "--cpu"]
model, labels, *images = paths
names = Path(labels).read_text(encoding="utf-8").splitlines()
delegates = []
if "--cpu" not in sys.argv:  # then a file that is not compiled
    delegates = [load_delegate(LIBRARY[sys.platform])]
interpreter = Interpreter(model, experimental_delegates=delegates)
interpreter.allocate_tensors()
(taken,) = interpreter.get_input_details()
(made,) = interpreter.get_output_details()
_, height, width, _ = taken["shape"]
for path in images:
    with Image.open(path) as image:
        pixels = np.array(image.convert("RGB").resize((width, height)))
    values = pixels.astype(np.int16) - 128  # raw pixels, as int8
    interpreter.set_tensor(taken["index"], values[None].astype(np.int8))
    began = time.perf_counter()
    interpreter.invoke()
    milliseconds = 1e3 * (time.perf_counter() - began)
    best = int(np.argmax(interpreter.get_tensor(made["index"])))
    print(f"{path}: {names[best]} ({milliseconds:.1f} ms)")
