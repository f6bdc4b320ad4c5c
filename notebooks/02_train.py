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
# # Train one network: alone, or from teachers
#
# One run: the baseline or a strategy of distillation, by its parameters. You will see
# its learning curves, its confusion matrix and its predictions. `gnsmall sweep FILE`
# executes this notebook once for every run that a file asks for; `gnsmall train` and
# `gnsmall distill` do the same on the command line. As it is, it takes about three
# minutes on two CPU cores.

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
# The parameters are the fields of `RunConfig`, with their defaults, and where
# to write; papermill replaces them with `-p`.

# %% tags=["parameters"]
model = "gns"  # a network of `gnsmall models`
width = 1.0  # channel multiplier of a GhostNet
head_units = 1280  # before a GhostNet's classifier
data = "digits"  # or "cifar10", "cifar100", or a path to images
recipe = "auto"  # or "best", "long", "quick", "paper", "teacher", "finetune"
epochs = None  # None: the recipe's
batch_size = None  # None: the recipe's
peak_learning_rate = None  # None: the recipe's
protocol = "validation"  # or "paper", which watches the test split
validation_fraction = 0.1  # of the training split, held out
select = "last"  # or "validation": the best weights there
shuffle = True  # False only to study the effect
augment = True  # False: the plain images
seed = 0  # of everything random
precision = "float32"  # or "mixed_bfloat16", "mixed_float16"
cutout = None  # pixels of a side; None: the recipe's
mixup = None  # alpha; None: the recipe's
cutmix = None  # alpha; None: the recipe's
ema_momentum = None  # of averaged weights; None: the recipe's
label_smoothing = None  # part of a label for all classes; None: the recipe's
devices = 1  # how many share a step
image_size = 32  # pixels of a side
channels = 3  # 1: grey
aspect = "crop"  # or "pad", "squash", for images that are not square
flip = None  # whether a mirrored image keeps its class; None: not for digits
skip_broken = False  # True: goes on without images that cannot be read
start = None  # "random" or "cifar10" weights; None: the recipe's
data_digest = ""  # of images of your own; empty: set when they are read
strategy = "baseline"  # or "kd", "assistant", "ensemble"
teachers = []  # .keras files or folders of runs
assistants = []  # of strategy "assistant", from the teacher on
dense = False  # whether all earlier ones teach each assistant
loss = "kd"  # or "dkd", "standardized_kd", "dist"
label_weight = 0.5  # of the labels' loss; the rest is the teacher's
temperature = 4.0  # divides logits before their softmax
combine = "probabilities"  # or "logits", "per_teacher"
teacher_weights = []  # a number for each teacher; empty: equal ones
confidence_weights = False  # a teacher counts by the label's probability
cache = ""  # folder of `gnsmall cache-teacher`
out = "runs"  # folder of all runs
index = None  # file of records; None: index.jsonl in `out`

# %% [markdown]
# ## Train
#
# A tenth of the training images is held out; the test images are read once, at
# the end. Executed again, an interrupted run goes on from its checkpoint.

# %%
import dataclasses

import gnsmall_keras as gns

fields = [field.name for field in dataclasses.fields(gns.RunConfig)]
config = gns.RunConfig(**{name: globals()[name] for name in fields})
config.slug

# %%
record = gns.train(config, out=out, index=index)

# %% [markdown]
# ## Learning curves
#
# With `protocol="paper"` the watched images are the test images.

# %%
from gnsmall_keras.report.figures.mistakes import draw_confusion
from gnsmall_keras.report.figures.training import draw_history, draw_predictions

draw_history(record)

# %% [markdown]
# ## Accuracy

# %%
rows = [
    ("validation", record.validation_accuracy, record.validation_images),
    ("test", record.test_accuracy, record.test_images),
    ("test, best epoch", record.best_test_accuracy, record.test_images),
]
for split, accuracy, images in rows:
    if accuracy is not None:
        print(f"{split:<16} {accuracy:.4f}  n={images:,}")

# %%
print(f"trained  {record.parameters:>9,} parameters")
print(f"deployed {record.deployed_parameters:>9,} parameters")
print(f"         {record.deployed_macs:>9,} multiply-accumulates")
print(f"{record.train_seconds:,.0f} s on {record.backend}: {out}/{record.slug}")

# %% [markdown]
# ## Confusion matrix
#
# A row for each true class, a column for each predicted one, on the test images.

# %%
draw_confusion(config.data, record)

# %%
from IPython.display import display

names = ["image_size", "channels", "aspect", "flip", "skip_broken"]
dataset = gns.load_data(
    config.data, **{name: globals()[name] for name in names}
)
network = gns.load_model(f"{out}/{record.slug}/model.keras")
shown = gns.normalize(dataset.test_images[:12])
if len(shown):  # where there is a test split
    logits = network.predict(shown, verbose=0)
    display(draw_predictions(dataset, logits))
