"""Batches that bring a teacher's targets along: images and logits in a dict."""

from gnsmall_keras.data.batches import IMAGES, TEACHER_LOGITS
from gnsmall_keras.distill.labels import shape_of
from gnsmall_keras.distill.teachers import WEIGHTS


def has_targets(x):
    """Whether a teacher's logits are in a batch, beside the images."""
    return isinstance(x, dict) and TEACHER_LOGITS in x


def check_dict(batch, student):
    """Checks a batch's first part that is a dict: what it has, its classes.

    Args:
        batch: the dict, which may also be the inputs of such a student.
        student: the student.

    Raises:
        ValueError: if images or a teacher's logits are missing, or these are of
            other classes than the student's.
    """
    inputs = getattr(student, "inputs", None) or ()
    own = {tensor.name for tensor in inputs if len(inputs) == 1}
    alone = (IMAGES in batch) != (TEACHER_LOGITS in batch)
    if alone and len(inputs) < 2 and not own & set(batch):
        raise ValueError(
            f"A batch with cached targets must have {IMAGES!r} and "
            f"{TEACHER_LOGITS!r}. Received: {[*batch]}. Name its parts so, or "
            "pass the images alone."
        )
    if not has_targets(batch):
        return
    shape = shape_of(batch[TEACHER_LOGITS])
    rank = 3 if WEIGHTS in batch else 2
    classes = student.output_shape[-1]
    if shape and (len(shape) != rank or shape[-1] not in (None, classes)):
        raise ValueError(
            f"{TEACHER_LOGITS!r} must be (batch, classes), of the student's "
            f"{classes} classes. Received: {shape}. Take a cache of the same "
            "data, or a student of as many classes."
        )
