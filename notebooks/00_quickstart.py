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
# <a href="https://colab.research.google.com/github/gnsmall/gnsmall_keras/blob/main/notebooks/00_quickstart.ipynb"><img src="https://colab.research.google.com/assets/colab-badge.svg" alt="Open in Colab"/></a>
#
# This notebook trains GhostNetV3-Small, fuses its branches, quantises it to
# 8-bit integers and runs the file on LiteRT and on TensorFlow Lite for
# Microcontrollers. It takes about four minutes on two CPU cores; the command
# line does the same with `gnsmall quickstart`.

# %%
import os
import subprocess
import sys

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
if "google.colab" in sys.modules:
    # Its TensorFlow, which exports, takes the place of Colab's.
    source = "git+https://github.com/gnsmall/gnsmall_keras"
    package = f"gnsmall-keras[export] @ {source}"
    pip = [sys.executable, "-m", "pip", "install", "-q", package]
    subprocess.run(pip, check=True)

# %% [markdown]
# The parameters are those of `TrainConfig`; papermill replaces them with `-p`.

# %% tags=["parameters"]
data = "digits"  # or "cifar10", or a folder of images
width = 1.0  # channel multiplier
epochs = 12  # 200 in the paper
batch_size = 64  # images per step
seed = 0  # of everything random
out = "runs"  # folder for the model and the record

# %%
if os.environ.get("GNSMALL_SMOKE"):  # seconds instead of minutes
    width, epochs = 0.25, 1

# %% [markdown]
# ## Train
#
# The network trains in its branched form. A tenth of the training images is
# held out; the test images are read once, at the end.

# %%
import gnsmall_keras as gns

config = gns.TrainConfig(
    data=data, width=width, epochs=epochs, batch_size=batch_size, seed=seed
)
record = gns.train(config, out=out)

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
count = range(1, len(record.history["accuracy"]) + 1)
axes.plot(count, record.history["accuracy"], "o-", label="training")
axes.plot(count, record.history["val_accuracy"], "s--", label="validation")
axes.set(xlabel="epoch", ylabel="accuracy", ylim=(0, 1))
axes.legend()
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
print(f"faults: {report.faults or 'none'}")

# %%
# NBVAL_CHECK_OUTPUT
print(report.micro_difference_lsb, "steps between TFLite Micro and reference")
