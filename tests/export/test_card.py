"""Model cards: numbers of the records, and commands that give the same run."""

import dataclasses
import shlex

import pytest
import tyro
from support import ROOT

from gnsmall_keras import cli, fields
from gnsmall_keras.config import Distilling, RunConfig
from gnsmall_keras.export.card import make_card
from gnsmall_keras.export.tflite import ExportReport
from gnsmall_keras.records.commands import reproduce, teachers_of
from gnsmall_keras.records.run import read_records

RECORDS = [*read_records(ROOT / "papermill_runs" / "index.jsonl")]

EIGHT_EPOCHS = next(
    record for record in RECORDS if "w1-cifar10-best-e8" in record.slug
)


def _config_of(command):
    """The config that a command line of `gnsmall` stands for."""
    _, name, *words = shlex.split(command)
    kind = {"train": RunConfig, "distill": Distilling}[name]
    return tyro.cli(kind, args=words)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.slug)
def test_command_gives_the_run_again(record):
    found = _config_of(reproduce(record))
    assert found == RunConfig(**record.config)


def _run(slug, *teachers, commit="a" * 40):
    config = {**RECORDS[0].config, "strategy": "kd", "teachers": teachers}
    return dataclasses.replace(
        RECORDS[0], slug=slug, config=config, commit=commit
    )


def test_teachers_come_before_those_that_learn_from_them(report):
    runs = {
        "first": _run("first"),
        "second": _run("second", "first"),
        "third": _run("third", "first", "second", commit="b" * 40),
    }
    student = _run("student", "third", "second", "elsewhere.keras")
    found = teachers_of(student, runs.get)
    assert [run.slug for run in found] == ["first", "second", "third"]
    card = make_card(report, student, found)
    commands = [line for line in card.splitlines() if " gnsmall " in line]
    verbs = [line.split("gnsmall ")[1].split()[0] for line in commands]
    assert verbs == ["distill"] * 4 + ["export"]
    assert "icence" not in card  # a user's own file
    assert "papermill_runs" not in card
    commits = [line.partition("  # commit ")[2] for line in commands]
    assert commits == ["aaaaaaa", "aaaaaaa", "bbbbbbb", "aaaaaaa", ""]


def test_options_of_every_kind_are_written():
    record = RECORDS[0]
    changed = {"augment": False, "cutmix": 0.0, "width": 0.35, "seed": 3}
    record.config.update(changed)
    config = _config_of(reproduce(record))
    assert {name: getattr(config, name) for name in changed} == changed


def test_a_baseline_is_not_told_what_a_sweep_shares_with_its_students():
    """`gnsmall train` refuses it, as it does nothing there."""
    config = RunConfig(seed=1, label_weight=0.9, temperature=1.0, loss="dist")
    record = dataclasses.replace(
        RECORDS[0], config=fields.plain(config), slug=config.slug
    )
    found = _config_of(reproduce(record))
    assert found.ignored == {}
    assert found.slug == record.slug


@pytest.fixture
def report():
    return ExportReport(
        path="model.tflite",
        source=None,
        target="micro",
        quantization="int8",
        size_bytes=492_592,
        sha256="ab12",
        parameters=374_174,
        macs=8_962_176,
        ops={"CONV_2D": 47},
        dtypes={},
        faults=[],
        xnnpack_partitions=17,
        edge_tpu=None,
        arena_bytes=147_344,
        calibration="mse",
        calibration_images=200,
        qat=None,
        layers=None,
        evaluated_images=10_000,
        float_accuracy=0.8616,
        accuracy=0.8608,
        agreement=0.9812,
        compared_images=500,
        micro_accuracy=0.878,
        xnnpack_difference_lsb=15,
        xnnpack_agreement=0.986,
        micro_difference_lsb=0,
        versions={},
    )


