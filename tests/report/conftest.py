"""Records that differ from a real one in what a test needs."""

import dataclasses
import json

import pytest
from support import ROOT

from gnsmall_keras.config import DistillConfig, TrainConfig
from gnsmall_keras.records import read_records
from gnsmall_keras.report.reading import Run

INDEX = ROOT / "papermill_runs/index.jsonl"
REAL = next(iter(read_records(INDEX)))


def _record(test, validation=0.5, *, record=None, **values):
    """A record of a run with these config values and accuracies."""
    known = {"data": "cifar10", "width": 0.5, "epochs": 3, **values}
    config = (DistillConfig if "strategy" in known else TrainConfig)(**known)
    paper = config.protocol == "paper"
    epochs = config.resolved_recipe.epochs
    teachers = [
        {"name": name, "weights_digest": f"weights of {name}"}
        for name in known.get("teachers", ())
    ]
    return dataclasses.replace(
        REAL,
        slug=config.slug,
        digest=config.digest,
        config=json.loads(json.dumps(dataclasses.asdict(config))),
        recipe=dataclasses.asdict(config.resolved_recipe),
        validation_accuracy=None if paper else validation,
        test_accuracy=test,
        best_test_accuracy=test + 0.01 if paper else None,
        distillation={"teachers": teachers, "stages": []} if teachers else None,
        history={
            "accuracy": [0.4] * epochs,
            "val_accuracy": [validation] * epochs,
        },
        **(record or {}),
    )


@pytest.fixture
def make_record():
    return _record


@pytest.fixture
def runs_of():
    def number(*records):
        return [Run(line, record) for line, record in enumerate(records, 1)]

    return number


@pytest.fixture
def write_index(tmp_path):
    def write(*records):
        index = tmp_path / "index.jsonl"
        index.write_text("".join(one.to_json() + "\n" for one in records))
        return index

    return write
