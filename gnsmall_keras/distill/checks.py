"""Checks of teachers and students: shapes, and logits in the end."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from gnsmall_keras.data.pixels import warn_of_pixels
from gnsmall_keras.models import keras_private
from gnsmall_keras.models.saving.files import (
    class_names_of,
    is_shape,
    load_model,
)
from gnsmall_keras.records.run import MODEL_FILE

# What gives the numbers that it takes, and what ends a network in logits.
_LINEAR = keras.activations.linear
_FORMS = (layers.Flatten, layers.Reshape, layers.Identity)
_WITH_KERNELS = (layers.Dense, layers.Conv2D)
_ANY_SIDE = 32  # of images for a network that takes all sizes


def load_teacher(
    path: str | os.PathLike,
    *,
    classes: int,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    class_names: Sequence[str] = (),
) -> keras.Model:
    """Loads any `.keras` classifier to distil from.

    Args:
        path: a `.keras` file, or the folder of a run of `train`.
        classes: of the student.
        input_shape: the student's, `(height, width, channels)`.
        class_names: of the student; a file that names others is refused.

    Returns:
        The network, from the student's normalised images to logits.

    Raises:
        ValueError: if it cannot be loaded, takes other images or tells other
            classes apart, or does not end in logits.

    Example:
        >>> layers = [keras.layers.Flatten(), keras.layers.Dense(10)]
        >>> model = keras.Sequential([keras.Input((32, 32, 3)), *layers])
        >>> model.save("teacher.keras")
        >>> gns.load_teacher("teacher.keras", classes=10).output_shape
        (None, 10)
    """
    path = Path(path)
    if (path / MODEL_FILE).is_file():
        path = path / MODEL_FILE
    teacher = load_model(path)
    names = class_names_of(path)
    if names and class_names and names != tuple(class_names):
        raise ValueError(
            f"The teacher {path} has other classes: {list(names)}, the "
            f"student {list(class_names)}. Take a teacher of the same data."
        )
    check_teacher(
        teacher, classes=classes, input_shape=input_shape, origin=str(path)
    )
    warn_of_pixels(teacher, f"The teacher {path}")
    return teacher


def check_student(student: keras.Model) -> None:
    """Checks that a student has one output, and no softmax or sigmoid there.

    A softmax that a subclass hides is found by what it says of noise.

    Raises:
        ValueError: if it is no model, has other outputs or ends in these.
    """
    if not isinstance(student, keras.Model):
        raise ValueError(
            "A student must be a keras.Model. Received: "
            f"{type(student).__name__}. Put functions and layers into one: "
            "keras.Sequential([keras.Input(shape), ...])."
        )
    if not is_shape(getattr(student, "output_shape", None)):
        shapes_of(student, "student")  # has the words for it
    if ends_in_probabilities(student) or _hides_probabilities(student):
        raise ValueError(
            f"The student {student.name!r} ends in probabilities, logits are "
            "needed. Leave its softmax out, and compile with a loss from "
            "logits, such as LabelCrossEntropy()."
        )


def check_apart(
    student: keras.Model, teacher: Sequence[keras.Variable]
) -> None:
    """Checks that no variable of a teacher is the student's.

    Raises:
        ValueError: if one is.
    """
    own = {id(variable) for variable in student.variables}
    if not own.isdisjoint(map(id, teacher)):
        raise ValueError(
            "The student cannot be its own teacher, nor share layers with "
            "it. Give it layers of its own; for self-distillation a copy: "
            "keras.models.clone_model(student), with its weights set."
        )


def check_teacher(
    teacher: keras.Model,
    *,
    classes: int,
    input_shape: Any,
    origin: str | None = None,
) -> None:
    """Checks that a student of these images and classes can learn from it.

    Args:
        teacher: a model from images to logits.
        classes: of the student.
        input_shape: the student's, `(height, width, channels)`; of other
            inputs their shapes, of several a list or dict of them.
        origin: what messages call the teacher; by default its name.

    Raises:
        ValueError: if it takes other inputs, has other classes, or
            does not end in logits.
    """
    origin = origin or repr(teacher.name)
    taken, told = shapes_of(teacher, f"teacher {origin}")
    _check_taken(taken, input_shape, origin)
    if told != classes:
        raise ValueError(
            f"The teacher {origin} has {told} classes, the student "
            f"{classes}. Take a teacher of the same data."
        )
    outputs = _of_noise(teacher, input_shape)
    if not np.isfinite(outputs).all():
        raise ValueError(
            f"The teacher {origin} gives logits that are NaN or inf. Check its "
            "weights, or take another."
        )
    if ends_in_probabilities(teacher) or _are_probabilities(outputs):
        raise ValueError(
            f"The teacher {origin} ends in probabilities (a softmax or a "
            "sigmoid), logits are needed. If that is the activation of its "
            "last Dense, set it to keras.activations.linear and save the "
            "teacher again; if it is a layer of its own, leave that out."
        )


def _check_taken(taken, given, origin):
    """Checks that a teacher's inputs take what a student's do."""
    ours, theirs = _listed(given), _listed(taken)
    if list(map(len, ours)) == list(map(len, theirs)) and all(
        side in (None, wanted)
        for pair in zip(theirs, ours, strict=True)
        for side, wanted in zip(*pair, strict=True)
    ):
        return
    what = "inputs"
    cure = "Convert them: gns.FrozenTeacher(teacher, preprocess=function)."
    if list(map(len, ours)) == [3]:
        what = "images"
        cure = (
            "Put keras.layers.Resizing before it: "
            f"keras.Sequential([keras.Input({ours[0]}), "
            "keras.layers.Resizing(height, width), teacher]), or give "
            "load_teacher the student's `input_shape` where that is another."
        )
    raise ValueError(
        f"The teacher {origin} takes {what} {taken}, the student {given}. "
        f"{cure}"
    )


def shapes_of(model: keras.Model, role: str) -> tuple[Any, int]:
    """Returns the shape of what a classifier takes, and its classes.

    Args:
        model: with one output, `(batch, classes)`.
        role: what messages call it.

    Returns:
        The shape without the batch, of several inputs a list or dict of them;
        and the classes.

    Raises:
        ValueError: if it has other outputs, or its shapes are not known.
    """
    inputs = keras_private.inputs_of(model)
    taken: Any = getattr(model, "input_shape", None)
    if inputs is not None:
        taken = keras.tree.map_structure(lambda x: tuple(x.shape), inputs)
    told: Any
    try:
        told = model.output_shape
    except AttributeError:  # of a subclass, or before it is built
        told = None
    flat = is_shape(told) and len(told) == 2
    known = inputs is not None or is_shape(taken)
    if not (known and flat and told[-1]):
        raise ValueError(
            f"The {role} must have inputs of known shapes and one output "
            f"(batch, classes). Received: {taken} and {told}. Wrap it: inputs "
            "= keras.Input(shape); keras.Model(inputs, model(inputs))."
        )
    if told[-1] < 2:
        raise ValueError(
            f"The {role} must have a logit for each class, two or more. "
            f"Received: {told[-1]}. End it in Dense(2), with labels 0 and 1; "
            "one that is trained says the same as keras.Model(model.inputs[0], "
            "keras.ops.pad(model.outputs[0], [[0, 0], [1, 0]]))."
        )
    without_batch = keras.tree.map_shape_structure(
        lambda shape: tuple(shape[1:]), taken
    )
    return without_batch, told[-1]


def zeros_for(shapes: Any) -> Any:
    """Returns a batch of one for a network of these input shapes.

    Args:
        shapes: without the batch; of several inputs a list or dict of them.
    """
    return _made_for(shapes, lambda shape: keras.ops.zeros((1, *shape)))


def _made_for(shapes, make):
    """What `make` gives for each shape, with sides where they are open."""
    return keras.tree.map_shape_structure(
        lambda shape: make(
            tuple(_ANY_SIDE if side is None else side for side in shape)
        ),
        shapes,
    )


def _listed(shapes):
    """One shape or several in whatever form, in Keras's order."""
    found: list[tuple[int | None, ...]] = []
    keras.tree.map_shape_structure(
        lambda shape: found.append(tuple(shape)), shapes
    )
    return found