def test_card_has_the_numbers_of_the_report(report):
    card = make_card(report, EIGHT_EPOCHS)
    for number in ("86.08 % of 10,000", "492,592", "147,344", "98.60 %"):
        assert number in card
    assert "`ab12`" in card
    assert card.splitlines()[2] == (
        "86.08 % of 10,000 test images right, by LiteRT's XNNPACK on a PC; "
        "492,592 bytes, 147,344 bytes of arena, measured with TensorFlow Lite "
        "Micro on a 64-bit PC (fits 1,024 KB of flash, 256 KB of arena, with "
        "72 KB of the flash for code); TensorFlow Lite Micro gives the "
        "reference's very integers."
    )
    assert "1,024 KB of flash, 256 KB of arena" in card
    assert "8 epochs are a demonstration" in card
    assert "gnsmall train --data cifar10 --recipe best" in card
    assert f"KERAS_BACKEND={EIGHT_EPOCHS.backend} gnsmall train" in card


def test_card_of_a_published_file_names_the_records_and_the_licence(report):
    card = make_card(report, EIGHT_EPOCHS, licence="Apache-2.0")
    assert "one run; `papermill_runs/index.jsonl` has those with other" in card
    assert "Licence: Apache-2.0." in card
    assert "- Accuracy is that of one run.\n" in make_card(report, EIGHT_EPOCHS)


def test_card_names_the_devices_and_their_commands(report):
    card = make_card(report, EIGHT_EPOCHS)
    command = "`python run_model.py model.tflite photo.png --labels labels.txt`"
    assert f"| {command}, in `tflite/` |" in card
    assert "| Cortex-M | `gnsmall c-array model.tflite" in card
    assert "| browser | export with --target web |" in card
    assert "left out" not in card
    phone = dataclasses.replace(
        report, target="android", folded_gates=["a", "b"]
    )
    card = make_card(phone, EIGHT_EPOCHS)
    assert "| constant gates left out | 2, " in card
    assert "No ARM processor was at hand" in card
    assert "LiteRT's reference integers on 500 test images" in card
    for micro in ("c-array", "microcontroller", "147,344", "KB of flash"):
        assert micro not in card


@pytest.mark.parametrize(
    ("target", "quantization", "kind"),
    [
        ("micro", "int8", "int8"),
        ("micro", "int16x8", "int16"),
        ("android", "int8-qat", "uint8"),
        ("web", "int8", "uint8"),
    ],
)
def test_steps_are_of_the_outputs_own_type(report, target, quantization, kind):
    options = {"target": target, "quantization": quantization}
    report = dataclasses.replace(report, **options, micro_difference_lsb=3)
    card = make_card(report, EIGHT_EPOCHS)
    for count in (3, 15):
        assert f"at most {count} steps of the output's {kind} scale" in card


def test_ranges_that_were_learned_are_of_no_images(report):
    assert "Ranges are of 200 training images" in make_card(
        report, EIGHT_EPOCHS
    )
    learned = dataclasses.replace(
        report, quantization="int8-tfmot", calibration=None
    )
    card = make_card(learned, EIGHT_EPOCHS)
    assert "- Ranges were learned with its rounding." in card
    assert "Ranges are of" not in card


def test_card_says_how_accelerators_take_the_file(report):
    card = make_card(report, EIGHT_EPOCHS)
    assert "| Arm Ethos-U | ask Arm's compiler: `pip install" in card
    assert "Edge TPU" not in card
    card = make_card(report, EIGHT_EPOCHS, licence="Apache-2.0")
    assert (
        "| Arm Ethos-U | by Vela's model, not run: [ethos-u/README.md](" in card
    )
    card = make_card(
        dataclasses.replace(report, target="edgetpu"), EIGHT_EPOCHS
    )
    assert "| Coral Edge TPU | `edgetpu_compiler -s model.tflite`" in card


