"""One run, one config, one name; and the names that older versions gave."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from support import ROOT

from gnsmall_keras import fields
from gnsmall_keras.config import Distilling, RunConfig, complete
from gnsmall_keras.data.parts import Options
from gnsmall_keras.records.folders import begun_name, find_folder
from gnsmall_keras.records.run import RunRecord, read_records

FILES = ("index.jsonl", "repeats.jsonl")
RECORDS = [
    record
    for name in FILES
    for record in read_records(ROOT / "papermill_runs" / name)
]
OLD = next(r for r in RECORDS if r.slug.startswith("gns-w1-cifar10-best-e8-s0"))


def test_a_baseline_has_one_name_whichever_door_it_came_through():
    by_labels = RunConfig(width=0.5)
    assert by_labels.slug == "gns-w0.5-digits-quick-e8-baseline-s0-" + (
        by_labels.digest
    )
    for door in (RunConfig, Distilling):
        for unused in ({}, {"temperature": 1.0}, {"loss": "dkd"}):
            config = door(strategy="baseline", width=0.5, **unused)
            assert config.name == by_labels.name


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.slug)
def test_recorded_runs_keep_a_name_of_their_config(record):
    """But for the first, which is older than a field that is hashed."""
    config = RunConfig(**record.config)
    known = (record.slug, record.digest) in config.names
    assert known == ("precision" in record.config)
    assert record.slugs[0] == record.slug
    assert config.slug in record.slugs
    if "strategy" in record.config:
        assert config.name == (record.slug, record.digest)


def test_a_taught_run_has_no_other_name():
    config = RunConfig(strategy="kd", teachers=("a",))
    assert config.names == (config.name,)


@pytest.mark.parametrize("named", ["old", "new", "path"])
def test_a_teacher_is_found_by_each_of_its_names(tmp_path, named):
    new = RunConfig(**OLD.config).slug
    there = new if named == "old" else OLD.slug
    (tmp_path / there).mkdir()
    (tmp_path / there / "model.keras").touch()
    (tmp_path / there / "record.json").write_text(
        dataclasses.replace(OLD, slug=there).to_json()
    )
    name = {"old": OLD.slug, "new": new, "path": str(tmp_path / new)}[named]
    assert find_folder(name, tmp_path) == tmp_path / there
    assert find_folder("gns-w0.75", tmp_path) is None


def test_an_unfinished_run_keeps_the_name_it_was_begun_under(tmp_path):
    config = RunConfig(**OLD.config)
    assert begun_name(config, tmp_path) == config.name
    (tmp_path / OLD.slug).mkdir()
    (tmp_path / OLD.slug / "checkpoint.npz").touch()
    assert begun_name(config, tmp_path) == (OLD.slug, OLD.digest)


def test_what_a_stored_config_is_too_old_to_say_is_a_default():
    config = RunConfig(**OLD.config)
    assert complete(OLD.config) == json.loads(
        json.dumps(dataclasses.asdict(config))
    )
    taught = RunConfig(temperature=1.0)
    assert complete(dataclasses.asdict(taught)) == complete({})


def test_a_line_has_the_fields_of_its_schema():
    young = fields.names(RunRecord, 3) - fields.names(RunRecord, 2)
    assert young == {"test_predictions"}
    assert fields.names(RunRecord, 4) - fields.names(RunRecord, 3) == {"images"}


@pytest.mark.parametrize("name", ["seed", "epochs", "width", "temperature"])
@pytest.mark.parametrize("value", [10**400, -(10**400)], ids=["+", "-"])
def test_numbers_larger_than_any_float_are_refused_as_others(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        RunConfig(strategy="kd", teachers=("a",), **{name: value})


@pytest.mark.parametrize("module", ["gnsmall_keras", "gnsmall_keras.config"])
@pytest.mark.parametrize("name", ["TrainConfig", "DistillConfig"])
def test_older_names_warn_and_make_a_run_config(module, name):
    code = f"""
import warnings
with warnings.catch_warnings(record=True) as found:
    warnings.simplefilter("always")
    from {module} import {name}
assert all(one.category is DeprecationWarning for one in found)
assert {{one.filename for one in found}} == {{"<string>"}}, found[0].filename
assert "RunConfig" in str(found[0].message)
from gnsmall_keras import RunConfig
config = {name}(teachers=["a"], strategy="kd")
assert type(config) is RunConfig
usual = "baseline" if "{name}" == "TrainConfig" else "kd"
assert {name}(teachers=["a"] if usual == "kd" else []).strategy == usual
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_rules_stand_in_types():
    rules = fields.rules(RunConfig)
    for name, value, told in (
        ("epochs", 0, "a whole number >= 1"),
        ("mixup", -1, "a finite number >= 0; 0 mixes nothing"),
        ("label_weight", 2, "in [0, 1]; 1: labels alone"),
        ("validation_fraction", 1, "in (0, 1)"),
        ("augment", 1, "true or false"),
        ("teachers", "a", "a list"),
        ("loss", "mse", "one of ('kd', 'dkd', 'standardized_kd', 'dist')"),
    ):
        with pytest.raises(ValueError, match="must be") as error:
            fields.check(f"runs[0].{name}", rules[name], value)
        assert str(error.value) == (
            f"`runs[0].{name}` must be {told}. Received: {value!r}."
        )
    assert fields.check("width", rules["width"], 1) == 1.0


def test_numbers_of_numpy_are_python_s():
    rules = fields.rules(RunConfig)
    for name, value, expected in (
        ("epochs", np.int64(3), 3),
        ("label_weight", np.float32(0.5), 0.5),
        ("width", np.int32(2), 2.0),
        ("batch_size", 64, 64),
    ):
        found = fields.check(name, rules[name], value)
        assert found == expected
        assert type(found) is type(expected)
    with pytest.raises(ValueError, match=r">= 1\. Received: .*0"):
        fields.check("epochs", rules["epochs"], np.int64(0))
    for refused in (np.float32(2), True):
        with pytest.raises(ValueError, match="whole number"):
            fields.check("epochs", rules["epochs"], refused)
    channels = Options(channels=np.int64(1)).channels
    assert channels == 1
    assert type(channels) is int
