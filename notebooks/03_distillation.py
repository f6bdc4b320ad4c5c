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
# # Distillation: what a student learns from teachers
#
# A label says which class an image is. A teacher, a larger network that was
# trained before, also says which classes it resembles. You will see these soft labels,
# distil a student by hand in twenty lines, and then train it in four ways with several
# seeds: on labels alone, from one teacher, by way of an assistant, and from several
# teachers. It ends in a chart of all four with their spread.

# %%
import subprocess
import sys

if "google.colab" in sys.modules:
    # Or the address of a wheel, until the package is on PyPI.
    package = "gnsmall-keras[report]"
    pip = [sys.executable, "-m", "pip", "install", "-q", package]
    subprocess.run(pip, check=True)  # what is missing; what is there stays

from gnsmall_keras.backend import choose_backend

choose_backend("tensorflow")  # or JAX, where it sees a GPU

# %% [markdown]
# The parameters; papermill replaces them with `-p`.

# %% tags=["parameters"]
data = "digits"  # or "cifar10", or a folder of images
width = 0.25  # of the student
assistant_width = 0.5
teacher_width = 1.0
epochs = 12  # of every training
batch_size = 64  # images per step
peak_learning_rate = None  # None: the recipe's
temperature = 4.0  # divides logits before their softmax
label_weight = 0.5  # of the labels' loss; the rest is the teacher's
seeds = [0, 1, 2]  # of everything random, a training each

# %% [markdown]
# ## A teacher
#
# All runs are demonstrations and go to a temporary folder, so that every
# execution of this notebook starts from nothing.

# %%
import tempfile

import gnsmall_keras as gns

folder = tempfile.TemporaryDirectory()
common = {
    "data": data,
    "epochs": epochs,
    "batch_size": batch_size,
    "peak_learning_rate": peak_learning_rate,
    "seed": seeds[0],
}
config = gns.RunConfig(width=teacher_width, **common)
of_teacher = gns.train(config, out=folder.name)
teacher_folder = f"{folder.name}/{of_teacher.slug}"
teacher = gns.load_model(f"{teacher_folder}/model.keras")

# %% [markdown]
# ## Soft labels
#
# From its logits $t$ a teacher's probabilities at the temperature $T$ are
#
# $$
# p_i(T) = \frac{\exp(t_i / T)}{\sum_j \exp(t_j / T)}.
# $$
#
# At $T = 1$ the most likely class takes nearly all of the probability. A higher
# temperature makes the probabilities more alike and shows the ranking of the other
# classes. As $T \to \infty$ they become equal. Below are the two test images on which
# the teacher is least and most certain.

# %%
import keras

dataset = gns.load_data(data)
images, labels = dataset.test_images, dataset.test_labels
if not len(images):  # a folder may have none
    images, labels = dataset.train_images, dataset.train_labels
logits = teacher.predict(gns.normalize(images), verbose=0)


def soft_labels(logits, temperature):
    return keras.ops.convert_to_numpy(keras.ops.softmax(logits / temperature))


certainty = soft_labels(logits, 1.0).max(axis=-1)
chosen = [certainty.argmin(), certainty.argmax()]

# %%
import matplotlib.pyplot as plt

BLUE, ORANGE = "#0072B2", "#D55E00"  # Okabe and Ito's


def draw(axes, index, temperature):
    """Bars of all classes; the label's own has another colour."""
    label = labels[index]
    values = soft_labels(logits[index], temperature)
    bars = axes.bar(dataset.class_names, values, color=BLUE)
    bars[label].set_color(ORANGE)
    axes.set(ylim=(0, 1), title=f"T = {temperature:g}")
    if len(dataset.class_names[-1]) > 2:
        axes.tick_params(axis="x", rotation=90)


def show(temperatures):
    """A column for each image: the image, then its soft labels."""
    rows = len(temperatures)
    figure = plt.figure(figsize=(5.6, 1.4 + 1.6 * rows), layout="constrained")
    grid = figure.subplots(
        1 + rows, len(chosen), height_ratios=[0.8] + [1] * rows
    )
    for column, index in zip(grid.T, chosen, strict=True):
        name = dataset.class_names[labels[index]]
        column[0].imshow(images[index])
        column[0].set(xticks=[], yticks=[], title=f'label "{name}"')
        for axes, each in zip(column[1:], temperatures, strict=True):
            draw(axes, index, each)
    for axes in grid[1:, 0]:
        axes.set_ylabel("probability")
    for axes in grid[-1]:
        axes.set_xlabel("class (orange: the label)")


show([1.0, 2.0, 4.0, 8.0])

# %% [markdown]
# Move the slider. Without `ipywidgets` the figure is static.

# %%
try:
    import ipywidgets
except ModuleNotFoundError:
    show([temperature])
else:
    slider = ipywidgets.FloatSlider(
        value=temperature, min=0.5, max=20, step=0.5, description="T"
    )
    slider.continuous_update = False  # one figure, when it is let go
    ipywidgets.interact(lambda T: show([T]), T=slider)

# %% [markdown]
# ## The loss
#
# With the student's logits $s$, the label $y$ and the label weight $\lambda$
# (`label_weight`) the loss of an image is
#
# $$
# L = \lambda\,\underbrace{\big(-\log q_y(1)\big)}_{\text{label}}
# + (1 - \lambda)\,\underbrace{T^2 \sum_i p_i(T)
# \log \frac{p_i(T)}{q_i(T)}}_{\text{teacher}},
# \qquad q(T) = \mathrm{softmax}(s / T).
# $$
#
# The gradient of the second part without its factor is
# $\big(q_i(T) - p_i(T)\big) / T$, and at high temperatures the difference itself
# shrinks as $1/T$: $T^2$ keeps the balance of both parts when $T$ changes
# (Hinton, Vinyals and Dean, 2015). `gns.Distiller` computes it; `gns.train`
# builds one. The recipe "quick" also smooths the label by 0.1.
#
# ## By hand
#
# Any Keras student and teacher work. Compile and fit the distiller like any Keras
# model, and the student is trained.

