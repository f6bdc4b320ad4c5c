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
# # Quickstart: from images to a checked int8 file
#
# Trains GhostNetV3-Small on small images, fuses it, quantises it to 8-bit integers
# and runs the file on LiteRT and on TensorFlow Lite for Microcontrollers. You will
# see its learning curves, its confusion matrix, and that four forms of one network
# have (nearly) the same accuracy. Four minutes on two CPU cores; `gnsmall quickstart`
# does the same on the command line, if `GNSMALL_DATA` is not set.

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

# %% [markdown]
# The parameters are those of `RunConfig`; papermill replaces them with `-p`.

# %% tags=["parameters"]
data = "digits"  # or "cifar10", or a folder of images
width = 1.0  # channel multiplier
epochs = 12  # 200 in the paper
batch_size = 64  # images per step
seed = 0  # of everything random
out = "runs"  # folder for the model and the record

# %% [markdown]
# ## Train
#
# The network trains in its branched form. A tenth of the training images is
# held out; the test images are read once, at the end.

# %%
import gnsmall_keras as gns

config = gns.RunConfig(
    data=data, width=width, epochs=epochs, batch_size=batch_size, seed=seed
)
record = gns.train(config, out=out)

# %% [markdown]
# Loss and accuracy after each epoch, and how often each class was taken for which.

# %%
from gnsmall_keras.report.figures.mistakes import draw_confusion
from gnsmall_keras.report.figures.training import draw_history, draw_predictions

draw_history(record)

# %%
draw_confusion(data, record)

# %% [markdown]
# ## Fuse
#
# Every sum of convolutions becomes one convolution: fewer parameters, the same
# logits.

# %%
model = gns.load_model(f"{out}/{record.slug}/model.keras")
deployed = gns.to_deploy(model)
print(f"trained  {gns.count_parameters(model):>9,} parameters")
print(f"deployed {gns.count_parameters(deployed):>9,} parameters")
print(f"         {gns.count_macs(deployed):>9,} multiply-accumulates")

# %% [markdown]
# ## Quantise and check
#
# The file takes raw pixels. Calibration images come from the training split.

# %%
dataset = gns.load_data(data)
report = gns.export_tflite(
    model,
    f"{out}/{record.slug}/model.tflite",
    target="micro",
    quantization="int8",
    calibration_images=gns.calibration_split(dataset, 200),
    evaluation_images=dataset.test_images,
    evaluation_labels=dataset.test_labels,
)

# %%
print(f"float, branched      {record.test_accuracy:.4f}")
print(f"float, fused         {report.float_accuracy:.4f}")
print(
    f"int8 on LiteRT       {report.accuracy:.4f}  n={report.evaluated_images}"
)
if report.arena_bytes:  # where TensorFlow Lite Micro is: Linux on x86-64
    print(
        f"int8 on TFLite Micro {report.micro_accuracy:.4f}  "
        f"n={report.compared_images}"
    )
    print(f"arena {report.arena_bytes:,} bytes")
print(f"file {report.size_bytes:,} bytes")
print(f"violations: {report.faults or 'none'}")

# %% [markdown]
# What the int8 file says of the first test images.

# %%
tflite = gns.TFLiteModel(f"{out}/{record.slug}/model.tflite")
draw_predictions(dataset, tflite.predict(dataset.test_images[:12]))

# %% [markdown]
# The kernels of a microcontroller and LiteRT's reference kernels give the same
# integers:

# %%
print(report.micro_difference_lsb, "steps between TFLite Micro and reference")
