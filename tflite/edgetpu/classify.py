"""Classifies images: classify.py MODEL LABELS IMAGE... [--cpu]."""

import sys
import time
from importlib import import_module, util
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

LIBRARY = {
    "linux": "libedgetpu.so.1",
    "darwin": "libedgetpu.1.dylib",
    "win32": "edgetpu.dll",
}
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
lib = "ai_edge_litert" if util.find_spec("ai_edge_litert") else "tflite_runtime"
tflite = import_module(lib + ".interpreter")

paths = [path for path in sys.argv[1:] if path != "--cpu"]
model, labels, *images = paths
names = Path(labels).read_text(encoding="utf-8").splitlines()
delegates = []
if "--cpu" not in sys.argv:  # then a file that is not compiled
    delegates = [tflite.load_delegate(LIBRARY[sys.platform])]
interpreter = tflite.Interpreter(model, experimental_delegates=delegates)
interpreter.allocate_tensors()
(taken,) = interpreter.get_input_details()
(made,) = interpreter.get_output_details()
_, height, width, channels = taken["shape"]
mode = "L" if channels == 1 else "RGB"
for path in images:
    with Image.open(path, formats=FORMATS) as image:  # as in run_model.py
        image.draft(None, (2 * width, 2 * height))
        upright = ImageOps.exif_transpose(image)
    if upright.mode[0] in "IF":  # 16 bits, never 32
        wide = np.array(upright).astype("u2", "K", "safe")
        upright = Image.fromarray(np.uint8(wide >> 8))
    over_black = upright.convert("RGBA").convert("RGBa")
    opaque = Image.fromarray(np.array(over_black)[..., :3])
    fitted = ImageOps.fit(opaque.convert(mode), (width, height), Image.BOX)
    values = np.array(fitted, np.int16).reshape(taken["shape"]) - 128
    interpreter.set_tensor(taken["index"], values.astype(np.int8))
    began = time.perf_counter()
    interpreter.invoke()
    milliseconds = 1e3 * (time.perf_counter() - began)
    best = int(np.argmax(interpreter.get_tensor(made["index"])))
    print(f"{path}: {names[best]} ({milliseconds:.1f} ms)")
