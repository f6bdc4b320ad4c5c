"""Distillation of features: what layers inside student and teacher give.

Source: Romero et al., "FitNets: Hints for Thin Deep Nets", 2015; Zagoruyko and
Komodakis, "Paying More Attention to Attention", 2017.
"""

# Parts of a keras.Model.
# pyright: reportAttributeAccessIssue=false

import contextlib
import dataclasses
import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import keras
from keras import layers, ops

from gnsmall_keras.distill.channels import channel_axis, shape_last
from gnsmall_keras.distill.checks import shapes_of, zeros_for


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeaturePair:
    """Two layers whose outputs shall agree.

    Their channels may be first or last, as `data_format` says.

    Raises:
        ValueError: if a layer is no name, the loss is unknown or the weight no
            number above 0.

    Example:
        >>> pair = gns.FeaturePair(
        ...     student_layer="blocks_4_0_add", teacher_layer="blocks_4_0_add"
        ... )
        >>> pair.weight
        1.0
    """

    student_layer: str
    """Name; inside nested models a path: "backbone/stage3/add"."""
    teacher_layer: str
    """Likewise, of the teacher."""
    weight: float = 1.0
    """Of this term in the total loss, > 0."""
    loss: Literal["mse", "attention"] = "mse"
    """"mse": mean squared error of the features; "attention": of their
    normalised maps of energy, which ask for no equal number of channels."""

    def __post_init__(self):
        for layer in (self.student_layer, self.teacher_layer):
            if not isinstance(layer, str):
                raise ValueError(
                    "A pair's layers must be names. Received: "
                    f"{type(layer).__name__}. Give layer.name, or its path."
                )
        if self.loss not in _LOSSES:
            raise ValueError(
                f"`loss` must be one of {sorted(_LOSSES)}. "
                f"Received: {self.loss!r}."
            )
        is_number = isinstance(self.weight, numbers.Real)
        if not (is_number and 0 < self.weight < math.inf):
            raise ValueError(
                "`weight` must be finite and > 0. Received: "
                f"{self.weight!r}. Leave the pair out instead."
            )


def check_pairs(features: Any) -> tuple[FeaturePair, ...]:
    """Returns the pairs of a list.

    Raises:
        ValueError: if it is none of FeaturePairs.
    """
    listed = isinstance(features, Iterable)
    pairs: tuple[Any, ...] = tuple(features) if listed else (features,)
    wrong = [pair for pair in pairs if not isinstance(pair, FeaturePair)]
    if wrong or not listed:
        received = wrong[0] if wrong else features
        raise ValueError(
            "`features` must be a list of FeaturePairs. Received: "
            f"{type(received).__name__}{'' if wrong else ', without a list'}. "
            "Write features=[gns.FeaturePair(...)], or leave it out."
        )
    return pairs


def feature_loss(pair: FeaturePair, teacher, student):
    """Returns the loss of each image, `(batch,)`, in float32.

    Args:
        pair: what is compared.
        teacher, student: features with the channels at the end.
    """
    teacher = ops.cast(teacher, "float32")
    student = ops.cast(student, "float32")
    return _LOSSES[pair.loss](teacher, student)


def make_adapter(pair: FeaturePair, teacher_shape, student_shape):
    """Returns a layer from the student's channels to the teacher's, or None.

    Args:
        pair: what is compared.
        teacher_shape, student_shape: of the features, with the batch, the
            channels at the end.

    Raises:
        ValueError: if the features differ in more than their channels, or have
            one place alone, where every map of energy is the same.
    """
    if tuple(teacher_shape[1:-1]) != tuple(student_shape[1:-1]):
        raise ValueError(
            f"Features must agree in all but their channels. Received: "
            f"{tuple(student_shape)} from {pair.student_layer!r} and "
            f"{tuple(teacher_shape)} from {pair.teacher_layer!r}, channels at "
            "the end. Name layers with maps of one size."
        )
    if pair.loss == "attention" and math.prod(student_shape[1:-1]) < 2:
        raise ValueError(
            "loss='attention' compares places, so features need two or more. "
            f"Received: {tuple(student_shape)} from {pair.student_layer!r}. "
            "Name layers with maps, or take loss='mse'."
        )
    channels = teacher_shape[-1]
    if pair.loss == "attention" or channels == student_shape[-1]:
        return None
    name = f"adapter_{pair.student_layer.replace('/', '_')}"
    adapter = layers.Dense(channels, use_bias=False, name=name)
    adapter.build(student_shape)
    return adapter


def find_layer(model: keras.Model, path: str) -> keras.layers.Layer:
    """Returns the layer at `path`, names of nested models joined by "/".

    Raises:
        ValueError: if there is none, or it is an input.
    """
    found = model
    for name in path.split("/"):
        inside = {layer.name: layer for layer in getattr(found, "layers", ())}
        if name not in inside:
            raise ValueError(
                f"No layer {name!r} in {found.name!r} (path {path!r}). It has: "
                f"{', '.join(list(inside)[:8]) or 'none'}"
                + (", ..." if len(inside) > 8 else ".")
            )
        found = inside[name]
    if isinstance(found, layers.InputLayer):
        raise ValueError(
            f"A pair's layers must compute something. Received: {path!r}, an "
            f"input of {model.name!r}. Name a layer after it."
        )
    return found


