"""run_model.py MODEL IMAGE [--labels FILE] [--delegate libedgetpu.so.1]."""

import argparse
import os
import sys
import zipfile

import numpy as np
from PIL import Image

try:
    from ai_edge_litert import interpreter as tflite
except ImportError:
    from tflite_runtime import interpreter as tflite
sys.excepthook = lambda _, error, __: os._exit(
    sys.stderr.write(f"error: {' '.join(str(error).split())}\n") > 0
)
parser = argparse.ArgumentParser(usage=__doc__)
for name in ("model", "image", "--labels", "--delegate"):
    parser.add_argument(name)
given = parser.parse_args()
if __name__ == "__main__" and os.name == "posix" and os.fork():  # may crash
    sys.exit({0: 0, 256: 1}.get(os.wait()[1], "error: MODEL is damaged"))
delegates = [tflite.load_delegate(given.delegate)] if given.delegate else None
runner = tflite.Interpreter(given.model, experimental_delegates=delegates)
runner.allocate_tensors()
taken, made = runner.get_input_details()[0], runner.get_output_details()[0]
image = Image.open(given.image).convert("RGB").resize(taken["shape"][2:0:-1])
pixels = np.array(image, np.int16) - 128 * (taken["dtype"] == np.int8)
runner.set_tensor(taken["index"], pixels[None].astype(taken["dtype"]))
runner.invoke()
raw = runner.get_tensor(made["index"]).ravel().astype(float)  # no overflow
scale, zero_point = made["quantization"]
text = open(given.labels, "rb").read() if given.labels else b""
if not text and zipfile.is_zipfile(given.model):  # then they are metadata
    text = zipfile.ZipFile(given.model).read("labels.txt")
labels = text.decode().splitlines() or list(range(len(raw)))
assert len(labels) == len(raw), f"{len(labels)} labels, {len(raw)} classes"
for best in np.argsort(raw)[:-4:-1]:
    print(f"{labels[best]}: {(raw[best] - zero_point) * (scale or 1):.3f}")
