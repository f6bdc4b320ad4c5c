"""Labels, and losses and accuracy of logits, in float32 or longer."""

import inspect
import math
import numbers
from typing import Any

import keras
from keras import ops

from gnsmall_keras.config import check_label_smoothing
from gnsmall_keras.distill.divergences import (
    decoupled_kl,
    dist,
    kl_divergence,
    standardized_kl,
)
from gnsmall_keras.distill.labels import (
    are_known,
    check_columns,
    check_labels,
    check_shares,
)


def class_indices(labels, classes: int):
    """Returns int32 classes `(batch,)`, of mixed labels the largest share's.

    DKD and the confidence of an ensemble's teachers know one class an image.

    Args:
        labels: class indices `(batch,)`, or soft labels
            `(batch, classes)`, such as one-hot rows.
        classes: how many there are.

    Raises:
        ValueError: if there are no labels, or rows of another length.
    """
    if labels is None:
        raise ValueError(
            "This loss or ensemble needs labels; the data gives none. Pass "
            "`(images, labels)`."
        )
    if _are_shares(labels, classes):
        return ops.argmax(labels, axis=-1)
    return ops.cast(ops.reshape(labels, (-1,)), "int32")


def _are_shares(labels, classes):
    check_columns(labels, classes)
    return len(labels.shape) == 2 and labels.shape[-1] == classes


def label_cross_entropy(labels, logits, label_smoothing=0.0):
    """Cross-entropy of each image.

    Args:
        labels: `(batch,)` class indices, or soft labels
            `(batch, classes)` that add up to 1. Inside of a graph and on GPUs,
            where values are not looked at, an index that is no class has the
            loss 0: its image trains nothing.
        logits: `(batch, classes)`.
        label_smoothing: part of the weight spread evenly over all classes.

    Returns:
        `(batch,)`, in nats.

    Raises:
        ValueError: if logits are no rows, or have one column, whose loss would
            be 0; if an index is none of `0 <= label < classes`, or soft labels
            have another number of columns, or more than 1 in all.
    """
    if len(logits.shape) != 2:
        raise ValueError(
            "`logits` must be (batch, classes), a row for each image. "
            f"Received: shape {tuple(logits.shape)}. End the network in "
            "GlobalAveragePooling2D or Flatten, then Dense; for a class at "
            "each place take Keras's SparseCategoricalCrossentropy("
            "from_logits=True)."
        )
    if logits.shape[-1] == 1:
        raise ValueError(
            "`logits` must have a column for each class, two or more. "
            f"Received: shape {tuple(logits.shape)}. End the network in "
            "Dense(2), with labels 0 and 1."
        )
    # Half precision is too short for it; double stays what it is.
    double = keras.backend.standardize_dtype(logits.dtype) == "float64"
    logits = ops.cast(logits, "float64" if double else "float32")
    log_probabilities = ops.log_softmax(logits, axis=-1)
    counts = 1.0
    classes: Any = logits.shape[-1]
    if _are_shares(labels, classes):
        if are_known(labels):
            check_shares(labels)
        soft = ops.cast(labels, logits.dtype)
        of_label = ops.sum(soft * log_probabilities, axis=-1)
    else:
        if are_known(labels):
            check_labels(labels, classes)
        labels = ops.cast(ops.reshape(labels, (-1, 1)), "int32")
        inside = ops.logical_and(labels >= 0, labels < classes)
        # Backends clip, wrap or give NaN for what is outside.
        labels = ops.where(inside, labels, 0)
        counts = ops.cast(inside[:, 0], logits.dtype)
        of_label = ops.take_along_axis(log_probabilities, labels, axis=-1)[:, 0]
    # Several runs in one program have each its own, a number of the program.
    if isinstance(label_smoothing, float | int) and not label_smoothing:
        return -counts * of_label
    of_all = ops.mean(log_probabilities, axis=-1)
    of_label = (1.0 - label_smoothing) * of_label
    return -counts * (of_label + label_smoothing * of_all)