def output_shapes(
    model: keras.Model, found_layers: Sequence[keras.layers.Layer]
) -> list[tuple[int, ...]]:
    """Returns what the layers give for one image, with the batch.

    Raises:
        ValueError: if it is not a tensor.
    """
    inputs, _ = shapes_of(model, "model")
    with recording(found_layers) as outputs:
        model(zeros_for(inputs), training=False)
    for layer, output in zip(found_layers, outputs, strict=True):
        if not hasattr(output, "shape"):
            raise ValueError(
                "A pair's layers must give one tensor when the model is "
                f"called. Received: {type(output).__name__} from "
                f"{layer.name!r} of {model.name!r}. Name another layer."
            )
    return [tuple(output.shape) for output in outputs]


def term_names(pairs: Sequence[FeaturePair], taken: Sequence[str]) -> list[str]:
    """Returns a name for each pair's loss, numbered where a name is taken."""
    names = list(taken)
    for pair in pairs:
        name, number = f"{pair.student_layer}_loss", 1
        while name in names:
            number += 1
            name = f"{pair.student_layer}_{number}_loss"
        names.append(name)
    return names[len(taken) :]


def units_of(adapters: Sequence[Any]) -> list[int | None]:
    """Returns to how many channels each leads; None where there is none."""
    return [adapter and adapter.units for adapter in adapters]


@contextlib.contextmanager
def recording(found_layers):
    """Yields a list that takes the layers' outputs while they are called.

    One forward pass then serves predictions and features, also of layers in
    nested models, which `keras.Model(inputs, layer.output)` cannot reach.
    """
    outputs: list[Any] = [None] * len(found_layers)
    with contextlib.ExitStack() as stack:
        for index, layer in enumerate(found_layers):
            stack.enter_context(_recorded(layer, outputs, index))
        yield outputs


@contextlib.contextmanager
def _recorded(layer, outputs, index):
    original = layer.call
    outer = vars(layer).get("call")  # of another pair with this layer

    def call(*args, **kwargs):
        outputs[index] = original(*args, **kwargs)
        return outputs[index]

    object.__setattr__(layer, "call", call)
    try:
        yield
    finally:
        object.__delattr__(layer, "call")
        if outer is not None:
            object.__setattr__(layer, "call", outer)


class Paired:
    """What `Distiller` holds of features, for the teacher that it has."""

    def _prepare_features(self, teacher):
        """Finds the layers, checks their shapes, makes the adapters."""
        frozen, pairs = self._frozen, self._pairs
        ours = [find_layer(self.student, pair.student_layer) for pair in pairs]
        theirs = []
        if teacher is not None:
            if len(teacher.models) != 1:
                raise ValueError(
                    "`features` needs one teacher, not an ensemble. Received "
                    f"{len(teacher.models)} teachers."
                )
            network = teacher.models[0]
            theirs = [find_layer(network, pair.teacher_layer) for pair in pairs]
            shapes, axes = [], []
            for model, found in ((network, theirs), (self.student, ours)):
                given = output_shapes(model, found)
                axes.append(
                    [
                        channel_axis(model, *layer_and_shape)
                        for layer_and_shape in zip(found, given, strict=True)
                    ]
                )
                shapes.append(list(map(shape_last, given, axes[-1])))
            self._adapt(list(map(make_adapter, pairs, *shapes)))
            frozen.teacher_axes, frozen.student_axes = axes
        frozen.student_layers, frozen.teacher_layers = ours, theirs

    def _adapt(self, adapters):
        """Takes adapters where there are none yet, or none that fit."""
        wanted, before = units_of(adapters), self._adapters
        if before is not None:
            if units_of(before) == wanted:
                return
            optimizer = getattr(self, "optimizer", None)
            if optimizer is not None and optimizer.built:
                raise ValueError(
                    "A teacher must fit the adapters that an optimiser trains. "
                    f"Received: features that need {wanted} units, not "
                    f"{units_of(before)}. Make a new Distiller of the student."
                )
            before.clear()  # Keras forgets them
        self._adapters = adapters


def _mse(teacher, student):
    axes = tuple(range(1, len(student.shape)))
    return ops.mean(ops.square(teacher - student), axis=axes)


def _attention(teacher, student):
    difference = _energy(teacher) - _energy(student)
    return ops.mean(ops.square(difference), axis=-1)


def _energy(features):
    """Where a feature map is strong: `(batch, places)`, of unit length."""
    energy = ops.mean(ops.square(features), axis=-1)
    energy = ops.reshape(energy, (ops.shape(energy)[0], -1))
    squares = ops.sum(ops.square(energy), axis=-1, keepdims=True)
    # Inside the root, whose slope at 0 is infinite: a map may be all zeros.
    return energy * ops.rsqrt(squares + 1e-14)


_LOSSES = {"mse": _mse, "attention": _attention}
