"""How a Distiller runs: by which kernels, and on which labels it refuses to."""

# Parts of a keras.Model.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

import copy
import inspect
import operator

import keras

from gnsmall_keras.data.batches import IMAGES, TrainingBatches, labels_of
from gnsmall_keras.distill.compiled import check_loss, check_metrics
from gnsmall_keras.distill.labels import (
    are_indices,
    are_known,
    check_columns,
    check_kind,
    check_labels,
    check_shares,
    missing,
    shape_of,
)
from gnsmall_keras.distill.losses import LabelCrossEntropy
from gnsmall_keras.distill.stored_teacher import has_targets
from gnsmall_keras.models import keras_private
from gnsmall_keras.native import choice

_FIT = inspect.signature(keras.Model.fit)
_IS_TRAINABLE = operator.attrgetter("trainable")  # asked 400 times a step


class Running:
    """What `Distiller` does around Keras's own `fit`."""

    @property
    def chosen_kernels(self) -> str:
        """Which kernels train the student here: "native" or "keras".

        Raises:
            ValueError: if they have to be native and cannot.
        """
        self._choose_kernels()
        return "native" if self._frozen.native else "keras"

    @property
    def losses(self):
        """Regularisers' values; what native kernels compute has none."""
        frozen = getattr(self, "_frozen", None)
        if frozen is not None and frozen.native:
            return []
        return super().losses

    def _choose_kernels(self):
        """Looks whether the engine can compute the student as it is now."""
        why_not = ""
        if self._pairs:
            why_not = "`features` are recorded inside of Keras's layers"
        elif self.dtype_policy.name != "float32":
            why_not = f"the Distiller computes in {self.dtype_policy.name}"
        elif own := self._own_parts():
            why_not = f"this Distiller has its own {' and '.join(own)}"
        elif choice.has_hooks(self.student):
            why_not = "PyTorch calls a hook with a weight's gradient"
        native = choice.network_for_training(
            self.student, self._kernels, why_not=why_not
        )
        inference = native
        # Without a loss of labels features are recorded here as well.
        if native is None and not (self._pairs and self._asks_teacher()):
            inference = choice.network_for_inference(
                self.student, self._kernels
            )
        if (native is None) != (self._frozen.native is None):
            self.train_function = None
        if (inference is None) != (self._frozen.inference is None):
            self.test_function = self.predict_function = None
        self._frozen.native, self._frozen.inference = native, inference
        if native and keras.config.backend() != "jax":
            self.jit_compile = False  # it would not compile the engine
        optimizer = getattr(self, "optimizer", None)
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        if native and optimizer:
            optimizer.build(self.trainable_variables)
        if hasattr(optimizer, "updates_at_once"):
            optimizer.updates_at_once = hasattr(native, "train")

    def _follow_freezing(self):
        """Leaves the native kernels where a layer was frozen or hooked since.

        They move all weights. For PyTorch, whose step is called anew each time.
        """
        native = self._frozen.native
        if native and (
            not all(map(_IS_TRAINABLE, native.parameters)) or native.has_hooks()
        ):
            step = self.train_function  # in use; it has no kernels in it
            self._choose_kernels()
            self.train_function = step

    def make_train_function(self, force=False):
        """Prepares `fit`; see `keras.Model.make_train_function`."""
        if force or self.train_function is None:
            self._choose_kernels()
        return super().make_train_function(force)

    def make_test_function(self, force=False):
        """Prepares `evaluate`; see `keras.Model.make_test_function`."""
        if force or self.test_function is None:
            self._choose_kernels()
        return super().make_test_function(force)

    def make_predict_function(self, force=False):
        """Prepares `predict`; see `keras.Model.make_predict_function`."""
        if force or self.predict_function is None:
            self._choose_kernels()
        return super().make_predict_function(force)

    def test_step(self, *batch):
        """Evaluates one batch; see `keras.Model.test_step`."""
        with self._frozen.call.having(answers=True):
            return super().test_step(*batch)

    def predict_step(self, *batch):
        """Predicts for one batch; see `keras.Model.predict_step`."""
        with self._frozen.call.having(answers=True):
            return super().predict_step(*batch)

    def _student_logits(self, images, training):
        """The student's logits, by the kernels that were chosen.

        Native kernels, which have no gradient to the images, compute in
        Keras's steps alone.
        """
        native, call = None, self._frozen.call
        if training and call.trains:
            native = self._frozen.native
        elif call.answers and not training:
            native = self._frozen.inference
        if training and not hasattr(native, "train"):
            native = None  # it has a whole step, `_native_step`
        if native is None or _is_symbolic(images):
            return self.student(images, training=training)
        return native.train(images) if training else native.infer(images)

    def _native_step(self, data):
        """Keras's training step, with the student's part by the engine."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        images = x[IMAGES] if isinstance(x, dict) else x

        def loss_of(logits):
            loss = self.compute_loss(x, y, logits, sample_weight)
            size = keras.ops.shape(logits)[0]
            self._loss_tracker.update_state(loss, sample_weight=size)
            return self.optimizer.scale_loss(loss)

        logits = self._frozen.native.train_step(images, self.optimizer, loss_of)
        return self.compute_metrics(x, y, logits, sample_weight)

    def compile(self, optimizer="rmsprop", loss=None, **kwargs):
        """Prepares `fit`; see `keras.Model.compile`.

        Raises:
            ValueError: if the loss or a metric expects probabilities, where
                students end in logits; if the loss is a dict or several; if a
                metric is called as one of the Distiller's own.
        """
        check_loss(loss)
        metrics = [kwargs.get(name) for name in ("metrics", "weighted_metrics")]
        check_metrics(metrics, self._own_names())
        self._frozen.has_metrics = any(metrics)
        super().compile(optimizer=optimizer, loss=loss, **kwargs)

    def compile_from_config(self, config):
        """Compiles a Distiller that was read from a file."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    def fit(self, x=None, y=None, *args, **kwargs):
        """Trains the student; see `keras.Model.fit`.

        `TrainingBatches` show the epoch that Keras counts: the first is
        `initial_epoch`, 0 if it is left out, whatever was shown before.

        Raises:
            ValueError: if a label is none of the student's classes, no whole
                number, or a row of another length or of more than 1 in all.
                Labels of arrays and of this package's batches are checked
                before the first step, those of other data batch by batch;
                TensorFlow then checks neither the sums of rows nor, under XLA,
                numbers. The same holds for validation data and `evaluate`.
        """
        bound = _FIT.bind(self, x, y, *args, **kwargs)
        given = dict(list(bound.arguments.items())[1:])  # without self
        self._choose_kernels()
        known = y if y is not None else labels_of(x)
        self._check_label_weight()
        self._check_labels(known)
        self._check_validation(given.get("validation_data"))
        if isinstance(x, TrainingBatches):
            given["callbacks"] = _counting(x, given.get("callbacks"))
        with (
            self._frozen.working(),
            self._frozen.call.having(labels_checked=known is not None),
            self._refusing_labels(),
        ):
            return super().fit(**given)

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """Evaluates; see `keras.Model.evaluate`, and `fit` on labels."""
        known = y if y is not None else labels_of(x)
        self._check_labels(known)
        with (
            self._frozen.working(),
            self._frozen.call.having(labels_checked=known is not None),
            self._refusing_labels(),
        ):
            return super().evaluate(x, y, *args, **kwargs)

    def predict(self, *args, **kwargs):
        """Predicts; see `keras.Model.predict`."""
        with self._frozen.working():
            return super().predict(*args, **kwargs)

    def train_on_batch(self, x, y=None, *args, **kwargs):
        """Trains on one batch; see `keras.Model.train_on_batch` and `fit`."""
        self._check_label_weight()
        self._check_labels(y)
        with self._frozen.call.having(labels_checked=True):
            return super().train_on_batch(x, y, *args, **kwargs)

    def test_on_batch(self, x, y=None, *args, **kwargs):
        """Evaluates one batch; see `keras.Model.test_on_batch` and `fit`."""
        self._check_labels(y)
        with self._frozen.call.having(labels_checked=True):
            return super().test_on_batch(x, y, *args, **kwargs)

    def _check_validation(self, data):
        labels = labels_of(data)
        if isinstance(data, tuple):
            x, labels, _ = keras.utils.unpack_x_y_sample_weight(data)
            if not (self.teacher or has_targets(x)):
                self._check_loss(training=False)
        self._check_labels(labels, " of validation")

    def _check_given(self, x, labels):
        """Refuses data without labels where something is made of these."""
        if labels is not None:
            self._check_form(labels)
            self._check_ignored()
            return
        taught = self.teacher or self.expects_teacher or has_targets(x)
        loss = keras_private.compiled_loss(self)
        wanting = {
            "a compiled loss": loss is not None,
            "compiled metrics": self._frozen.has_metrics,
            f"the loss {self.distillation_loss.name!r}": (
                self.distillation_loss.needs_labels
            ),
            "an ensemble with confidence": getattr(
                self.teacher, "needs_labels", False
            ),
            "no teacher": not taught,
        }
        received = [name for name, wants in wanting.items() if wants]
        if received:
            raise ValueError(missing(received))

    def _check_ignored(self):
        """Refuses a class without images where a teacher's loss reads it."""
        ignored = getattr(self._given_loss(), "ignore_class", None)
        read = self.distillation_loss.needs_labels or getattr(
            self.teacher, "needs_labels", False
        )
        if ignored is not None and read:
            raise ValueError(
                "`ignore_class` leaves images out of the compiled loss alone. "
                f"Received: ignore_class={ignored} beside a distillation loss "
                "or an ensemble that reads the labels of all. Leave these "
                'images out of the data, or take the loss "kd" without '
                "confidence."
            )

    def _check_loss(self, *, training):
        """Of a batch without targets; JAX would take 0."""
        if not (keras_private.compiled_loss(self) or self.losses):
            raise ValueError(
                f"There is nothing to {'learn from' if training else 'measure'}"
                ". Received: no teacher and no compiled loss. Compile with "
                "loss=LabelCrossEntropy(), or give a teacher."
            )

    def _check_label_weight(self):
        """Training on what is left of it; a loss of 0 would go unseen."""
        others = keras_private.compiled_loss(self) or self._pairs or self.losses
        if self.compiled and not others and float(self.label_weight) == 1:
            raise ValueError(
                "There is nothing to learn from. Received: label_weight=1 and "
                "no compiled loss. Compile with loss=LabelCrossEntropy(), or "
                "take a label_weight below 1."
            )

    def _counts_targets(self, training):
        """Whether a loss is of what the teacher says, if it says something.

        In evaluation labels have it; where they do not, it is as in training.
        """
        return training or keras_private.compiled_loss(self) is None

    def _asks_teacher(self):
        """Whether the teacher runs in evaluation as well."""
        return self._agreement is not None or (
            self.teacher is not None and self._counts_targets(training=False)
        )

    def _check_form(self, labels, where=""):
        check_kind(labels, where)
        if len(self.student.output_shape) == 2:  # (batch, classes)
            check_columns(labels, self.student.output_shape[-1], where)

    def _check_labels(self, labels, where=""):
        self._check_form(labels, where)
        if self._has_class_labels(labels):
            check_labels(labels, self.student.output_shape[-1], where)
        elif self._has_shares(labels):
            check_shares(labels, where)

    def _given_loss(self):
        """What `compile` was given: of a list, its one loss."""
        loss = getattr(self, "loss", None)
        return loss[0] if isinstance(loss, list | tuple) else loss

    def _has_shares(self, labels):
        """Whether they are known rows, for a loss that takes them as shares."""
        of_shares = isinstance(self._given_loss(), LabelCrossEntropy)
        is_row = len(shape_of(labels)) == 2
        return of_shares and is_row and are_known(labels)

    def _has_class_labels(self, labels):
        """Whether they are indices of classes, as far as can be told."""
        classes = self.student.output_shape[-1]
        if getattr(self._given_loss(), "ignore_class", None) is not None:
            return False
        return classes > 1 and are_indices(labels)


def _counting(batches, callbacks):
    """Callbacks that also tell batches which epoch begins.

    Keras may begin one to look at the data alone.
    """
    start = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: batches.start_at(epoch)
    )
    if isinstance(callbacks, keras.callbacks.CallbackList):
        together = copy.copy(callbacks)
        together.callbacks = [start, *callbacks.callbacks]
        return together
    return [start, *keras.tree.flatten(callbacks or [])]


def _is_symbolic(images):
    """Whether shapes alone are asked for."""
    if keras.config.backend() == "torch":
        device = getattr(images, "device", None)
        return isinstance(images, keras.KerasTensor) or (
            getattr(device, "type", "") == "meta"
        )
    return isinstance(images, keras.KerasTensor)