def check_logits(model: keras.Model) -> None:
    """Checks that a model does not end in a softmax or sigmoid.

    Args:
        model: functional or sequential.

    Raises:
        ValueError: if it does.
    """
    if ends_in_probabilities(model):
        raise ValueError(
            f"The model must end in logits. Received: {model.name!r}, which "
            "ends in probabilities. Leave its softmax out, or set the last "
            "layer's activation to keras.activations.linear: files for phones "
            "get one softmax here, those for microcontrollers promise logits."
        )


def ends_in_probabilities(model: keras.Model) -> bool:
    """Returns whether a softmax or a sigmoid is seen at the end.

    What changes no number is looked through. Inside of subclasses nothing is
    seen.
    """
    last = _last_operation(model)
    names = ("softmax", "sigmoid")
    activation = getattr(getattr(last, "activation", None), "__name__", "")
    return activation in names or type(last).__name__.lower() in names


def _last_operation(model) -> Any:
    """The last operation that changes numbers; a model that hides its own."""
    last: Any = model
    tensor: Any = None
    while True:
        if isinstance(last, keras.Model):
            if not getattr(last, "outputs", None):
                return last
            tensor = last.outputs[0]
        elif _keeps_numbers(last):
            tensor = keras_private.tensors_before(tensor)[0]
        else:
            return last
        last = keras_private.operation_of(tensor)


def _keeps_numbers(operation):
    """Whether it gives the numbers that it takes, in another form at most."""
    is_linear = getattr(operation, "activation", None) is _LINEAR
    if isinstance(operation, layers.Activation):
        return is_linear
    return type(operation) in _FORMS or type(operation).__name__ == "Cast"


def _hides_probabilities(student):
    """Whether a student's answers to noise are rows of a softmax.

    Only of images, and where its end is not seen: a forward pass takes time.
    """
    last = _last_operation(student)
    is_seen = type(last) in _WITH_KERNELS and last.activation is _LINEAR
    taken: Any = getattr(student, "input_shape", None)
    known = is_shape(taken) and len(taken) == 4 and None not in taken[1:]
    told: Any = student.output_shape
    if is_seen or not known or len(told) != 2 or told[-1] in (None, 1):
        return False
    is_float = keras.backend.is_float_dtype(student.inputs[0].dtype)
    return is_float and _are_probabilities(_of_noise(student, taken[1:]))


def _are_probabilities(outputs):
    return outputs.min() >= 0 and np.allclose(outputs.sum(-1), 1.0, atol=1e-2)


def _of_noise(model, input_shape):
    """Its outputs for four images of noise; where none go in, for ones.

    Every vocabulary has a word 1; 0 may stand for no word.
    """
    generator = np.random.default_rng(0)

    def draw(shape):
        if len(shape) != 3:
            return np.ones((4, *shape), "float32")
        return generator.normal(0.0, 1.0, (4, *shape)).astype("float32")

    outputs = model(_made_for(input_shape, draw), training=False)
    return np.asarray(
        keras.ops.convert_to_numpy(keras.ops.cast(outputs, "float32"))
    )
