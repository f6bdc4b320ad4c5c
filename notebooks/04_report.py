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
# # What a sweep found
#
# Tables and figures from records alone; nothing is trained. You will see accuracies with
# their spread over seeds, differences from the baseline with intervals, Pareto
# fronts of accuracy against cost, and the run to deploy. The command line makes a page of the same
# with `gnsmall report`.

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
# `index`, `max_parameters` and `max_bytes` are options of `gnsmall report` as well.
# papermill replaces parameters with `-p`.

# %% tags=["parameters"]
index = "papermill_runs/index.jsonl"  # looked for here, above, in the checkout
max_parameters = None  # of the winner, deployed; None: any number
max_bytes = None  # of its int8 file; None: any size
most_figures = None  # None: all

# %%
from pathlib import Path

from IPython.display import Markdown, display

import gnsmall_keras as gns

places = [Path.cwd(), *Path.cwd().parents, *Path(gns.__file__).parents]
found = [place / index for place in places if (place / index).is_file()]
report = gns.read_report(found[0] if found else index)

# %% [markdown]
# ## Lines that could not be read
#
# They are left out of everything below.

# %%
print("\n".join(report.faults) or "none")

# %% [markdown]
# ## Groups
#
# A group is runs with one config but for the seed, on the same images. Accuracies
# are in percent: mean ± sample standard deviation over n seeds. No row mixes
# protocols or numbers of epochs.

# %%
report.groups

# %% [markdown]
# ## Strategies against their baseline
#
# Accuracy minus that of the baseline with the same student, recipe, epochs,
# protocol and images, in percentage points, paired by seed; the 95 % interval is by
# Student's t, and there is none with n=1.

# %%
report.differences

# %% [markdown]
# ## Figures

# %%
for drawing in report.drawings[:most_figures]:
    display(Markdown(f"**{drawing.title}.** {drawing.caption}"), drawing)

# %% [markdown]
# ## The winner
#
# For each data set, the run with the best validation accuracy within `max_parameters`
# and `max_bytes`. Test accuracy had no part in the choice. `gnsmall export` makes a
# run's `.tflite` file and records its size; `max_bytes` needs that record.

# %%
report.winners(max_parameters=max_parameters, max_bytes=max_bytes)
