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
# # Architecture: ghost features, branches and their fusion
#
# What a ghost module is, what comes out of each block, why the network that is trained
# and the one that is deployed give the same logits, and what every block costs. You
# will see the ghost features of an image beside the features they are made of.

# %%
import os
import subprocess
import sys

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
if "google.colab" in sys.modules:
    # Or the address of a wheel, until the package is on PyPI.
    package = "gnsmall-keras[report]"
    pip = [sys.executable, "-m", "pip", "install", "-q", package]
    subprocess.run(pip, check=True)

# %% [markdown]
# The parameters; papermill replaces them with `-p`.

# %% tags=["parameters"]
data = "digits"  # or "cifar10", or a folder of images
width = 1.0  # channel multiplier
epochs = 4  # so that the features are of a network that has seen images
image = 0  # which test image is drawn
module = "blocks_0_0_ghost1"  # or another block's first
widths = [0.25, 0.5, 1.0, 1.6, 2.2, 2.8]  # that are compared
seed = 0  # of everything random
out = "runs"  # folder for the model and the record

# %% [markdown]
# ## A ghost module
#
# Many channels of a convolutional network look like filtered copies of others. A
# ghost module computes only half of its $F$ channels from all $C$ input channels,
# by $1\times1$ convolutions $W$, and the other half from the first, by a
# $3\times3$ filter $k_c$ for each channel:
#
# $$
# P = \mathrm{ReLU}(W x), \qquad
# G_c = \mathrm{ReLU}(k_c * P_c), \qquad
# y = [P, G].
# $$
#
# For each pixel that is $\tfrac{F}{2}\,(C + 9)$ multiply-accumulates, where one
# $1\times1$ convolution of the same size takes $F\,C$: about half as many, once
# $C$ is far above 9. $P$ are the *primary* features, $G$ the *cheap* ones, the
# ghosts. The second module of a block has no ReLU.

# %%
import gnsmall_keras as gns

network = gns.ghostnetv3_small(width)
for layer in network.layers:
    if layer.name.startswith(module):
        kind, shape = type(layer).__name__, layer.output.shape[1:]
        print(f"{layer.name:<32} {kind:<24} {shape}")

# %% [markdown]
# ## Block by block
#
# A block (a ghost bottleneck) is two ghost modules with a shortcut around them. The
# first increases the number of channels, the second reduces it. A block of stride 2 has
# a depthwise convolution between them. Some blocks have squeeze-and-excite. From the
# third block on, an attention gate multiplies the first module's output. The last,
# `blocks_7_0`, is one convolution. Shapes are height, width and channels. Parameters are
# given for the trainable and for the deployed form.

# %%
trained = gns.count_blocks(network)
deployed = gns.count_blocks(gns.to_deploy(network))

print(
    f"{'block':<12} {'output':<14} {'trained':>9} {'deployed':>9} {'MACs':>11}"
)
for before, after in zip(trained, deployed, strict=True):
    shape = " x ".join(map(str, after.output_shape))
    sizes = f"{before.parameters:>9,} {after.parameters:>9,} {after.macs:>11,}"
    print(f"{after.name:<12} {shape:<14} {sizes}")

# %%
import matplotlib.pyplot as plt

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"  # Okabe and Ito's
blocks = [block for block in deployed if block.parameters]
names = [block.name for block in blocks]

figure, (left, right) = plt.subplots(
    1, 2, figsize=(9, 4.5), sharey=True, layout="constrained"
)
branched = {block.name: block.parameters for block in trained}
left.barh(names, [branched[name] / 1e3 for name in names], color=ORANGE)
left.barh(names, [block.parameters / 1e3 for block in blocks], color=BLUE)
left.legend(["only in training", "deployed"], loc="upper right")
left.set(xlabel="parameters (thousands)", ylabel="block")
right.barh(names, [block.macs / 1e6 for block in blocks], color=GREEN)
right.set(xlabel="multiply-accumulates of an image, deployed (millions)")
left.invert_yaxis()

# %% [markdown]
# The head before the classifier has the most parameters and little of the work: it
# runs once, on one pixel. Stem and first block are the other way round: few
# weights, used at each of 32 x 32 pixels.
#
# ## Train it a little
#
# Features of random weights would show nothing. This short training is no result.

# %%
config = gns.RunConfig(
    data=data, width=width, epochs=epochs, batch_size=64, seed=seed
)
record = gns.train(config, out=out)
model = gns.load_model(f"{out}/{record.slug}/model.keras")

# %% [markdown]
# ## Ghost features
#
# One test image goes through the fused network. Above are primary features,
# below the cheap features that are made of them, between them the filter that
# does it. All maps have one scale, and so have all filters; values are without
# unit. A map that is dark everywhere is a channel which is zero for this image.