@keras.saving.register_keras_serializable("gnsmall_keras")
class LabelCrossEntropy(keras.losses.Loss):
    """Mean cross-entropy from labels of either form and logits.

    Class indices `(batch,)` or soft labels `(batch, classes)`: Keras's
    `SparseCategoricalCrossentropy` takes no soft labels and has no label
    smoothing, its `CategoricalCrossentropy` takes no indices.

    Args:
        label_smoothing: in [0, 1).
        **kwargs: of `keras.losses.Loss`.

    Raises:
        ValueError: if `label_smoothing` is outside its range.

    Example:
        >>> loss = gns.LabelCrossEntropy(label_smoothing=0.1)
        >>> round(float(loss(np.array([0]), np.array([[2.0, 0.0]]))), 4)
        0.2269
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        *,
        name: str = "label_cross_entropy",
        **kwargs: Any,
    ):
        super().__init__(name=name, **kwargs)
        self.label_smoothing = check_label_smoothing(label_smoothing)

    def call(self, y_true, y_pred):
        """Returns the loss of each image, `(batch,)`."""
        return label_cross_entropy(y_true, y_pred, self.label_smoothing)

    def get_config(self):
        """Returns the arguments of `__init__`."""
        return {**super().get_config(), "label_smoothing": self.label_smoothing}


@keras.saving.register_keras_serializable("gnsmall_keras")
class LabelAccuracy(keras.metrics.Mean):
    """Part of the images whose largest logit is at their label.

    One metric for training and validation: a label is a class index, or shares
    of which the largest counts.

    Args:
        name, dtype: of `keras.metrics.Mean`.
    """

    def __init__(self, name="accuracy", dtype=None):
        super().__init__(name=name, dtype=dtype)

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Counts a batch."""
        right = ops.equal(
            class_indices(y_true, y_pred.shape[-1]), ops.argmax(y_pred, axis=-1)
        )
        return super().update_state(ops.cast(right, self.dtype), sample_weight)


class DistillationLoss:
    """Base of the losses between a teacher's and a student's logits.

    A loss of one's own is a subclass with `name` and `__call__`, of which
    `Distiller(loss=...)` takes an object. With an `__init__` whose arguments
    are not all weights it has a `get_config` as well, to be saved.

    Args:
        **weights: passed by the subclass's `__init__`, by name.

    Raises:
        ValueError: if a weight is no number, negative, NaN or inf.

    Example:
        >>> class SquaredLogits(gns.DistillationLoss):
        ...     name = "squared_logits"
        ...
        ...     def __call__(self, labels, teacher, student, temperature):
        ...         difference = teacher - student
        ...         return keras.ops.mean(difference**2, axis=-1)
        >>> loss = SquaredLogits()
        >>> loss(None, np.ones((2, 3)), np.zeros((2, 3)), 1.0).shape[0]
        2
    """

    name: str
    needs_labels = False  # where it is False, labels may be None

    def __init__(self, **weights: float):
        for name, weight in weights.items():
            is_number = isinstance(weight, numbers.Real)
            if not (is_number and 0 <= weight < math.inf):
                raise ValueError(
                    f"`{name}` must be finite and >= 0. Received: {weight!r}."
                )
        self.weights = weights

    def __call__(self, labels, teacher_logits, student_logits, temperature):
        """Returns the loss of each image, `(batch,)`.

        Args:
            labels: `(batch,)` class indices.
            teacher_logits: `(batch, classes)`.
            student_logits: `(batch, classes)`.
            temperature: > 0, a float, a scalar tensor or a `keras.Variable`.
        """
        raise NotImplementedError

    def get_config(self):
        """Returns the arguments of `__init__`, if all are weights.

        Raises:
            ValueError: if one is not; the subclass then has a `get_config` of
                its own.
        """
        weights = dict(getattr(self, "weights", {}))
        kind = type(self)
        lost = [
            name
            for name, parameter in inspect.signature(kind).parameters.items()
            if parameter.kind
            not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            and name not in weights
        ]
        if lost and kind.get_config is DistillationLoss.get_config:
            raise ValueError(
                "A DistillationLoss is saved with the arguments of its "
                f"`__init__`. Received: {kind.__name__}, whose {lost} are no "
                "weights. Write get_config in this class, which returns all "
                "arguments by name."
            )
        return weights

    @classmethod
    def from_config(cls, config):
        """Returns the loss that `get_config` describes."""
        return cls(**config)


