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
# # Deployment: what an int8 file is and does
#
# From a trained network to files for three kinds of devices: what they contain,
# what runs them, where their errors come from, and what other kinds of quantisation
# would cost. You will see the noise of int8, operator by operator. The command line does
# the same with `gnsmall export`.

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
# The parameters; papermill replaces them with `-p`.

# %% tags=["parameters"]
model = None  # a run's model.keras; None: one is trained
data = "digits"  # what it was trained on: or "cifar10", or a folder of images
width = 1.0  # channel multiplier, of a training here
epochs = 12  # of a training here
batch_size = 64  # images per step
seed = 0  # of everything random
calibration_size = 200  # training images that set the ranges of int8
test_size = 1000  # test images at most, of every accuracy
other_targets = ["edgetpu", "android"]  # beside "micro"
other_kinds = ["float32", "float16", "dynamic"]  # beside "int8"
out = "runs"  # folder of a run here
folder = "deployment"  # of the files

# %% [markdown]
# ## A network
#
# With a few epochs on small images it is good enough to show what happens to it.

# %%
import gnsmall_keras as gns

if model is None:
    config = gns.RunConfig(
        data=data, width=width, epochs=epochs, batch_size=batch_size, seed=seed
    )
    record = gns.train(config, out=out)
    model = f"{out}/{record.slug}/model.keras"
trained = gns.load_model(model)

# %% [markdown]
# ## Fuse
#
# Every sum of convolutions becomes one: fewer parameters, the same logits.
# `export_tflite` does this first; here it is seen.

# %%
fused = gns.to_deploy(trained)
print(f"trained {gns.count_parameters(trained):>11,} parameters")
print(f"fused   {gns.count_parameters(fused):>11,} parameters")
print(f"        {gns.count_macs(fused):>11,} multiply-accumulates")

# %% [markdown]
# ## Export for a microcontroller
#
# The file takes raw pixels. In it every number is an integer $q$ that means
# $s\,(q - z)$, with a scale $s$ and a zero point $z$ for each tensor, and a scale
# for each channel of a kernel. The ranges come from images of the training split.

# %%
from pathlib import Path

dataset = gns.load_data(data)
images = dataset.test_images[:test_size]
labels = dataset.test_labels[:test_size]
Path(folder).mkdir(parents=True, exist_ok=True)


def export(target, quantization, **options):
    return gns.export_tflite(
        trained,
        f"{folder}/{target}_{quantization}.tflite",
        target=target,
        quantization=quantization,
        calibration_images=gns.calibration_split(dataset, calibration_size),
        evaluation_images=images,
        evaluation_labels=labels,
        **options,
    )


micro = export("micro", "int8", layer_errors=True)
print(f"float, fused  {micro.float_accuracy:.4f}  n={micro.evaluated_images}")
print(f"int8, LiteRT  {micro.accuracy:.4f}  n={micro.evaluated_images}")
print(f"same class as the float network: {micro.agreement:.1%} of the images")

# %% [markdown]
# ## What is in it
#
# The report is read from the file, not from what was asked for. The arena is all
# the working memory that TensorFlow Lite Micro takes.

# %%
print(f"file   {micro.size_bytes:>9,} bytes")
print(f"arena  {micro.arena_bytes or 0:>9,} bytes")
for dtype, count in micro.dtypes.items():
    print(f"{count:>5} tensors of {dtype}")
print(f"violations: {micro.faults or 'none'}")

# %% [markdown]
# ## Other targets
#
# A file for the Edge TPU is a microcontroller's, checked against another table of
# operators. A file for Android has only operators that XNNPACK takes, so that the
# network is one piece there; it takes uint8 pixels and returns probabilities
# instead of logits.

# %%
reports = {"micro": micro}
for target in other_targets:
    reports[target] = export(target, "int8")

# %%
ops = sorted(set().union(*(report.ops for report in reports.values())))
rows = {
    op: [report.ops.get(op, 0) for report in reports.values()] for op in ops
}
rows["bytes"] = [report.size_bytes for report in reports.values()]
rows["arena, bytes"] = [report.arena_bytes or 0 for report in reports.values()]
rows["XNNPACK pieces"] = [each.xnnpack_partitions for each in reports.values()]
rows["violations"] = [len(report.faults) for report in reports.values()]
print(" " * 24, *(f"{target:>10}" for target in reports))
for name, values in rows.items():
    print(f"{name:<24}", *(f"{value:>10,}" for value in values))

# %% [markdown]
# ## What the Edge TPU would take
#
# Its compiler maps a file up to the first operator that it does not know; the
# rest runs on the CPU. This is a prediction by its published table, as
# `edgetpu_compiler` is not at hand.