# %%
import keras

fused = gns.to_deploy(model)
dataset = gns.load_data(data)
photos = dataset.test_images
if not len(photos):  # a folder may have none
    photos = dataset.train_images
pixels = photos[image : image + 1]
names = [f"{module}_primary_relu", f"{module}_cheap_relu"]
features = keras.Model(
    fused.inputs, [fused.get_layer(name).output for name in names]
)
primary, cheap = features.predict(gns.normalize(pixels), verbose=0)
filters = fused.get_layer(f"{module}_cheap").get_weights()[0][..., 0]
print(f"{primary.shape[-1]} primary and {cheap.shape[-1]} cheap features")

# %%
columns = min(8, primary.shape[-1])
figure, grid = plt.subplots(
    3, columns + 1, figsize=(1.15 * (columns + 1), 3.9), layout="constrained"
)
for axes in grid.flat:
    axes.set(xticks=[], yticks=[])
for axes in grid[1:, 0]:
    axes.axis("off")
grid[0, 0].imshow(pixels[0])
grid[0, 0].set_title("image", fontsize=9)
most, strongest = max(primary.max(), cheap.max()), abs(filters).max()
scale = {"cmap": "cividis", "vmin": 0, "vmax": most}
for channel, (above, middle, below) in enumerate(grid[:, 1:].T):
    above.set_title(f"channel {channel}", fontsize=9)
    maps = above.imshow(primary[0, ..., channel], **scale)
    taps = middle.imshow(
        filters[..., channel], cmap="RdBu", vmin=-strongest, vmax=strongest
    )
    below.imshow(cheap[0, ..., channel], **scale)
for axes, label in zip(
    grid[:, 1], ("primary", "3 x 3 filter", "cheap"), strict=True
):
    axes.set_ylabel(label)
for row, drawn, label in zip(
    grid, (maps, taps, maps), ("feature", "weight", "feature"), strict=True
):
    figure.colorbar(drawn, ax=row, label=label)

# %% [markdown]
# ## Train form equals deploy form
#
# In training a primary convolution is a sum of three (and of the identity, where as
# many channels come out as go in), a cheap one a sum of three $3\times3$ filters, a
# $1\times1$ one and the identity, each with a BatchNorm of its own. All of that is
# linear once the statistics are fixed, so that one kernel and one bias give the same:
#
# $$
# \sum_b \Big( \gamma_b\,\frac{k_b * x - \mu_b}{\sqrt{\sigma_b^2 + \varepsilon}}
# + \beta_b \Big) = k * x + b, \qquad
# k = \sum_b \frac{\gamma_b}{\sqrt{\sigma_b^2 + \varepsilon}}\,k_b, \qquad
# b = \sum_b \Big( \beta_b
# - \frac{\gamma_b\,\mu_b}{\sqrt{\sigma_b^2 + \varepsilon}} \Big).
# $$
#
# `to_deploy` computes it and leaves the trained model as it is. What differs is
# rounding, in parts of the largest logit, which is large after a short training.

# %%
images = gns.normalize(photos)
before = model.predict(images, verbose=0)
after = fused.predict(images, verbose=0)
print(
    f"parameters    {gns.count_parameters(model):>9,}"
    f" {gns.count_parameters(fused):>9,}"
)
print(f"largest logit {abs(before).max():>9.3f} {abs(after).max():>9.3f}")
difference = abs(before - after).max()
print(f"largest difference of a logit: {difference:.1e}")
print(f"as part of the largest logit:  {difference / abs(before).max():.1e}")

# %% [markdown]
# ## Widths
#
# The width multiplies the channels of all blocks, rounded to multiples of 4; the
# head keeps its units. Costs therefore grow by less than the square of the
# width.

# %%
sizes = []
for each in widths:
    fused = gns.to_deploy(gns.ghostnetv3_small(each))
    sizes.append((gns.count_parameters(fused), gns.count_macs(fused)))
    print(f"width {each:<4g} {sizes[-1][0]:>9,} parameters", end=" ")
    print(f"{sizes[-1][1]:>11,} multiply-accumulates")

# %%
figure, panels = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
for axes, values, unit, colour, label in zip(
    panels,
    zip(*sizes, strict=True),
    (1e3, 1e6),
    (BLUE, GREEN),
    (
        "parameters, deployed (thousands)",
        "multiply-accumulates of an image (millions)",
    ),
    strict=True,
):
    axes.plot(widths, [value / unit for value in values], "o-", color=colour)
    axes.set(xlabel="width (channel multiplier)", ylabel=label)
    axes.set(xlim=(0, None), ylim=(0, None))
    axes.grid(color="#dddddd")
