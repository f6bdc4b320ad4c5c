"""Losses on logits, in float32."""

import keras
from keras import ops


def label_cross_entropy(labels, logits, label_smoothing=0.0):
    """Cross-entropy of each image.

    Args:
        labels: `(batch,)` class indices.
        logits: `(batch, classes)`.
        label_smoothing: part of the weight spread evenly over all classes.

    Returns:
        `(batch,)`, in nats.
    """
    logits = ops.cast(logits, "float32")
    log_probabilities = ops.log_softmax(logits, axis=-1)
    labels = ops.cast(ops.reshape(labels, (-1, 1)), "int32")
    of_label = ops.take_along_axis(log_probabilities, labels, axis=-1)[:, 0]
    if not label_smoothing:
        return -of_label
    of_all = ops.mean(log_probabilities, axis=-1)
    return -(1.0 - label_smoothing) * of_label - label_smoothing * of_all


@keras.saving.register_keras_serializable("gnsmall_keras")
class LabelCrossEntropy(keras.losses.Loss):
    """Mean cross-entropy from integer labels and logits.

    Keras's `SparseCategoricalCrossentropy` has no label smoothing, and its
    `CategoricalCrossentropy` takes no integer labels.

    Args:
        label_smoothing: in [0, 1).
        **kwargs: of `keras.losses.Loss`.
    """

    def __init__(
        self, label_smoothing=0.0, *, name="label_cross_entropy", **kwargs
    ):
        super().__init__(name=name, **kwargs)
        self.label_smoothing = label_smoothing

    def call(self, y_true, y_pred):
        """Returns the loss of each image, `(batch,)`."""
        return label_cross_entropy(y_true, y_pred, self.label_smoothing)

    def get_config(self):
        """Returns the arguments of `__init__`."""
        return {**super().get_config(), "label_smoothing": self.label_smoothing}
