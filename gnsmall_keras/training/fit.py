"""One network learns: compiled after a recipe, from its last checkpoint on."""

from typing import Any

import keras

from gnsmall_keras.data.batches import RemainingBatches, TrainingBatches
from gnsmall_keras.data.dataset import Dataset
from gnsmall_keras.distill.distiller import Distiller
from gnsmall_keras.distill.losses import LabelAccuracy, LabelCrossEntropy
from gnsmall_keras.distill.teachers import TeacherEnsemble
from gnsmall_keras.models.keras_private import set_random_seed
from gnsmall_keras.models.registry import create_model
from gnsmall_keras.models.saving.pretrained import start_from
from gnsmall_keras.native.choice import NoNativeKernels
from gnsmall_keras.recipes import Recipe
from gnsmall_keras.records.folders import CHECKPOINT_FILE
from gnsmall_keras.training import checkpoint, devices
from gnsmall_keras.training.experiment import Network
from gnsmall_keras.training.fitting import Fitting, Stage, prepare
from gnsmall_keras.training.optimizers.muon import CoupledSGD, PointwiseMuon
from gnsmall_keras.training.optimizers.schedules import (
    WarmupCosine,
    WarmupLinear,
)
from gnsmall_keras.training.scan.choice import choose_loop
from gnsmall_keras.training.scan.single import fit_by_chunks
from gnsmall_keras.training.splits import Split

# Names of the variables whose decay a recipe with decay_all=False spares.
_SPARED = ("gamma", "beta", "bias")
_SCHEDULES = {"cosine": WarmupCosine, "linear": WarmupLinear}


def create_network(network: Network, dataset: Dataset) -> keras.Model:
    """Returns the network with its seed's initial weights."""
    set_random_seed(network.seed)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(network.precision)
    try:
        model = create_model(
            network.model,
            classes=dataset.classes,
            **_shape(dataset),
            **network.options,
        )
    finally:
        keras.config.set_dtype_policy(before)
    if network.start != "random":
        start_from(
            model, network.start, network=network.model, width=network.width
        )
    return model


def _shape(dataset):
    """That of images, where it is not the usual one."""
    shape = dataset.train_images.shape[1:]
    return {} if shape == (32, 32, 3) else {"input_shape": shape}


def learn(
    model: keras.Model,
    teachers: keras.Model | TeacherEnsemble | None,
    batches: TrainingBatches,
    monitored: Split,
    stage: Stage,
) -> checkpoint.Progress:
    """Trains one network in place; returns how it went."""
    distiller = make_distiller(model, teachers, len(batches), stage)
    loop = choose_loop(stage.loop, distiller, stage.experiment.learning.devices)
    fitting = prepare(distiller, batches, monitored, stage, loop=loop)
    try:
        if loop == "chunks":
            fit_by_chunks(fitting)
        else:
            _fit(fitting)
    finally:
        fitting.close()
    return fitting.finish()


def make_distiller(
    model: keras.Model,
    teachers: keras.Model | TeacherEnsemble | None,
    steps_per_epoch: int,
    stage: Stage,
) -> Distiller:
    """Returns a compiled Distiller that trains a model."""
    recipe = stage.experiment.learning.recipe
    teaching = stage.experiment.teaching
    path = stage.folder / CHECKPOINT_FILE
    kernels = checkpoint.kernels_to_go_on_with(path)
    options = {**(teaching.options if teaching else {}), "kernels": kernels}
    distiller = Distiller(student=model, teacher=teachers, **options)
    compile_model(distiller, recipe, steps=recipe.epochs * steps_per_epoch)
    if kernels == "native":
        _check_native(distiller, path)
    return distiller


def _check_native(distiller, path):
    """Says what helps where a training that began natively cannot go on so."""
    try:
        _ = distiller.chosen_kernels
    except NoNativeKernels as error:
        if not any(checkpoint.how_far(path)):
            raise
        raise ValueError(
            f"The training of {path} began with native kernels and has to go "
            f"on with them, which is not possible here: {error.reason}. Go on "
            "where they are, or delete the file to start anew with Keras's "
            "kernels."
        ) from None


def compile_model(model: keras.Model, recipe: Recipe, *, steps: int) -> None:
    """Compiles `model` for a training of `steps` steps after `recipe`."""
    schedule = _SCHEDULES[recipe.schedule](
        recipe.peak_learning_rate, steps, recipe.warmup_fraction
    )
    options = {
        "momentum": recipe.momentum,
        "weight_decay": recipe.weight_decay,
        "use_ema": recipe.ema_momentum != 0,
        "ema_momentum": recipe.ema_momentum,
    }
    if recipe.optimizer == "muon":
        optimizer = PointwiseMuon(
            schedule,
            muon_scale=recipe.muon_scale,
            muon_weight_decay=recipe.muon_weight_decay,
            muon_gates=recipe.muon_gates,
            **options,
        )
    else:
        optimizer = CoupledSGD(schedule, **options)
    if not recipe.decay_all:
        optimizer.exclude_from_weight_decay(var_names=_SPARED)
    model.compile(
        optimizer=optimizer,
        loss=LabelCrossEntropy(recipe.label_smoothing),
        # Weighted, for the images that fill up a batch of several devices.
        weighted_metrics=[LabelAccuracy()],
        jit_compile=_jit_compile(),
        steps_per_execution=devices.steps_at_once(),
    )
    _make_variables(model)


def _make_variables(model):
    """Makes the variables of optimiser, loss and metrics before training.

    TensorFlow traces the training step twice where the first trace makes any:
    half a minute more until the first step.
    """
    model.optimizer.build(model.trainable_variables)
    labels = keras.ops.zeros((1,), "int32")
    network = getattr(model, "student", model)
    logits = keras.ops.zeros((1, network.output_shape[-1]))
    model.compute_loss(y=labels, y_pred=logits)
    model.compute_metrics(None, labels, logits)
    model.reset_metrics()


def _jit_compile() -> Any:
    """Keras's choice, but for TensorFlow only on one GPU.

    On a CPU it compiles for over a minute (docs/log.md).
    """
    if keras.config.backend() != "tensorflow":
        return "auto"
    return "auto" if devices.on_one_gpu() else False


def _fit(fitting: Fitting) -> None:
    """Trains by Keras's loop, a program for each step."""
    batches, before = fitting.batches, fitting.before

    def fit(part, first, last):
        fitting.distiller.fit(
            part,
            epochs=last,
            initial_epoch=first,
            shuffle=False,  # the batches have their own, seeded order
            validation_data=fitting.validation,
            callbacks=fitting.callbacks,
            verbose=0,
        )

    first = before.epochs
    if before.steps:  # the rest of an epoch that was interrupted
        fit(RemainingBatches(batches, before.steps), first, first + 1)
        first += 1
    fit(batches, first, fitting.epochs)
