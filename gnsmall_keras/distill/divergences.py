"""How far a student's logits are from a teacher's, image by image.

All compute in float32.
"""

from keras import ops


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
