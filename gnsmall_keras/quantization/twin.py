"""A fused network's tf_keras twin, clustered or pruned; a process of its own.

`compression.compress` starts it, in an environment that has tf_keras and
tensorflow-model-optimization.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from scipy.special import softmax

from gnsmall_keras.quantization.compression import (
    JOB_FILE,
    MODEL_FILE,
)
from gnsmall_keras.quantization.probes import check_same, make_probes
from gnsmall_keras.quantization.qat import QuantizationTraining, batches_of

Replace = Callable[[str, Any, Any, Any], Any]
# Layers of fused networks, with what of their configuration both Keras know.
_KNOWN = {
    "Conv2D": ("filters", "kernel_size", "strides", "padding", "use_bias"),
    "DepthwiseConv2D": ("kernel_size", "strides", "padding", "use_bias"),
    "Dense": ("units", "use_bias"),
    "ReLU": (),
    "Activation": ("activation",),
    "Concatenate": ("axis",),
    "Add": (),
    "Multiply": (),
    "AveragePooling2D": ("pool_size", "strides", "padding"),
    "GlobalAveragePooling2D": ("keepdims",),
    "Resizing": ("height", "width", "interpolation"),
    "ZeroPadding2D": ("padding",),
    "Flatten": (),
}
_KERNELS = ("Conv2D", "Dense")  # what tfmot compresses
# Smaller kernels are left as they are: they take few bytes, and the network
# depends on them (docs/log.md).
_FEWEST = 8  # weights for each value of a clustered kernel
_FEWEST_PRUNED = 2_000  # weights of a pruned one
_PRUNED_BY = 0.6  # of all steps, the last sparsity is reached
_LOOKS = 50  # of pruning at the magnitudes


def build_twin(model: keras.Model, replace: Replace | None = None):
    """Returns a tf_keras model with the layers and weights of a Keras one.

    Args:
        model: fused.
        replace: makes a layer's output another way: given its class name, its
            own layer, its inputs and the twin's layer, or None for an input.

    Raises:
        ValueError: if it has a layer that is not known here, or the twin
            computes something else.
    """
    import tf_keras

    made = {}
    config = model.get_config()
    for spec in config["layers"]:
        name, kind, given = spec["name"], spec["class_name"], spec["config"]
        if kind == "InputLayer":
            shape = tuple(given["batch_shape"][1:])
            made[name] = tf_keras.Input(shape, name=name)
            pixels = made[name]
            if replace:
                made[name] = replace(kind, None, pixels, None)
            continue
        if kind not in _KNOWN or len(spec["inbound_nodes"]) != 1:
            raise ValueError(
                "A network that tfmot compresses has fused GhostNets' layers. "
                f"Received: layer {name!r} of {kind}. Leave --compress out."
            )
        if kind != "Activation" and given.get("activation", "linear") not in (
            "linear",
            None,
        ):
            raise ValueError(
                f"Layer {name!r} must have its activation as a layer of its "
                f"own. Received: {given['activation']!r}."
            )
        options = {key: given[key] for key in _KNOWN[kind]}
        if options.get("activation") == "hard_sigmoid":
            options["activation"] = _hard_sigmoid
        layer = getattr(tf_keras.layers, kind)(**options, name=name)
        own = model.get_layer(name)
        inputs = _inputs(spec["inbound_nodes"][0]["args"], made)
        made[name] = (replace or _as_is)(kind, own, inputs, layer)
        if layer.built:
            layer.set_weights(own.get_weights())
    ((name, *_),) = _listed(config["output_layers"])
    twin = tf_keras.Model(pixels, made[name])
    if not replace:
        check_equal(model, twin)
    return twin


def _as_is(kind, own, inputs, layer):
    return layer(inputs)


def _hard_sigmoid(x):
    """Keras 3's; tf_keras has 0.2 x + 0.5."""
    import tf_keras

    return tf_keras.activations.relu(x + 3.0, max_value=6.0) / 6.0


def _listed(places):
    return [places] if isinstance(places[0], str) else places


def _inputs(arguments, made):
    (given,) = arguments
    if isinstance(given, list):
        return [made[each["config"]["keras_history"][0]] for each in given]
    return made[given["config"]["keras_history"][0]]


