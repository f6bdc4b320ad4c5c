"""run_model.py MODEL IMAGE [--labels F] [--delegate F] [--aspect A]."""

import argparse
import os
import sys
import zipfile
from importlib import import_module, util

import numpy as np
from PIL import Image, ImageOps

lib = "ai_edge_litert" if util.find_spec("ai_edge_litert") else "tflite_runtime"
tflite = import_module(lib + ".interpreter")
sys.excepthook = lambda *e: sys.exit("error: " + " ".join(str(e[1]).split()))
fits = {None: ImageOps.fit, "pad": ImageOps.pad, "squash": Image.Image.resize}
parser = argparse.ArgumentParser(usage=__doc__)
for name in ("model", "image", "--labels", "--delegate", "--aspect"):
    parser.add_argument(name, choices=fits if name == "--aspect" else None)
given = parser.parse_args()
if __name__ == "__main__" and os.name == "posix" and os.fork():  # may crash
    sys.exit({0: 0, 256: 1}.get(os.wait()[1], "error: MODEL is damaged"))
delegates = [tflite.load_delegate(given.delegate)] if given.delegate else None
runner = tflite.Interpreter(given.model, experimental_delegates=delegates)
runner.allocate_tensors()
taken, made = runner.get_input_details()[0], runner.get_output_details()[0]
shape, mode = taken["shape"], "L" if taken["shape"][3] == 1 else "RGB"
im = Image.open(given.image, formats="PNG JPEG WEBP BMP TIFF GIF".split())
im.draft(None, (2 * shape[1], 2 * shape[1]))
if (im := ImageOps.exif_transpose(im)).mode[0] in "IF":  # 16 bits, never 32
    im = Image.fromarray(np.uint8(np.array(im).astype("u2", "K", "safe") >> 8))
im = Image.fromarray(np.array(im.convert("RGBA").convert("RGBa"))[..., :3])
im = fits[given.aspect](im.convert(mode), (shape[1], shape[1]), Image.BOX)
(unit, zero), (scale, zero_point) = taken["quantization"], made["quantization"]
pixels = np.rint(np.array(im).reshape(shape) / (unit or 1)).clip(max=32767)
runner.set_tensor(taken["index"], (pixels + zero).astype(taken["dtype"]))
runner.invoke()
raw = runner.get_tensor(made["index"]).ravel().astype(float)  # no overflow
path = given.labels or os.path.join(os.path.dirname(given.model), "labels.txt")
text = open(path, "rb").read() if given.labels or os.path.exists(path) else b""
if not given.labels and zipfile.is_zipfile(given.model):  # metadata come first
    text = zipfile.ZipFile(given.model).open("labels.txt").read(2**20)
labels = text.decode().splitlines() or list(range(len(raw)))
assert len(labels) == len(raw), f"{len(labels)} labels, {len(raw)} classes"
for best in np.argsort(raw)[:-4:-1]:
    print(f"{labels[best]}: {(raw[best] - zero_point) * (scale or 1):.3f}")
