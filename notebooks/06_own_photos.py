# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: tags,-all
#     formats: ipynb,py:percent
#     notebook_metadata_filter: kernelspec,jupytext,-jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own photos
#
# From a folder with one folder a class to a `.tflite` file for a microcontroller, in a
# time that you set. You will see which sizes fit, what was tried, and what the network
# gets wrong. `gnsmall fit` does the same. Without a folder of yours it takes
# scikit-learn's digits.

# %%
import os
import subprocess
import sys

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
if "google.colab" in sys.modules:
    # Or the address of a wheel, until the package is on PyPI.
    package = "gnsmall-keras[export,report]"
    pip = [sys.executable, "-m", "pip", "install", "-q", package]
    subprocess.run(pip, check=True)

# %% tags=["parameters"]
data = "digits"  # the path of a folder, tar or zip
budget = "256k"  # of flash; or "512k", "1m"
seconds = 600  # when to end
sizes = 3  # of the network, that are tried
image_size = 32  # pixels of a side, a multiple of 8 to 128
channels = 3  # 1: grey
out = "runs"  # folder of all runs

# %% [markdown]
# ## Look at them first
#
# The notes say what was left out, split off or is mirrored.

# %%
import gnsmall_keras as gns

images = gns.load_data(data, image_size=image_size, channels=channels)
print(images, *images.notes, sep="\n")

# %% [markdown]
# ## Find the best file that fits
#
# Run again, this cell goes on where it was stopped.

# %%
found = gns.fit(
    data,
    budget=budget,
    seconds=seconds,
    sizes=sizes,
    image_size=image_size,
    channels=channels,
    out=out,
)

# %% [markdown]
# ## What was tried
#
# Ranked by validation accuracy; the test images decided nothing.

# %%
for entry in found.entries:
    record, report = entry.record, entry.report
    print(f"{entry.size}, head {entry.head_units}, {entry.how}")
    print(f"  validation {record.validation_accuracy:.4f}", end=" ")
    print(f"of {record.validation_images:,}")
    print(f"  int8 on test images {report.accuracy:.4f}", end=" ")
    print(f"of {report.evaluated_images:,}")
    print(f"  {report.size_bytes:,} bytes, arena {report.arena_bytes}")
for near in found.missed:
    print(f"did not fit: {near.size}, head {near.head_units}: {near.misses}")
best = found.best
best.path

# %% [markdown]
# ## Confusion matrix

# %%
from gnsmall_keras.report.figures.mistakes import draw_confusion

draw_confusion(images.name, best.record)

# %% [markdown]
# ## Ask the file

# %%
model = gns.TFLiteModel(best.path)
for logits, label in zip(
    model.predict(images.test_images[:5]), images.test_labels, strict=False
):
    print(f"{images.class_names[label]}: {images.class_names[logits.argmax()]}")