@keras.saving.register_keras_serializable("gnsmall_keras")
class HintonKD(DistillationLoss):
    """Hinton's loss (Hinton et al. 2015), `kl_divergence`."""

    name = "kd"

    def __call__(self, labels, teacher_logits, student_logits, temperature):
        """Returns the loss of each image, `(batch,)`; needs no labels."""
        return kl_divergence(teacher_logits, student_logits, temperature)


@keras.saving.register_keras_serializable("gnsmall_keras")
class DecoupledKD(DistillationLoss):
    """DKD (Zhao et al. 2022), `decoupled_kl`.

    Args:
        target_weight: >= 0, alpha in the paper.
        nontarget_weight: >= 0, beta in the paper.
    """

    name = "dkd"
    needs_labels = True

    def __init__(self, target_weight=1.0, nontarget_weight=8.0):
        super().__init__(
            target_weight=target_weight, nontarget_weight=nontarget_weight
        )

    def __call__(self, labels, teacher_logits, student_logits, temperature):
        """Returns the loss of each image, `(batch,)`."""
        return decoupled_kl(
            labels, teacher_logits, student_logits, temperature, **self.weights
        )


@keras.saving.register_keras_serializable("gnsmall_keras")
class StandardizedKD(DistillationLoss):
    """Logit standardisation (Sun et al. 2024), `standardized_kl`."""

    name = "standardized_kd"

    def __call__(self, labels, teacher_logits, student_logits, temperature):
        """Returns the loss of each image, `(batch,)`; needs no labels."""
        return standardized_kl(teacher_logits, student_logits, temperature)


@keras.saving.register_keras_serializable("gnsmall_keras")
class DIST(DistillationLoss):
    """DIST (Huang et al. 2022), `dist`.

    Args:
        inter_weight: >= 0, beta in the paper.
        intra_weight: >= 0, gamma in the paper.
    """

    name = "dist"

    def __init__(self, inter_weight=1.0, intra_weight=1.0):
        super().__init__(inter_weight=inter_weight, intra_weight=intra_weight)

    def __call__(self, labels, teacher_logits, student_logits, temperature):
        """Returns the loss of each image, `(batch,)`; needs no labels."""
        return dist(teacher_logits, student_logits, temperature, **self.weights)


LOSSES = {
    loss.name: loss for loss in (HintonKD, DecoupledKD, StandardizedKD, DIST)
}


def get_loss(identifier) -> DistillationLoss:
    """Returns a distillation loss by its name, with its default weights.

    Args:
        identifier: a name in `LOSSES`, or a `DistillationLoss`, which comes
            back as it is.

    Raises:
        ValueError: if it is neither, or has no name of its own.
    """
    if isinstance(identifier, DistillationLoss):
        name = getattr(identifier, "name", None)
        if not isinstance(name, str) or name in ("", "label"):
            raise ValueError(
                "A DistillationLoss must have a `name` for its term in the "
                f'logs, other than "label". Received: {name!r} of '
                f"{type(identifier).__name__}. Write name = ... in its class."
            )
        return identifier
    if isinstance(identifier, str) and identifier in LOSSES:
        return LOSSES[identifier]()
    raise ValueError(
        f"`loss` must be one of {list(LOSSES)} or a DistillationLoss. "
        f"Received: {identifier!r}. For a loss of your own write a subclass "
        "of gnsmall_keras.DistillationLoss."
    )


def loss_of_each(loss: DistillationLoss, *values: Any) -> Any:
    """Returns what a distillation loss gives, if that is `(batch,)`.

    Args:
        loss: which.
        *values: that it is called with.

    Raises:
        ValueError: if it is of another shape, by which sample weights and the
            weights of teachers would not reach their images.
    """
    found = loss(*values)
    shape: Any = getattr(found, "shape", ())
    if len(shape) != 1:
        raise ValueError(
            f"A DistillationLoss must give a number for each image, (batch,). "
            f"Received: shape {tuple(shape)} from {loss.name!r}. Take the "
            "mean or sum over axis -1 alone."
        )
    return found
