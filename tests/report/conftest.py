"""Records that differ from a real one in what a test needs."""

import dataclasses
import json

import numpy as np
import pytest
from support import ROOT

from gnsmall_keras.config import RunConfig
from gnsmall_keras.data.cifar import CLASSES_10
from gnsmall_keras.records.export import (
    EXPORTS_FILE,
    ExportRecord,
    describe_source,
)
from gnsmall_keras.records.predictions import describe
from gnsmall_keras.records.run import SCHEMA, read_records
from gnsmall_keras.report.pages import build
from gnsmall_keras.report.reading import Run

INDEX = ROOT / "papermill_runs/index.jsonl"
REAL = next(iter(read_records(INDEX)))


def _record(test, validation=0.5, *, record=None, **values):
    """A record of a run with these config values and accuracies."""
    known = {"data": "cifar10", "width": 0.5, "epochs": 3, **values}
    config = RunConfig(**known)
    paper = config.protocol == "paper"
    epochs = config.resolved_recipe.epochs
    teachers = [
        {"name": name, "weights_digest": f"weights of {name}"}
        for name in known.get("teachers", ())
    ]
    return dataclasses.replace(
        REAL,
        schema=SCHEMA,
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


def _predictions(record):
    """Predictions on as many test images as a record has."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(record.test_images, 10)).astype("float32")
    labels = random.integers(0, 10, record.test_images)
    logits[np.arange(len(labels)), labels] += 2
    return logits, labels


@pytest.fixture
def predict():
    """Gives a record predictions; returns it with its logits and labels."""

    def on(record):
        logits, labels = _predictions(record)
        found = dataclasses.replace(
            record,
            test_accuracy=float(np.mean(logits.argmax(axis=-1) == labels)),
            test_predictions=describe(logits, labels, CLASSES_10),
        )
        return found, logits, labels

    return on


def _export(record, size_bytes, latency=None, **report):
    """A record of a file from a run."""
    ratio = {
        "runtime": "litert",
        "threads": 1,
        "median_ms": 0.2,
        "p90_ms": 0.3,
        "ratio": latency,
        "hardware": {"processor": "a processor"},
        "measured_at": "2026-11-24T00:00:00+00:00",
    }
    values = {
        "path": "model.tflite",
        "source": describe_source(record),
        "sha256": f"{size_bytes:064x}",
        "target": "micro",
        "quantization": "int8",
        "size_bytes": size_bytes,
        "macs": record.deployed_macs,
        "faults": [],
        "float_accuracy": 0.6,
        "accuracy": 0.59,
        "evaluated_images": 360,
        "arena_bytes": 170_000,
        **report,
    }
    return ExportRecord(
        report=values,
        exported_at="2026-11-24T00:00:00+00:00",
        latency=None if latency is None else ratio,
    )


@pytest.fixture
def make_export():
    return _export


@pytest.fixture
def make_record():
    return _record


@pytest.fixture
def runs_of():
    def number(*records):
        return [Run(line, record) for line, record in enumerate(records, 1)]

    return number


def _line(record):
    try:
        return record.to_json()
    except ValueError:  # NaN, which no record writes
        return json.dumps(dataclasses.asdict(record))


@pytest.fixture
def write_index(tmp_path):
    def write(*records, exports=()):
        index = tmp_path / "index.jsonl"
        for file, some in (
            (index, records),
            (tmp_path / EXPORTS_FILE, exports),
        ):
            if some:
                text = "".join(_line(one) + "\n" for one in some)
                file.write_text(text)
        return index

    return write


@pytest.fixture
def no_figures(monkeypatch):
    """Pages have words and tables alone, for seconds less."""
    monkeypatch.setattr(build, "draw_all", lambda *_: [])
