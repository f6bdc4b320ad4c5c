"""Who teaches: one model or several, which only answer."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import keras
from keras import ops

from gnsmall_keras.config import Combine, normalize_weights
from gnsmall_keras.data.batches import TEACHER_LOGITS
from gnsmall_keras.distill.checks import check_teacher, zeros_for
from gnsmall_keras.distill.losses import class_indices
from gnsmall_keras.fields import check
from gnsmall_keras.native.choice import check_kernels, network_for_inference

WEIGHTS = "teacher_weights"
CONFIDENCE = "confidence"


class FrozenTeacher:
    """A model that only answers; the caller's object is never changed.

    It runs in inference mode, outside of the student's gradient, under its own
    dtype policy.

    Args:
        model: from images to logits `(batch, classes)`.
        preprocess: what its images need beforehand, a function or layer from
            the student's images to the teacher's (another size or
            normalisation).

    Raises:
        ValueError: if `model` is not a Keras model.

    Example:
        >>> layers = [keras.layers.Flatten(), keras.layers.Dense(10)]
        >>> model = keras.Sequential([keras.Input((64, 64, 3)), *layers])
        >>> resize = keras.layers.Resizing(64, 64)
        >>> teacher = gns.FrozenTeacher(model, preprocess=resize)
        >>> teacher.logits(keras.ops.zeros((1, 32, 32, 3))).shape[-1]
        10
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        preprocess: Callable[[Any], Any] | None = None,
    ):
        if not isinstance(model, keras.Model):
            raise ValueError(
                "A teacher must be a keras.Model; load_teacher() reads one "
                f"from a file. Received: {type(model).__name__}."
            )
        self.model = model
        self._preprocess = preprocess
        self._native = {}  # by the kernels asked for

    @property
    def models(self) -> list[keras.Model]:
        """The models behind it."""
        return [self.model]

    @property
    def variables(self) -> list[keras.Variable]:
        """What it computes with; to be read only."""
        return list(self.model.variables)

    def check(self, *, classes: int, input_shape) -> None:
        """Checks that a student of these images and classes can learn from it.

        Raises:
            ValueError: see `check_teacher`.
        """
        if self._preprocess is not None:
            inputs = self._preprocess(zeros_for(input_shape))
            input_shape = keras.tree.map_structure(
                lambda x: tuple(x.shape[1:]), inputs
            )
        check_teacher(self.model, classes=classes, input_shape=input_shape)

    def logits(self, images):
        """Returns its logits `(batch, classes)` in float32."""
        if self._preprocess is not None:
            images = self._preprocess(images)
        native = self._native_form()
        if native is None:
            logits = self.model(images, training=False)
        else:
            logits = native.infer(images)
        return ops.stop_gradient(ops.cast(logits, "float32"))

    def _native_form(self):
        """A GhostNet's on a CPU, if it may be; looked for once."""
        kernels = check_kernels("auto")
        if kernels not in self._native:
            self._native[kernels] = network_for_inference(self.model)
        return self._native[kernels]

    def targets(self, images, labels, temperature) -> dict:
        """Returns what the student learns from, by name.

        Args:
            images: the student's batch.
            labels: its classes `(batch,)`, or soft labels `(batch, classes)`.
            temperature: at which the student reads the targets.

        Returns:
            "teacher_logits" `(batch, classes)`, or of several teachers
            `(batch, teachers, classes)` with "teacher_weights"
            `(batch, teachers)`.
        """
        del labels, temperature  # only an ensemble needs them
        return {TEACHER_LOGITS: self.logits(images)}


