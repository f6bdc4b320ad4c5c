"""What a record keeps of predictions, counted again one by one."""

import json

import numpy as np
import pytest

from gnsmall_keras.records.predictions import WORST, describe, unpack_correct

NAMES = ("cat", "dog", "ship")
LOGITS = np.array(
    [[2, 0, 0], [0, 3, 0], [5, 0, 0], [0, 0, 1], [0, 9, 0]], np.float32
)
LABELS = np.array([0, 0, 1, 2, 0], np.int32)


def test_predictions_are_counted_by_true_class_and_ranked_by_probability():
    found = describe(LOGITS, LABELS, NAMES)
    assert json.loads(json.dumps(found)) == found
    assert found["class_names"] == list(NAMES)
    assert found["confusion"] == [[1, 2, 0], [1, 0, 0], [0, 0, 1]]
    assert [
        (one["index"], one["label"], one["predicted"]) for one in found["worst"]
    ] == [(4, 0, 1), (2, 1, 0), (1, 0, 1)]
    assert found["worst"][1]["probability"] == pytest.approx(
        np.exp(5) / (np.exp(5) + 2), abs=1e-6
    )
    assert unpack_correct(found).tolist() == [True, False, False, True, False]


def test_a_class_without_images_has_a_row_and_few_mistakes_are_kept():
    logits = np.tile([0.0, 1.0, 0.0], (100, 1))
    found = describe(logits, np.zeros(100, np.int32), NAMES)
    assert found["confusion"] == [[0, 100, 0], [0, 0, 0], [0, 0, 0]]
    # Of equal probability: the first ones.
    assert [one["index"] for one in found["worst"]] == [*range(WORST)]


def test_predictions_without_a_mistake_have_no_worst_ones():
    assert describe(LOGITS[:1], LABELS[:1], NAMES)["worst"] == []


@pytest.mark.parametrize("bits", ["", "80"])
def test_bits_that_are_missing_are_refused(bits):
    found = {"confusion": [[9]], "correct": bits}
    with pytest.raises(ValueError, match="a bit for each of 9 images"):
        unpack_correct(found)
