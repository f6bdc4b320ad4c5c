"""Labels, and losses and accuracy of logits, in float32 or longer."""

from typing import Any

import keras
from keras import ops


def class_indices(labels, classes: int):
    """Returns int32 classes `(batch,)`, of mixed labels the largest share's.

    DKD and the confidence of an ensemble's teachers know one class an image.

    Args:
        labels: class indices `(batch,)`, or shares `(batch, classes)`, such as
            one-hot rows.
        classes: how many there are.

    Raises:
        ValueError: if there are no labels.
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
    return len(labels.shape) == 2 and labels.shape[-1] == classes


def label_cross_entropy(labels, logits, label_smoothing=0.0):
    """Cross-entropy of each image.

    Args:
        labels: `(batch,)` class indices, or `(batch, classes)` shares that add
            up to 1.
        logits: `(batch, classes)`.
        label_smoothing: part of the weight spread evenly over all classes.

    Returns:
        `(batch,)`, in nats.

    Raises:
        ValueError: if there is one column of logits, whose loss would be 0.
    """
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
    if _are_shares(labels, logits.shape[-1]):
        shares = ops.cast(labels, logits.dtype)
        of_label = ops.sum(shares * log_probabilities, axis=-1)
    else:
        labels = ops.cast(ops.reshape(labels, (-1, 1)), "int32")
        of_label = ops.take_along_axis(log_probabilities, labels, axis=-1)[:, 0]
    if not label_smoothing:
        return -of_label
    of_all = ops.mean(log_probabilities, axis=-1)
    return -(1.0 - label_smoothing) * of_label - label_smoothing * of_all


@keras.saving.register_keras_serializable("gnsmall_keras")
class LabelCrossEntropy(keras.losses.Loss):
    """Mean cross-entropy from labels of either form and logits.

    Class indices `(batch,)` or shares `(batch, classes)`: Keras's
    `SparseCategoricalCrossentropy` takes no shares and has no label smoothing,
    its `CategoricalCrossentropy` takes no indices.

    Args:
        label_smoothing: in [0, 1).
        **kwargs: of `keras.losses.Loss`.

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
        self.label_smoothing = label_smoothing

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


def kl_divergence(teacher_logits, student_logits, temperature):
    """T^2 KL(softmax(t / T) || softmax(s / T)) of each image, Hinton's loss.

    For t = [2, 0, -2], s = [1, 0.5, -1] and T = 2 it is 0.33096.

    Args:
        teacher_logits: `(batch, classes)`, t.
        student_logits: `(batch, classes)`, s.
        temperature: T > 0, a float, a scalar tensor or a `keras.Variable`.

    Returns:
        `(batch,)`, in nats times T^2, so that the gradient keeps its scale
        when T changes.

    Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural
    Network", 2015, section 2.
    """
    temperature = ops.cast(temperature, "float32")
    divergence = _divergence(
        _log_probabilities(teacher_logits, temperature),
        _log_probabilities(student_logits, temperature),
    )
    return temperature**2 * divergence


def decoupled_kl(
    labels,
    teacher_logits,
    student_logits,
    temperature,
    target_weight=1.0,
    nontarget_weight=8.0,
):
    """Hinton's loss in two parts with weights of their own (DKD).

    The first part compares the probabilities "the label" and "not the label",
    the second the distributions over the other classes, each renormalised.

    Args:
        labels: `(batch,)` class indices.
        teacher_logits: `(batch, classes)`.
        student_logits: `(batch, classes)`.
        temperature: T > 0, a float, a scalar tensor or a `keras.Variable`.
        target_weight: of the first part, alpha in the paper.
        nontarget_weight: of the second part, beta in the paper.

    Returns:
        `(batch,)`, in nats times T^2.

    Source: Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022.
    """
    temperature = ops.cast(temperature, "float32")
    teacher = _split_at_label(labels, teacher_logits, temperature)
    student = _split_at_label(labels, student_logits, temperature)
    target, nontarget = map(_divergence, teacher, student)
    return temperature**2 * (
        target_weight * target + nontarget_weight * nontarget
    )


def standardized_kl(teacher_logits, student_logits, temperature):
    """Hinton's loss on logits of mean 0 and standard deviation 1 per image.

    The student need not match the range of the teacher's logits. The standard
    deviation divides by the number of classes, as in the paper's algorithm 1;
    its authors' code divides by one less.

    Args:
        teacher_logits: `(batch, classes)`.
        student_logits: `(batch, classes)`.
        temperature: T > 0, a float, a scalar tensor or a `keras.Variable`;
            the paper's base temperature.

    Returns:
        `(batch,)`, in nats times T^2.

    Source: Sun et al., "Logit Standardization in Knowledge Distillation",
    CVPR 2024, algorithms 1 and 2.
    """
    return kl_divergence(
        _standardized(teacher_logits),
        _standardized(student_logits),
        temperature,
    )


