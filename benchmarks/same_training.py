"""Whether chunks of steps train as an older checkout's single steps do, on JAX.

Usage: KERAS_BACKEND=jax JAX_PLATFORMS=cpu GNSMALL_DATA=FOLDER \
           python benchmarks/same_training.py OLD OUT [field=value ...]

OLD is a checkout of this repository from commit 661ab9c on, OUT an empty
folder. Compared are the losses and the last checkpoints' arrays of a training
on the first images of CIFAR-10: in OLD; here by chunks; the same, killed at
its first checkpoint and gone on with; four seeds together, each against
itself alone; and these killed. Fields are the config's, such as width=0.25
or strategy="'kd'", and `images` (640), `stages` (of GN-S, e.g. "(0,3)"; all
without). JAX_COMPILATION_CACHE_DIR saves most of the time: minutes a program.
"""

import ast
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parents[1]
SEEDS = (0, 1, 2, 3)


def train(order: dict) -> None:
    """Trains in the checkout that is imported; keeps the last checkpoints."""
    import gnsmall_keras.data.sources as sources
    from gnsmall_keras.models import spec
    from gnsmall_keras.training import checkpoint

    fields, out = order["fields"], Path(order["out"])
    images, stages = fields.pop("images", 640), fields.pop("stages", None)
    if stages:
        spec.GNS_STAGES = tuple(spec.GNS_STAGES[i] for i in stages)
        spec.FIRST_GATED_BLOCK = 1
    load = sources.load_data

    def first_images(*args, **options):
        data = load(*args, **options)
        parts = {
            name: getattr(data, name)[:images]
            for name in (
                *("train_images", "train_labels"),
                *("test_images", "test_labels"),
            )
        }
        return dataclasses.replace(data, **parts)

    checkpoint.remove = lambda path: None
    if order["old"]:
        from gnsmall_keras import config
        from gnsmall_keras.training import fit

        fit.load_data = first_images
        kind = "DistillConfig" if "strategy" in fields else "TrainConfig"
        fit.train(getattr(config, kind)(**fields), out=out)
        return
    from gnsmall_keras.config import RunConfig
    from gnsmall_keras.training import run
    from gnsmall_keras.training.scan import together

    run.load_data = together.load_data = first_images
    configs = [RunConfig(**{**fields, "seed": s}) for s in order["seeds"]]
    if len(configs) > 1:
        together.train_together(configs, out=out)
    else:
        run.train(configs[0], out=out, kernels="keras", loop="chunks")


def started(checkout: Path, out: Path, fields: dict, seeds=SEEDS[:1]):
    """Starts a training in a process of its own."""
    order = {"old": checkout != HERE, "out": str(out), "seeds": seeds}
    text = json.dumps({**order, "fields": {"data": "cifar10", **fields}})
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [sys.executable, __file__, text]
    return subprocess.Popen(command, env=environment, cwd=checkout)


def done(*args) -> dict[str, dict]:
    """Trains to the end; returns losses and arrays by the runs' names."""
    child = started(*args)
    if child.wait():
        sys.exit(f"A training ended with exit status {child.returncode}.")
    found = {}
    for path in sorted(Path(args[1]).glob("*/checkpoint.npz")):
        with np.load(path) as arrays:
            values = {name: arrays[name] for name in arrays.files}
        history = json.loads(str(values.pop("state")))["history"]
        found[path.parent.name] = {"losses": history["loss"], **values}
    return found


def killed(checkout, out, fields, seeds=SEEDS[:1]) -> dict[str, dict]:
    """The same; at the first checkpoint it is killed, and started anew."""
    shutil.rmtree(out, ignore_errors=True)
    child = started(checkout, out, fields, seeds)
    while len([*out.glob("*/checkpoint.npz")]) < len(seeds):
        if child.poll() is not None:
            sys.exit("The training ended before it could be killed.")
        time.sleep(0.05)
    child.kill()
    child.wait()
    return done(checkout, out, fields, seeds)


def compare(title: str, one: dict, other: dict) -> None:
    """Prints how far a run's losses and arrays are from another's."""
    pairs = [*zip(one.values(), other.values(), strict=True)]
    gaps = [np.max(np.abs(np.subtract(a, b, dtype="f8"))) for a, b in pairs]
    print(
        f"{title}: {len(gaps)} arrays, {sum(gap > 0 for gap in gaps)} differ, "
        f"by {max(gaps):.3g}; losses by {gaps[0]:.3g}",
        flush=True,
    )


def main(old: str, folder: str, *given: str) -> None:
    """Trains all ways, and compares."""
    fields = {"width": 0.25, "epochs": 3, "batch_size": 64}
    for text in given:
        name, _, value = text.partition("=")
        fields[name] = ast.literal_eval(value)
    out = Path(folder).resolve()
    (before,) = done(Path(old).resolve(), out / "old", fields).values()
    ((name, alone),) = done(HERE, out / "alone", fields).items()
    compare("chunks, against the older checkout", before, alone)
    (again,) = killed(HERE, out / "killed", fields).values()
    compare("killed and gone on with, against chunks", alone, again)
    if fields.get("strategy") == "assistant":
        return  # one network after the other, not together
    joint = done(HERE, out / "together", fields, SEEDS)
    several = {name: alone}
    for seed in SEEDS[1:]:
        several |= done(HERE, out / f"seed-{seed}", fields, (seed,))
    for slug, values in joint.items():
        compare(f"{slug}, alone against together", several[slug], values)
    for slug, values in killed(HERE, out / "again", fields, SEEDS).items():
        compare(f"{slug}, together, killed", joint[slug], values)


if __name__ == "__main__":
    if sys.argv[1].startswith("{"):
        train(json.loads(sys.argv[1]))
    else:
        main(*sys.argv[1:])