class TeacherEnsemble:
    """Several teachers as one.

    Args:
        teachers: models or FrozenTeachers, at least one.
        combine: "probabilities" averages their probabilities at the
            student's temperature, "logits" their logits (as the paper does),
            "per_teacher" keeps them apart: the student's loss is the weighted
            mean of its losses towards each.
        weights: a number >= 0 for each teacher, whose sum counts as 1; None
            for equal ones; or "confidence": of each image, in proportion to
            the probability that a teacher gives to the label (of mixed ones,
            that with the largest share).

    Raises:
        ValueError: if an argument breaks one of the rules above.

    Example:
        >>> one, other = (
        ...     keras.Sequential([keras.Input((8,)), keras.layers.Dense(10)])
        ...     for _ in range(2)
        ... )
        >>> ensemble = gns.TeacherEnsemble([one, other], weights=[0.7, 0.3])
        >>> len(ensemble.models)
        2
    """

    def __init__(
        self,
        teachers: Sequence[keras.Model | FrozenTeacher],
        *,
        combine: Literal[
            "probabilities", "logits", "per_teacher"
        ] = "probabilities",
        weights: Sequence[float] | Literal["confidence"] | None = None,
    ):
        if not isinstance(teachers, Iterable):
            raise ValueError(
                "`teachers` must be a list of models or FrozenTeachers. "
                f"Received: {type(teachers).__name__}. Write "
                "TeacherEnsemble([one, other]); one alone goes to the "
                "Distiller."
            )
        teachers = list(teachers)
        for teacher in teachers:
            if isinstance(teacher, TeacherEnsemble):
                raise ValueError(
                    "`teachers` must be models or FrozenTeachers. Received: a "
                    "TeacherEnsemble. Give its teachers, one by one, with "
                    "weights."
                )
        self._teachers = [as_teacher(teacher) for teacher in teachers]
        if not self._teachers:
            raise ValueError(
                "`teachers` must hold at least one teacher. Received none."
            )
        self._combine = check("combine", Combine, combine)
        self._weights = (
            None
            if isinstance(weights, str)
            else normalize_weights(weights, len(self._teachers))
        )
        if isinstance(weights, str) and weights != CONFIDENCE:
            raise ValueError(
                "`weights` must be numbers, None or "
                f"{CONFIDENCE!r}. Received: {weights!r}."
            )

    @property
    def needs_labels(self) -> bool:
        """Whether teachers count by what they say of an image's label."""
        return self._weights is None

    @property
    def models(self) -> list[keras.Model]:
        """The models behind it."""
        return [m for teacher in self._teachers for m in teacher.models]

    @property
    def variables(self) -> list[keras.Variable]:
        """What they compute with; to be read only."""
        return [v for teacher in self._teachers for v in teacher.variables]

    def check(self, *, classes: int, input_shape) -> None:
        """Checks each; see `FrozenTeacher.check`."""
        for teacher in self._teachers:
            teacher.check(classes=classes, input_shape=input_shape)

    def targets(self, images, labels, temperature) -> dict:
        """Returns what the student learns from; see `FrozenTeacher.targets`."""
        logits = ops.stack(
            [teacher.logits(images) for teacher in self._teachers], axis=1
        )
        weights = self._weights_of(logits, labels)
        if self._combine == "per_teacher":
            return {TEACHER_LOGITS: logits, WEIGHTS: weights}
        weights = ops.expand_dims(weights, -1)
        if self._combine == "logits":
            return {TEACHER_LOGITS: ops.sum(weights * logits, axis=1)}
        # Logits whose softmax at `temperature` is the mean probability.
        log_probabilities = ops.log_softmax(logits / temperature, axis=-1)
        mean = ops.logsumexp(log_probabilities + ops.log(weights), axis=1)
        return {TEACHER_LOGITS: temperature * mean}

    def _weights_of(self, logits, labels):
        """Weights `(batch, teachers)` that add up to 1."""
        if self._weights is not None:
            weights = ops.convert_to_tensor(self._weights, "float32")
            return ops.broadcast_to(weights, ops.shape(logits)[:2])
        log_probabilities = ops.log_softmax(logits, axis=-1)
        labels = class_indices(labels, logits.shape[-1])
        of_label = ops.take_along_axis(
            log_probabilities, ops.reshape(labels, (-1, 1, 1)), axis=-1
        )
        return ops.softmax(of_label[..., 0], axis=1)


def agreement(targets, logits):
    """Returns 1.0 for images of which a student says what its targets say.

    Args:
        targets: see `FrozenTeacher.targets`.
        logits: the student's.
    """
    teacher = targets[TEACHER_LOGITS]
    if len(teacher.shape) == 3:
        weights = ops.expand_dims(targets[WEIGHTS], -1)
        teacher = ops.sum(weights * ops.softmax(teacher, axis=-1), axis=1)
    same = ops.equal(ops.argmax(teacher, axis=-1), ops.argmax(logits, axis=-1))
    return ops.cast(same, "float32")


def as_teacher(teacher) -> Any:
    """Wraps a Keras model; what can teach already comes back as it is."""
    if isinstance(teacher, (FrozenTeacher, TeacherEnsemble)):
        return teacher
    return FrozenTeacher(teacher)