def dist(
    teacher_logits,
    student_logits,
    temperature,
    inter_weight=1.0,
    intra_weight=1.0,
):
    """One minus the correlations of teacher's and student's probabilities.

    Inter-class: over the classes of an image. Intra-class: over the images of
    the batch, for a class; its mean over classes is added to every image, so
    that the mean over the batch is the paper's loss. It depends on the batch:
    with one image its correlations are 0.

    A correlation hardly shrinks when T grows: the factor T^2, there for the
    same scale as the other losses', gives this one more weight instead.

    Args:
        teacher_logits: `(batch, classes)`.
        student_logits: `(batch, classes)`.
        temperature: T > 0, a float, a scalar tensor or a `keras.Variable`.
        inter_weight: beta in the paper.
        intra_weight: gamma in the paper.

    Returns:
        `(batch,)`, from 0 to 2 T^2 times the sum of the weights.

    Source: Huang et al., "Knowledge Distillation from A Stronger Teacher",
    NeurIPS 2022 (DIST).
    """
    temperature = ops.cast(temperature, "float32")
    teacher = ops.exp(_log_probabilities(teacher_logits, temperature))
    student = ops.exp(_log_probabilities(student_logits, temperature))
    inter = 1.0 - _correlation(teacher, student, axis=1)
    intra = ops.mean(1.0 - _correlation(teacher, student, axis=0))
    return temperature**2 * (inter_weight * inter + intra_weight * intra)


def _below_peak(logits):
    """Float32 logits minus the largest of each row.

    Done before anything else: near 1e4 float32 steps by 0.001, so a division
    by T or a mean would round away small differences.
    """
    logits = ops.cast(logits, "float32")
    return logits - ops.stop_gradient(ops.max(logits, axis=-1, keepdims=True))


def _log_probabilities(logits, temperature):
    return ops.log_softmax(_below_peak(logits) / temperature, axis=-1)


def _divergence(log_p, log_q):
    """KL(p || q) of each row."""
    return ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1)


def _split_at_label(labels, logits, temperature):
    """Log-probabilities of label or not, and of the others among themselves.

    Returns:
        `(batch, 2)` and `(batch, classes - 1)`.
    """
    logits = ops.cast(logits, "float32")
    classes = logits.shape[-1]
    labels = ops.cast(ops.reshape(labels, (-1, 1)), "int32")
    label_first = (labels + ops.arange(classes, dtype="int32")) % classes
    logits = ops.take_along_axis(logits, label_first, axis=-1)
    # Relative to the largest of the others: the label's may be far above it.
    peak = ops.stop_gradient(ops.max(logits[:, 1:], axis=-1, keepdims=True))
    scaled = (logits - peak) / temperature
    others = scaled[:, 1:]
    mass = ops.logsumexp(others, axis=-1, keepdims=True)
    log_odds = scaled[:, :1] - mass
    two_classes = ops.concatenate([log_odds, -log_odds], axis=-1)
    return ops.log_sigmoid(two_classes), others - mass


def _standardized(logits):
    logits = _below_peak(logits)
    centred = logits - ops.mean(logits, axis=-1, keepdims=True)
    variance = ops.mean(ops.square(centred), axis=-1, keepdims=True)
    # The 1e-7 is inside the root, whose slope at 0 is infinite.
    return centred / ops.sqrt(variance + 1e-7**2)


def _correlation(a, b, axis):
    """Pearson's correlation along an axis; 0 where a or b is constant.

    Float32 rounds probabilities, so what varies by less than about 1e-6 has a
    correlation of chance.
    """
    a = a - ops.mean(a, axis=axis, keepdims=True)
    b = b - ops.mean(b, axis=axis, keepdims=True)
    products = ops.sum(a * a, axis=axis) * ops.sum(b * b, axis=axis)
    # The 1e-8 is inside the root, whose slope at 0 is infinite.
    return ops.sum(a * b, axis=axis) / ops.sqrt(products + 1e-8**2)


class DistillationLoss:
    """Base of the losses between a teacher's and a student's logits.

    A new loss is a function above, a subclass with `name` and `__call__`, and
    its place in `LOSSES`.

    Args:
        **weights: passed by the subclass's `__init__`, by name.

    Raises:
        ValueError: if a weight is negative.
    """

    name: str

    def __init__(self, **weights):
        for name, weight in weights.items():
            if not weight >= 0:
                raise ValueError(f"`{name}` must be >= 0. Received: {weight}.")
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
        """Returns the arguments of `__init__`."""
        return dict(self.weights)

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
        ValueError: if it is neither.
    """
    if isinstance(identifier, DistillationLoss):
        return identifier
    if isinstance(identifier, str) and identifier in LOSSES:
        return LOSSES[identifier]()
    raise ValueError(
        f"`loss` must be one of {list(LOSSES)} or a DistillationLoss. "
        f"Received: {identifier!r}."
    )