# %%
student = gns.ghostnetv3_small(width=width, classes=dataset.classes)
distiller = gns.Distiller(
    student=student,
    teacher=teacher,
    temperature=temperature,
    label_weight=label_weight,
)
distiller.compile(
    optimizer=keras.optimizers.Adam(1e-3),
    loss=gns.LabelCrossEntropy(),
    metrics=["accuracy"],
)
history = distiller.fit(
    gns.normalize(dataset.train_images),
    dataset.train_labels,
    batch_size=batch_size,
    epochs=epochs,
    verbose=0,
)
for name, values in history.history.items():
    print(f"{name:<12} {values[0]:8.4f} to {values[-1]:8.4f}")

# %% [markdown]
# `gns.train` does the same with augmentation, a schedule, images held out,
# checkpoints and a record, so that strategies can be compared: one recipe, several
# seeds.
#
# ## Baseline: labels alone
#
# $\lambda = 1$: what every other strategy is compared with. The student, the
# images, their order and the recipe are the same for all.

# %%
import dataclasses

common |= {"width": width}
records = {}
split = "test" if len(dataset.test_images) else "validation"


def accuracy_of(record):
    """On the test images; of a folder without any, on those held out."""
    return getattr(record, f"{split}_accuracy")


# All seeds have the teacher of above. Without test images each has its own:
# another seed's has learned from the images that its students are measured on.
teachers = [of_teacher]
if split == "validation":
    teachers += [
        gns.train(
            dataclasses.replace(config, seed=seed),
            out=folder.name,
            progress=False,
        )
        for seed in seeds[1:]
    ]


def folders_of(seed, runs_of_seeds):
    """The folder of one run of each list, chosen as the seed's teacher is."""
    place = seeds.index(seed) % len(teachers)
    return [f"{folder.name}/{runs[place].slug}" for runs in runs_of_seeds]


def train_seeds(name, *taught_by, **options):
    """One run for each seed, from one run of each list in `taught_by`."""
    records[name] = [
        gns.train(
            gns.RunConfig(
                strategy=name,
                teachers=folders_of(seed, taught_by),
                **{**common, **options, "seed": seed},
            ),
            out=folder.name,
            progress=False,
        )
        for seed in seeds
    ]
    found = ", ".join(f"{accuracy_of(one):.4f}" for one in records[name])
    print(f"{name}: {found}")


train_seeds("baseline")

# %% [markdown]
# ## kd: one teacher

# %%
soft = {"temperature": temperature, "label_weight": label_weight}
train_seeds("kd", teachers, **soft)

# %% [markdown]
# ## assistant: a chain
#
# A student that is much smaller than its teacher may not be able to follow it. In
# a chain the teacher teaches an assistant of a size between them, and the
# assistant, frozen then, the student (Mirzadeh et al., 2020):
#
# $$
# t \;\rightarrow\; a \;\rightarrow\; s, \qquad
# L_a = L(a;\, t), \qquad L_s = L(s;\, a).
# $$

# %%
train_seeds(
    "assistant",
    teachers,
    assistants=[f"gns-w{assistant_width:g}"],
    **soft,
)

# %% [markdown]
# ## ensemble: several teachers at once
#
# The target is the mean of what $K$ teachers say, by default of their
# probabilities:
#
# $$
# p_i(T) = \sum_{k=1}^{K} w_k\, p_i^{(k)}(T), \qquad \sum_k w_k = 1.
# $$
#
# `combine="logits"` averages their logits instead, as the paper does. The second
# teacher here is the baseline of above: a small one, but trained already.

# %%
train_seeds("ensemble", teachers, records["baseline"], **soft)

# %% [markdown]
# ## What came of it

# %%
import numpy as np

figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
for place, runs in enumerate(records.values()):
    values = [100 * accuracy_of(run) for run in runs]
    spread = np.std(values, ddof=1) if len(values) > 1 else None
    axes.bar(
        place, np.mean(values), yerr=spread, color=BLUE, capsize=5, alpha=0.6
    )
    axes.plot([place] * len(values), values, "o", color=ORANGE)
line = 100 * np.mean([accuracy_of(run) for run in teachers])
label = f"the teacher (n={len(teachers)})"
axes.axhline(line, color="black", linestyle=":", label=label)
lowest = min(
    100 * accuracy_of(run) for runs in records.values() for run in runs
)
axes.set(
    xticks=range(len(records)),
    xticklabels=[f"{name}\n(n={len(runs)})" for name, runs in records.items()],
    ylabel=f"{split} accuracy (%)",
    ylim=(max(0, lowest - 5), 101),
)
axes.legend(frameon=False)

# %% [markdown]
# Bars are means, error bars one sample standard deviation over seeds, points single runs.
#
# **This chart says nothing about which strategy is best.** These are few epochs on
# digits, which are easy for all of them; on 360 test images one image is 0.3
# percentage points. A comparison needs several seeds, paired, with the same schedule, on data that are
# hard enough: `gnsmall sweep` runs it and `gnsmall report` gives the differences
# with their intervals.
