"""Knowledge distillation as a Keras model."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from gnsmall_keras.config import (
    Kernels,
    check_label_weight,
    check_temperature,
)
from gnsmall_keras.data.batches import IMAGES, TEACHER_LOGITS
from gnsmall_keras.distill.channels import channels_last
from gnsmall_keras.distill.checks import (
    check_apart,
    check_student,
    shapes_of,
)
from gnsmall_keras.distill.features import (
    FeaturePair,
    Paired,
    check_pairs,
    feature_loss,
    recording,
    term_names,
)
from gnsmall_keras.distill.losses import (
    DistillationLoss,
    class_indices,
    get_loss,
    loss_of_each,
)
from gnsmall_keras.distill.running import Running
from gnsmall_keras.distill.state import BatchMean, Setting, Step, Untracked
from gnsmall_keras.distill.steps import STEPS
from gnsmall_keras.distill.stored_teacher import check_dict, has_targets
from gnsmall_keras.distill.teachers import (
    WEIGHTS,
    FrozenTeacher,
    TeacherEnsemble,
    agreement,
    as_teacher,
)
from gnsmall_keras.models import keras_private
from gnsmall_keras.native.choice import check_kernels, using

_FEATURES = "teacher_features"


@keras.saving.register_keras_serializable("gnsmall_keras")
class Distiller(Running, Paired, STEPS[keras.config.backend()], keras.Model):
    """Trains a student on labels and on what teachers say.

    The loss of a batch is `label_weight` times the compiled loss plus
    `1 - label_weight` times the distillation loss, plus features' losses and
    the student's regularisers. `evaluate` and `predict` are the student's
    alone; without a compiled loss `evaluate` has the loss of training, of what
    the teacher says. Without a teacher it is plain training.

    A batch is `(images, labels)`, with sample weights if wanted; or its first
    part is a dict of "images" and "teacher_logits" `(batch, classes)`, and no
    teacher runs (see `CachedTeacher`).

    Args:
        student: from images, or any other inputs, to logits; trained in
            place.
        teacher: a Keras model, `FrozenTeacher`, `TeacherEnsemble`, or None. It
            is never changed, saved or trained. On JAX a callback of batches
            may call it only as `self.model.teacher`.
        label_weight: in [0, 1], of the labels' loss. A variable, to which
            callbacks may assign: `distiller.label_weight = 0.1`. Without a
            compiled loss the distillation loss still counts `1 - label_weight`.
        temperature: > 0, divides all logits before their softmax. A variable
            as well.
        loss: a `DistillationLoss` or its name: "kd" (Hinton), "dkd",
            "standardized_kd", "dist"; these are of a softmax, of classes that
            exclude each other.
        features: `FeaturePair`s to make agree besides.
        track_agreement: whether "teacher_agreement", the part of images on
            which student and teacher choose the same class, is a metric, also
            of `evaluate` (where the teacher then runs, if there is one).
        expects_teacher: whether `fit` needs targets; by default if there is a
            teacher. A Distiller read from a file remembers that it had one.
        adapters: of such a Distiller, each pair's Dense layer or None.
        kernels: what computes the student: "native", this package's own code
            for GhostNets in float32 on a CPU, "keras", or "auto": the first
            where it is possible; not of subclasses with their own `call`,
            `compute_loss` or weights to train, nor of weights with a gradient
            hook of PyTorch. Native steps leave no `grad`. Which is asked when
            a step is built, on PyTorch also once a layer is frozen.
        **kwargs: of `keras.Model`.

    Raises:
        ValueError: if an argument breaks one of the rules above, or the teacher
            does not fit the student.

    Example:
        >>> def small():
        ...     layers = [keras.layers.Flatten(), keras.layers.Dense(10)]
        ...     return keras.Sequential([keras.Input((8, 8, 3)), *layers])
        >>> student, teacher = small(), small()
        >>> distiller = gns.Distiller(student, teacher)
        >>> distiller.compile("adam", loss=gns.LabelCrossEntropy())
        >>> images, labels = np.ones((4, 8, 8, 3)), np.arange(4)
        >>> found = distiller.fit(images, labels, verbose=0)
        >>> {"kd_loss", "label_loss"} <= found.history.keys()
        True
    """

    label_weight = Setting(check_label_weight)
    temperature = Setting(check_temperature)

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model | FrozenTeacher | TeacherEnsemble | None = None,
        *,
        label_weight: float = 0.5,
        temperature: float = 4.0,
        loss: str | DistillationLoss = "kd",
        features: Sequence[FeaturePair] = (),
        track_agreement: bool = False,
        expects_teacher: bool | None = None,
        adapters: Sequence[keras.layers.Layer | None] | None = None,
        kernels: Kernels = "auto",
        **kwargs: Any,
    ):
        check_label_weight(label_weight)
        check_temperature(temperature)
        check_kernels(kernels)
        check_student(student)
        kwargs.setdefault("dtype", student.dtype_policy)
        kwargs.setdefault("name", f"distiller_of_{student.name}")
        super().__init__(**kwargs)
        self.student = student
        self.distillation_loss = get_loss(loss)
        self._mean = BatchMean(name="mean")
        self._label_weight = self._number("label_weight", label_weight)
        self._temperature = self._number("temperature", temperature)
        self._pairs = check_pairs(features)
        self._frozen, self._step = Untracked(), Step()
        self._kernels = kernels
        self._adapters = adapters  # None until a teacher tells the shapes
        self._term_trackers = [
            keras.metrics.Mean(name=name) for name in self._term_names()
        ]
        self._agreement = (
            keras.metrics.Mean(name="teacher_agreement")
            if track_agreement
            else None
        )
        self.expects_teacher = bool(expects_teacher) or teacher is not None
        self.built = True
        self._take_teacher(teacher)

    @property
    def teacher(self):
        """Who teaches, or None."""
        return self._frozen.teacher

    def set_teacher(self, teacher) -> None:
        """Gives the student a teacher, or another one; None takes it away.

        Without one, training is plain or by cached targets. Not an attribute
        to assign to: Keras would save and train the model. Nor a call for
        callbacks: steps are compiled for one teacher, so a chain of teachers is
        a `fit` for each, the later ones with `initial_epoch`.

        Raises:
            ValueError: if it does not fit the student, or the adapters of
                `features` that an optimiser trains already; and during `fit`,
                `evaluate` or `predict`.
        """
        if self._frozen.calls:
            raise ValueError(
                "A Distiller gets its teacher before `fit` or after it. "
                "Received: set_teacher during fit, evaluate or predict. End "
                "this fit, call set_teacher, then call fit again with "
                "initial_epoch=the epochs done."
            )
        self._take_teacher(teacher)
        self.expects_teacher = teacher is not None

    def _take_teacher(self, teacher):
        if teacher is not None:
            teacher = as_teacher(teacher)
            images, classes = shapes_of(self.student, "student")
            check_apart(self.student, teacher.variables)
            teacher.check(classes=classes, input_shape=images)
        if self._pairs:
            self._prepare_features(teacher)
        self._frozen.teacher = teacher
        # What was traced or compiled with another teacher is void.
        self.train_function = self.test_function = None

    def _number(self, name, value):
        return self.add_weight(
            name=name,
            shape=(),
            initializer=keras.initializers.Constant(value),
            trainable=False,
            dtype="float32",
            autocast=False,
        )

    def _teacher_variables(self):
        frozen = getattr(self, "_frozen", None)
        return frozen.teacher.variables if frozen and frozen.teacher else []

    def call(self, inputs, training=None):
        """Returns the student's logits for images, or for a whole batch."""
        layers = self._frozen.student_layers if training else ()
        if isinstance(inputs, dict):
            check_dict(inputs, self.student)
        if has_targets(inputs):
            inputs = inputs[IMAGES]
            if self._counts_targets(training):
                layers = self._frozen.student_layers
        with recording(layers) as outputs:
            logits = self._student_logits(inputs, training)
        self._step.student_features = channels_last(
            outputs, self._frozen.student_axes
        )
        return logits

    def _with_targets(self, data, training):
        """Puts what the teacher says beside the images of a batch."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        self._check_given(x, y)
        if has_targets(x):
            check_dict(x, self.student)
            return data
        if self.teacher is None:
            if self.expects_teacher and training:
                raise ValueError(
                    "This Distiller has no teacher: files hold the student "
                    "alone. Call `distiller.set_teacher(teacher)` first, or "
                    "train on batches with cached targets."
                )
            return data
        temperature = ops.convert_to_tensor(self.temperature)
        with (
            using(self._kernels),
            recording(self._frozen.teacher_layers) as outputs,
        ):
            targets = self.teacher.targets(x, y, temperature)
        if outputs:
            outputs = channels_last(outputs, self._frozen.teacher_axes)
            targets[_FEATURES] = [ops.stop_gradient(o) for o in outputs]
        return keras.utils.pack_x_y_sample_weight(
            {IMAGES: x, **targets}, y, sample_weight
        )

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """Returns the total loss of a batch; logs its terms.

        Without targets in `x` it is the compiled loss and the regularisers.
        """
        self._check_given(x, y)
        counts = self._counts_targets(training)
        self._step.logs_terms = counts and has_targets(x)
        if not self._step.logs_terms:
            self._check_loss(training=training)
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        terms = self._target_losses(x, y, y_pred, sample_weight)
        total = (1.0 - self.label_weight) * terms[0]
        for pair, term in zip(self._pairs, terms[1:], strict=True):
            total = total + pair.weight * term
        compiled = keras_private.compiled_loss(self)
        if compiled is not None:
            label_loss = compiled(y, y_pred, sample_weight)
            total = total + self.label_weight * label_loss
            terms.append(label_loss)
        for regularizer in self.losses:
            total = total + keras_private.scale_loss(self, regularizer)
        size = ops.shape(y_pred)[0]
        # Without a compiled loss there is one term fewer.
        for tracker, term in zip(self._term_trackers, terms, strict=False):
            tracker.update_state(term * self._replicas(), sample_weight=size)
        return total

    def _target_losses(self, x, y, logits, sample_weight):
        """The distillation loss, then each feature's; batch means."""
        temperature = ops.convert_to_tensor(self.temperature)
        classes = logits.shape[-1]
        labels = class_indices(y, classes) if hasattr(y, "shape") else None
        teacher = ops.cast(x[TEACHER_LOGITS], "float32")
        if WEIGHTS in x:  # teachers apart: (batch, teachers, classes)
            values = sum(
                x[WEIGHTS][:, index]
                * loss_of_each(
                    self.distillation_loss,
                    labels,
                    teacher[:, index],
                    logits,
                    temperature,
                )
                for index in range(teacher.shape[1])
            )
        else:
            values = loss_of_each(
                self.distillation_loss, labels, teacher, logits, temperature
            )
        terms = [self._mean(values, values, sample_weight)]
        given = x.get(_FEATURES, ())
        if len(given) != len(self._pairs):
            raise ValueError(
                "`features` need a teacher that runs; a batch with cached "
                "targets has logits alone. Give no `features`, or a teacher "
                "and batches without targets."
            )
        for index, (pair, feature) in enumerate(
            zip(self._pairs, given, strict=True)
        ):
            own = self._step.student_features[index]
            adapter = self._adapters[index]
            own = adapter(own) if adapter else own
            values = feature_loss(pair, feature, own)
            terms.append(self._mean(values, values, sample_weight))
        self._step.student_features = ()
        return terms

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Returns the metrics; terms that this step does not have are left out.

        Args as in `keras.Model.compute_metrics`.
        """
        self._check_given(x, y)
        absent = set()
        if not self._step.logs_terms:
            absent.update(tracker.name for tracker in self._term_trackers)
        if keras_private.compiled_loss(self) is None:
            absent.add("label_loss")
        if self._agreement is not None:
            if has_targets(x):
                self._agreement.update_state(agreement(x, y_pred))
            else:
                absent.add(self._agreement.name)
        logs = super().compute_metrics(x, y, y_pred, sample_weight)
        return {name: logs[name] for name in logs if name not in absent}

    def _own_parts(self):
        """What a subclass has in a step that native kernels cannot see."""
        own = [
            name
            for name in ("call", "compute_loss")
            if getattr(type(self), name) is not getattr(Distiller, name)
        ]
        if len(self.trainable_variables) > len(
            self.student.trainable_variables
        ):
            own.append("trainable weights")
        return own

    def _term_names(self):
        names = [f"{self.distillation_loss.name}_loss", "label_loss"]
        return [names[0], *term_names(self._pairs, names), names[1]]

    def _own_names(self):
        own = [*self._term_trackers, *filter(None, [self._agreement])]
        return [tracker.name for tracker in own]

    def get_config(self):
        """Returns what `from_config` needs: the student, never the teacher."""
        return {
            **super().get_config(),
            "student": keras.saving.serialize_keras_object(self.student),
            "label_weight": float(self.label_weight),
            "temperature": float(self.temperature),
            "loss": keras.saving.serialize_keras_object(self.distillation_loss),
            "features": [dataclasses.asdict(pair) for pair in self._pairs],
            "track_agreement": self._agreement is not None,
            "expects_teacher": self.expects_teacher,
            "adapters": keras.saving.serialize_keras_object(
                list(self._adapters) if self._adapters else None
            ),
            # Older files have none; native ones are not everywhere.
            "kernels": "keras" if self._kernels == "keras" else "auto",
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Builds a Distiller without its teacher; call `set_teacher` then."""
        config = dict(config)
        for name in ("student", "loss", "adapters"):
            config[name] = keras.saving.deserialize_keras_object(
                config[name], custom_objects=custom_objects
            )
        config["features"] = [
            FeaturePair(**pair) for pair in config["features"]
        ]
        return cls(**config)