# %%
for mapping in [report.edge_tpu for report in reports.values()]:
    if mapping is None:
        continue
    total, cut = len(mapping.operators), mapping.cut_point
    print(f"{total if cut is None else cut} of {total} operators are mapped")
    if cut is not None:
        print("the first other one:", mapping.operators[cut])
    print(f"{mapping.parameter_bytes:,} bytes of parameters")
    print("they fit on the chip:", mapping.parameters_fit)

# %% [markdown]
# ## Runtimes
#
# LiteRT runs the file by XNNPACK, as phones do, or by its reference kernels.
# TensorFlow Lite Micro gives the reference's integers, bit for bit. XNNPACK
# rounds some values differently, by one step, and over all operators these
# differences accumulate. A step is one of the 256 values of int8.

# %%
import numpy as np

from gnsmall_keras.devices.runtime import installed_runtimes
from gnsmall_keras.training import evaluation

path = f"{folder}/{micro.path}"
own = ("litert", "litert-reference", "tflite-micro")
found = {
    runtime: gns.TFLiteModel(path, runtime=runtime).predict_raw(images)
    for runtime in own
    if runtime in installed_runtimes()
}
reference = found["litert-reference"].astype(int)
print(" " * 16, "accuracy  same class  largest difference")
for runtime, values in found.items():
    print(
        f"{runtime:<16} {evaluation.accuracy(values, labels):>8.4f}"
        f"{evaluation.agreement(values, reference):>12.4f}"
        f"{np.abs(values - reference).max():>14} steps"
    )

# %%
print(micro.micro_difference_lsb, "steps between TFLite Micro and reference")

# %% [markdown]
# ## Errors by layer
#
# With `layer_errors=True` every operator's output is compared with the float
# network's. At 0 dB the noise is as large as the signal; at -20 dB its amplitude is
# a tenth.

# %%
from gnsmall_keras.report.figures.noise import draw_layer_errors

draw_layer_errors(micro.layers)

# %% [markdown]
# The noisiest layers are those to try as `float_layers`, or to look at with
# `quantization="int8-qat"`, which trains with the rounding.

# %%
measured = [entry for entry in micro.layers if entry.sqnr_db is not None]
for entry in sorted(measured, key=lambda entry: entry.sqnr_db)[:5]:
    print(
        f"{-entry.sqnr_db:6.1f} dB  clipped {entry.clipped:.2%}  "
        f"{entry.op:<18} {entry.layer}"
    )

# %% [markdown]
# ## Kinds of quantisation
#
# float16 and dynamic store smaller weights and compute with floats; only int8
# computes with integers. TensorFlow Lite Micro has no kernels for float16 and
# dynamic; `report.faults` has what it says of them. (Where it is not installed, nothing is
# known of any.)

# %%
kinds = {kind: export("micro", kind) for kind in other_kinds} | {"int8": micro}
for kind, report in kinds.items():
    print(
        f"{kind:<8} {report.size_bytes:>10,} bytes  "
        f"accuracy {report.accuracy:.4f}  agreement {report.agreement:.4f}  "
        f"arena on TFLite Micro: {report.arena_bytes or '-'}"
    )

# %%
import matplotlib.pyplot as plt

# Okabe and Ito's colours.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
for (kind, report), marker, colour in zip(
    kinds.items(), "osD^vP", COLOURS, strict=False
):
    size, percent = report.size_bytes / 1e3, 100 * report.accuracy
    axes.plot(size, percent, marker, color=colour, markersize=8, label=kind)
axes.set(
    xlabel="size of the file, kB",
    ylabel=f"test accuracy, % (n={micro.evaluated_images})",
)
axes.set_xlim(left=0)
accuracies = [100 * report.accuracy for report in kinds.values()]
axes.set_ylim(min(accuracies) - 2, max(accuracies) + 2)  # one image is little
figure.legend(loc="outside lower center", ncols=len(kinds), frameon=False)
axes.grid(alpha=0.3)
# %% [markdown]
# ## Onto devices
#
# For a microcontroller the file becomes C++: its bytes, its labels, the size of
# the arena, and a resolver of its operators alone. The command line does the same
# with `gnsmall c-array`.

# %%
from gnsmall_keras.devices.c_array import write_c_array

if "tflite-micro" in found:
    header, source = write_c_array(path, folder, labels=dataset.class_names)
    print(header.read_text())

# %% [markdown]
# Examples for devices are in the folder `tflite/` of a checkout: a program of these two files for microcontrollers, Kotlin for Android, Python for the Edge
# TPU, and one script for PC and Raspberry Pi. `gnsmall benchmark` measures how
# long a file takes, beside MLPerf Tiny's networks.
