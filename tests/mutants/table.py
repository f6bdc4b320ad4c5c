"""Seeded faults, each with the test files that notice it.

A snippet stands once in its file. It is short, so that it outlives a change of
what is around it.
"""

from typing import NamedTuple


class Mutant(NamedTuple):
    """One fault.

    Attributes:
        name: what is wrong.
        file: of the package.
        old: the text that is there, once.
        new: the text in its place.
        tests: files of tests/, of which one test at least has to fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTANTS = (
    # Losses and the step.
    Mutant(
        "T squared left out",
        "distill/divergences.py",
        "return temperature**2 * divergence",
        "return divergence",
        ("distill/test_losses.py",),
    ),
    Mutant(
        "softmax twice",
        "distill/losses.py",
        "log_probabilities = ops.log_softmax(logits, axis=-1)",
        "log_probabilities = ops.log_softmax(ops.softmax(logits), axis=-1)",
        ("distill/test_step.py",),
    ),
    Mutant(
        "label smoothing adds weight",
        "distill/losses.py",
        "of_label = (1.0 - label_smoothing) * of_label",
        "of_label = 1.0 * of_label",
        ("distill/test_losses.py",),
    ),
    Mutant(
        "DKD's weights swapped",
        "distill/divergences.py",
        "target_weight * target + nontarget_weight * nontarget",
        "nontarget_weight * target + target_weight * nontarget",
        ("distill/test_losses.py",),
    ),
    Mutant(
        "label weight swapped",
        "distill/distiller.py",
        "total = (1.0 - self.label_weight) * terms[0]",
        "total = self.label_weight * terms[0]",
        ("distill/test_step.py",),
    ),
    Mutant(
        "teacher in training mode",
        "distill/teachers.py",
        "self.model(images, training=False)",
        "self.model(images, training=True)",
        ("distill/test_distiller.py",),
    ),
    Mutant(
        "teacher trained",
        "distill/distiller.py",
        "self._frozen.teacher = teacher\n",
        'self._tracked = getattr(teacher, "model", None)\n'
        "        self._frozen.teacher = teacher\n",
        ("distill/test_distiller.py",),
    ),
    # Layers.
    Mutant(
        "biased moving variance",
        "models/branched.py",
        '("moving_variance", variance * unbias)',
        '("moving_variance", variance)',
        ("models/test_layers.py",),
    ),
    Mutant(
        "momentum of moving statistics swapped",
        "models/branched.py",
        "MOMENTUM * moving + (1 - MOMENTUM) * value",
        "(1 - MOMENTUM) * moving + MOMENTUM * value",
        ("models/test_layers.py",),
    ),
    Mutant(
        "identity branch dropped in fusing",
        "models/layers.py",
        "kernel = fusion.add_at_center(kernel, xp.diag(scale), xp=xp)",
        "del scale",
        ("models/test_layers.py",),
    ),
    Mutant(
        "padded on one side at stride 2",
        "models/ghostnet.py",
        "layers.ZeroPadding2D(kernel // 2,",
        "layers.ZeroPadding2D(2 * ((2 * (kernel // 2), 0),),",
        ("models/test_parity.py",),
    ),
    # Data.
    Mutant(
        "split not stratified",
        "data/dataset.py",
        "stratify=labels",
        "stratify=None",
        ("data/test_batches.py",),
    ),
    Mutant(
        "crop off by one",
        "data/augment.py",
        "self._shifts = 2 * views.padding + 1",
        "self._shifts = 2 * views.padding",
        ("data/test_batches.py",),
    ),
    Mutant(
        "flips applied to the wrong half",
        "data/augment.py",
        "views[mirrored] = views[mirrored, :, ::-1]",
        "views[~mirrored] = views[~mirrored, :, ::-1]",
        ("data/test_batches.py",),
    ),
    Mutant(
        "mixup's weights swapped",
        "data/mixing.py",
        "others *= 1.0 - share\n    images *= share",
        "others *= share\n    images *= 1.0 - share",
        ("data/test_mixing.py",),
    ),
    Mutant(
        "CutMix's label by the drawn share",
        "data/mixing.py",
        "share = 1.0 - area / math.prod(size)",
        "del area",
        ("data/test_mixing.py",),
    ),
    Mutant(
        "stored logits of the next view",
        "data/batches.py",
        "return self._teacher_logits[self._view(epoch)]",
        "return self._teacher_logits[self._view(epoch + 1)]",
        ("data/test_batches.py",),
    ),
    # Training.
    Mutant(
        "cosine one step short",
        "training/optimizers/schedules.py",
        "/ (self.total_steps - warmup_steps)",
        "/ (self.total_steps - warmup_steps - 1)",
        ("training/test_optimizers.py",),
    ),
    Mutant(
        "momentum without Nesterov",
        "training/optimizers/muon.py",
        "step = learning_rate * (gradient + self.momentum * updated)",
        "step = learning_rate * updated",
        ("training/test_optimizers.py",),
    ),
    Mutant(
        "weight decay on BatchNorm",
        "training/fit.py",
        '_SPARED = ("gamma", "beta", "bias")',
        '_SPARED = ("bias",)',
        ("training/test_fit.py",),
    ),
    Mutant(
        "EMA momentum applied twice",
        "training/fit.py",
        '"ema_momentum": recipe.ema_momentum',
        '"ema_momentum": recipe.ema_momentum**2',
        ("training/test_averages.py",),
    ),
    Mutant(
        "best epoch not restored",
        "training/fitting.py",
        "self.distiller.student.load_weights(best)",
        "pass",
        ("training/test_fit.py",),
    ),
    Mutant(
        "resume one step late",
        "training/fit.py",
        "RemainingBatches(batches, before.steps)",
        "RemainingBatches(batches, before.steps + 1)",
        ("training/test_checkpoint.py",),
    ),
    Mutant(
        "resume without the optimiser",
        "training/checkpoint.py",
        "*model.optimizer.variables,",
        "",
        ("training/test_checkpoint.py",),
    ),
    Mutant(
        "assistants re-initialised",
        "training/strategies.py",
        "return load_model(stage.folder / MODEL_FILE), record",
        "return create_network(stage.config, dataset), record",
        ("training/test_distill.py",),
    ),
    Mutant(
        "test split used for selection",
        "training/splits.py",
        "labels[fitting]), validation, validation",
        "labels[fitting]), validation, test_split(dataset)",
        ("training/test_fit.py",),
    ),
    # Records and statistics.
    Mutant(
        "record appended twice",
        "records/jsonl.py",
        "if last == line:",
        "if not line:",
        ("training/test_fit.py",),
    ),
    Mutant(
        "merge keeps repeated records",
        "records/jsonl.py",
        "found.setdefault(record.key, record)",
        "found[f'{record.key} {count}'] = record",
        ("records/test_run.py",),
    ),
    Mutant(
        "McNemar's counts swapped",
        "report/significance.py",
        "McNemar(gained, lost, binomtest",
        "McNemar(lost, gained, binomtest",
        ("report/test_significance.py",),
    ),
    Mutant(
        "Holm's order reversed",
        "report/significance.py",
        "value * (len(known) - rank)",
        "value * (rank + 1)",
        ("report/test_significance.py",),
    ),
    Mutant(
        "winner by test accuracy",
        "report/winner.py",
        "-(record.validation_accuracy or 0.0)",
        "-(record.test_accuracy or 0.0)",
        ("report/test_winner.py",),
    ),
    # Files.
    Mutant(
        "zero point off by one",
        "quantization/simulation.py",
        "((end - zero_point) * scale",
        "((end - zero_point + 1) * scale",
        ("quantization/test_simulation.py",),
    ),
    Mutant(
        "per-channel scale on the wrong axis",
        "quantization/simulation.py",
        'return -1 if operator.kind == "DEPTHWISE_CONV_2D" else 0',
        "return -1",
        ("quantization/test_simulation.py",),
    ),
    Mutant(
        "calibration from the test split",
        "quantization/calibration.py",
        "return dataset.train_images[",
        "return dataset.test_images[",
        ("quantization/test_calibration.py",),
    ),
    Mutant(
        "arena too small",
        "devices/engines.py",
        '"""Planning may need more than is kept."""',
        "return self._kept_bytes // 2",
        ("devices/test_benchmark.py",),
    ),
    Mutant(
        "class names shuffled",
        "export/metadata.py",
        '"\\n".join(labels)',
        '"\\n".join(labels[::-1])',
        ("export/test_metadata.py",),
    ),
)
