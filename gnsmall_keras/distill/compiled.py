"""Checks of what `compile` is given: a loss and metrics of logits."""

import functools
from collections.abc import Sequence
from typing import Any

import keras

# Keras's functions that take probabilities unless they are told otherwise, and
# its functions and classes that take nothing else.
_OF_EITHER = (
    keras.losses.binary_crossentropy,
    keras.losses.binary_focal_crossentropy,
    keras.losses.categorical_crossentropy,
    keras.losses.categorical_focal_crossentropy,
    keras.losses.sparse_categorical_crossentropy,
)
_OF_PROBABILITIES = (
    keras.losses.kl_divergence,
    keras.losses.poisson,
    keras.losses.dice,
    keras.losses.tversky,
    keras.losses.categorical_generalized_cross_entropy,
)
_CLASSES_OF_PROBABILITIES = (
    keras.losses.KLDivergence,
    keras.losses.Poisson,
    keras.losses.Dice,
    keras.losses.Tversky,
    keras.losses.CategoricalGeneralizedCrossEntropy,
)
_METRICS_OF_PROBABILITIES = (
    keras.metrics.KLDivergence,
    keras.metrics.Poisson,
    keras.metrics.PrecisionAtRecall,
    keras.metrics.RecallAtPrecision,
    keras.metrics.SensitivityAtSpecificity,
    keras.metrics.SpecificityAtSensitivity,
)
# They count what is above 0.5, unless they are told otherwise.
_HITS = (keras.metrics.Precision, keras.metrics.Recall)
_COUNTS = (
    keras.metrics.TruePositives,
    keras.metrics.TrueNegatives,
    keras.metrics.FalsePositives,
    keras.metrics.FalseNegatives,
)
_CUT = (keras.metrics.BinaryAccuracy, keras.metrics.BinaryIoU)
_LARGEST = (keras.metrics.F1Score, keras.metrics.FBetaScore)  # without one


def check_loss(loss: Any) -> None:
    """Checks that a compiled loss is one, of logits.

    By default Keras's cross-entropies take probabilities: on logits they train
    worse, without an error. A loss of one's own is taken as it is.

    Args:
        loss: of `compile`.

    Raises:
        ValueError: if it is a cross-entropy or divergence of probabilities, a
            dict, or a list of other than one loss.
    """
    if isinstance(loss, dict | list | tuple):
        if isinstance(loss, dict) or len(loss) != 1:
            raise ValueError(
                "A student has one output, so a Distiller takes one loss. "
                f"Received: a {type(loss).__name__} of {len(loss)}. Give the "
                "loss itself; add several up in a function of labels and "
                "logits."
            )
        loss = loss[0]
    if _takes_probabilities(loss):
        kind = getattr(loss, "func", loss)
        kind = getattr(kind, "__name__", type(loss).__name__)
        raise ValueError(
            "A Distiller's student ends in logits, so its loss must take "
            "logits. Received: loss="
            f"{loss if isinstance(loss, str) else kind!r}, which takes "
            "probabilities. Use LabelCrossEntropy(), or Keras's class with "
            "from_logits=True."
        )


def _takes_probabilities(loss):
    """Whether it is one of Keras's losses of probabilities."""
    if loss in ("crossentropy", "ce"):  # which `compile` alone knows
        return True
    loss = keras.losses.get(loss)
    if isinstance(loss, keras.losses.Loss):
        kept = type(loss).call is keras.losses.KLDivergence.call
        return getattr(loss, "from_logits", None) is False or (
            isinstance(loss, _CLASSES_OF_PROBABILITIES) and kept
        )
    options = {}
    if isinstance(loss, functools.partial):
        loss, options = loss.func, loss.keywords
    return loss in _OF_PROBABILITIES or (
        loss in _OF_EITHER and not options.get("from_logits", False)
    )


def check_metrics(metrics: Any, taken: Sequence[str]) -> None:
    """Checks that metrics of `compile` have names of their own, and logits.

    Keras's metrics of probabilities give other numbers for logits, without an
    error. A metric of one's own is taken as it is.

    Args:
        metrics: Keras's objects, functions or names, nested in any way.
        taken: names in the logs.

    Raises:
        ValueError: if one is called as one of a Distiller's, whose place in
            the logs it would take, or is of probabilities.
    """
    for metric in keras.tree.flatten(metrics):
        name = getattr(metric, "name", getattr(metric, "__name__", metric))
        if name in taken:
            raise ValueError(
                "A metric must not be called as one of the Distiller's own: "
                f"{', '.join(sorted(taken))}. Received: {name!r}. Give it "
                "another name."
            )
        cure = _cure_of(metric)
        if cure:
            raise ValueError(
                "A Distiller's student ends in logits, so its metrics must "
                f"take logits. Received: {name!r}, which takes probabilities. "
                f"Use {cure}."
            )


def _cure_of(metric):
    """What to do with a metric of probabilities; "" of other ones."""
    if isinstance(metric, str | type):
        try:
            metric = keras.metrics.get(metric)
        except (TypeError, ValueError):  # `fit` has the words for it
            return ""
    if not isinstance(metric, keras.metrics.Metric):
        if metric is keras.metrics.binary_accuracy:
            return "keras.metrics.BinaryAccuracy(threshold=0)"
        known = callable(metric) and _takes_probabilities(metric)
        return "Keras's metric of this name, from_logits=True" if known else ""
    kind = type(metric)
    if not kind.__module__.startswith("keras."):
        return ""
    options = metric.get_config()
    if options.get("from_logits") is False:
        return f"keras.metrics.{kind.__name__}(from_logits=True)"
    cut = [options.get(name) for name in ("thresholds", "top_k")]
    if isinstance(metric, _HITS) and cut == [None, None]:
        return f"keras.metrics.{kind.__name__}(top_k=1)"
    if isinstance(metric, _COUNTS) and cut[0] is None:
        return f"keras.metrics.{kind.__name__}(thresholds=0)"
    if _cuts_probabilities(options.get("threshold")):
        if isinstance(metric, _CUT):
            return f"keras.metrics.{kind.__name__}(threshold=0)"
        if isinstance(metric, _LARGEST):  # which take no threshold of 0
            return f"keras.metrics.{kind.__name__} without `threshold`"
    if isinstance(metric, _METRICS_OF_PROBABILITIES):
        return "a metric of your own, which takes the softmax first"
    return ""


def _cuts_probabilities(threshold):
    """Whether it is between what two probabilities may be."""
    return threshold is not None and 0 < threshold < 1