@pytest.mark.parametrize(
    ("aspect", "input"),
    [("pad", "with black borders"), ("squash", "not square ones squashed")],
)
def test_card_says_how_images_become_square(report, aspect, input):
    assert "--aspect" not in make_card(report, EIGHT_EPOCHS)
    assert "not square" not in make_card(report, EIGHT_EPOCHS)
    config = {**EIGHT_EPOCHS.config, "aspect": aspect}
    of_the_record = dataclasses.replace(EIGHT_EPOCHS, config=config)
    of_the_report = dataclasses.replace(report, aspect=aspect)
    for one, record in (
        (report, of_the_record),  # an older report does not say
        (of_the_report, EIGHT_EPOCHS),
    ):
        card = make_card(one, record)
        assert f"--labels labels.txt --aspect {aspect}`" in card
        assert input in card.split("\n\n")[2]
        assert "Android, browsers, Edge TPU and microcontrollers crop" in card


def test_card_of_a_file_that_is_not_of_integers(report):
    unknown = dict.fromkeys(
        (
            "arena_bytes",
            "calibration",
            "micro_accuracy",
            "xnnpack_difference_lsb",
            "xnnpack_agreement",
            "micro_difference_lsb",
        )
    )
    report = dataclasses.replace(report, quantization="float16", **unknown)
    card = make_card(report, EIGHT_EPOCHS)
    assert "one RGB image, float32 pixels in" in card
    assert "KB of flash" not in card
    assert "| LiteRT's XNNPACK | 17 XNNPACK partition(s), other" in card
    assert "Ranges" not in card
    assert "None" not in card


def test_card_of_16_bits_names_no_class_of_microcontrollers(report):
    report = dataclasses.replace(report, quantization="int16x8")
    card = make_card(report, EIGHT_EPOCHS)
    assert "KB of flash" not in card
    assert "int8 files (--quantization int8) |" in card


def test_command_of_a_file_has_its_calibration(report):
    report = dataclasses.replace(
        report,
        calibration="minmax",
        calibration_images=50,
        float_layers=["stem"],
        head_units=640,
    )
    card = make_card(report, EIGHT_EPOCHS)
    assert "--head-units 640" in card
    assert "| units of the head left out |" in card
    assert "--calibration minmax --calibration-size 50" in card
    assert "--float-layers stem" in card


def test_card_of_a_run_that_held_no_images_out(report):
    gpu = {"devices": ["gpu:0 (NVIDIA H100)"]}
    record = dataclasses.replace(
        EIGHT_EPOCHS,
        validation_accuracy=None,
        hardware={"processor": "Xeon", "before": [gpu]},
    )
    card = make_card(report, record)
    assert "No images were held out: the test split was monitored" in card
    assert "Validation" not in card
    assert "on NVIDIA H100 and Xeon." in card


@pytest.mark.parametrize(
    ("teacher", "label_weight", "source", "option"),
    [
        (None, 0.5, "from labels", False),
        ("gns", 0.0, "from itself", False),
        ("resnet18", 0.5, "from resnet18 and labels", True),
    ],
)
def test_card_of_a_file_that_learned_its_rounding(
    report, teacher, label_weight, source, option
):
    qat = {
        "epochs": 2,
        "images": 19_200,
        "validation_images": 5_000,
        "teacher": teacher,
        "label_weight": label_weight,
        "validation_losses": [0.751, 0.7307, 0.74],
    }
    report = dataclasses.replace(report, quantization="int8-qat", qat=qat)
    card = make_card(report, EIGHT_EPOCHS)
    assert "0.7510 before and 0.7307 after" in card
    assert "--qat-epochs 2 --qat-images 19200" in card
    assert source in card
    assert ("--teacher" in card) == option


def test_card_needs_the_folder_of_a_run(tmp_path, capsys):
    options = ["--data", "digits", "--card"]
    assert cli.main(["export", str(tmp_path / "model.keras"), *options]) == 2
    assert "without record.json" in capsys.readouterr().err