def check_equal(
    model: keras.Model, twin, given: Callable = lambda images: images
) -> None:
    """Checks that a twin computes the same.

    Args:
        model: of normalised images.
        twin: of tf_keras.
        given: what the twin takes instead of these.

    Raises:
        ValueError: otherwise.
    """
    images = make_probes(model)
    check_same(
        twin(given(images), training=False).numpy(),
        keras.ops.convert_to_numpy(model(images, training=False)),
        "The tf_keras twin must compute the same.",
    )


def _wrapped(twin, kind, amount, steps):
    """The twin with tfmot's wrappers around its larger kernels."""
    import tensorflow_model_optimization as tfmot
    import tf_keras

    clustering, sparsity = tfmot.clustering.keras, tfmot.sparsity.keras

    def wrap(layer):
        if type(layer).__name__ not in _KERNELS:
            return layer
        size = int(np.prod(layer.kernel.shape))
        if size < (_FEWEST * amount if kind == "cluster" else _FEWEST_PRUNED):
            return layer
        if kind == "cluster":
            return clustering.cluster_weights(
                layer,
                number_of_clusters=int(amount),
                cluster_centroids_init=(
                    clustering.CentroidInitialization.KMEANS_PLUS_PLUS
                ),
            )
        schedule = sparsity.PolynomialDecay(
            initial_sparsity=0.0,
            final_sparsity=amount,
            begin_step=0,
            end_step=max(1, int(_PRUNED_BY * steps)),
            frequency=max(1, steps // _LOOKS),
        )
        return sparsity.prune_low_magnitude(layer, pruning_schedule=schedule)

    return tf_keras.models.clone_model(twin, clone_function=wrap)


def fine_tune(
    network,
    training: QuantizationTraining,
    *,
    given: Callable = lambda images: images,
    callbacks: Sequence = (),
) -> None:
    """Trains a tf_keras network to say what the teacher says.

    Args:
        network: changed in place.
        training: on what, for how long.
        given: what the network takes instead of normalised images.
        callbacks: of the training.
    """
    import tf_keras

    batches = batches_of(training)

    steps = training.epochs * len(batches)
    rate = tf_keras.optimizers.schedules.CosineDecay(
        training.peak_learning_rate, steps
    )
    network.compile(
        optimizer=tf_keras.optimizers.Adam(rate),
        loss=tf_keras.losses.CategoricalCrossentropy(from_logits=True),
    )
    network.fit(
        _taught(training, batches, given),
        epochs=training.epochs,
        steps_per_epoch=len(batches),
        callbacks=[*callbacks],
        verbose=2,
    )


def _taught(training, batches, given):
    """Yields images with the teacher's shares of classes and the labels'."""
    weight = training.label_weight
    for epoch in range(training.epochs):
        batches.start_at(epoch)
        for number in range(len(batches)):
            images, labels = batches[number][:2]
            logits = training.teacher.predict_on_batch(np.asarray(images))
            shares = softmax(logits / training.temperature, axis=-1)
            if weight:
                truth = np.eye(shares.shape[-1], dtype=np.float32)[
                    np.asarray(labels).reshape(-1)
                ]
                shares = weight * truth + (1.0 - weight) * shares
            yield given(np.asarray(images)), shares


def work(folder: Path) -> None:
    """Compresses what `compress` has written, in the process it started.

    Raises:
        ValueError: as `compress`.
    """
    import tensorflow_model_optimization as tfmot

    job = json.loads((folder / JOB_FILE).read_text())
    model = keras.saving.load_model(folder / MODEL_FILE, compile=False)
    training = QuantizationTraining.load(folder)
    keras.utils.set_random_seed(training.seed)
    kind, amount = job["kind"], job["amount"]
    steps = training.epochs * len(batches_of(training))
    wrapped = _wrapped(build_twin(model), kind, amount, steps)
    pruning = tfmot.sparsity.keras.UpdatePruningStep
    fine_tune(
        wrapped, training, callbacks=[pruning()] if kind == "prune" else []
    )
    strip = {
        "cluster": tfmot.clustering.keras.strip_clustering,
        "prune": tfmot.sparsity.keras.strip_pruning,
    }[kind]
    stripped = strip(wrapped)
    for layer in stripped.layers:
        if layer.get_weights():
            model.get_layer(layer.name).set_weights(layer.get_weights())
    check_equal(model, stripped)
    model.save(folder / MODEL_FILE)
