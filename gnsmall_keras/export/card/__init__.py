"""The card of a .tflite file: what it is, how good, how to make it again."""

import shlex
from collections.abc import Sequence

from gnsmall_keras.devices.ethosu import EthosUReport
from gnsmall_keras.devices.targets import (
    TARGETS,
    describe_class,
    find_budget,
    is_int8,
)
from gnsmall_keras.export.card.again import commands
from gnsmall_keras.export.tflite import ExportReport
from gnsmall_keras.lines import percent
from gnsmall_keras.recipes import DEMONSTRATION_EPOCHS
from gnsmall_keras.records.commands import USUAL
from gnsmall_keras.records.run import RunRecord

_SIDE = 32  # pixels, where a card does not say it
_SQUARES = {
    "pad": "not square ones with black borders",
    "squash": "not square ones squashed",
}


def make_card(
    report: ExportReport,
    record: RunRecord,
    teachers: Sequence[RunRecord] = (),
    *,
    licence: str | None = None,
) -> str:
    """Returns a model card in Markdown, from records alone.

    Args:
        report: of the file.
        record: of the run that the file came of.
        teachers: of the runs that it learned from: `commands.teachers_of`.
        licence: of a published file, whose runs have records in this package;
            None: of a file of a user's own, of which a card says neither.
    """
    config = record.config
    for_people = TARGETS[report.target].probabilities
    parts = [
        f"# {report.path}",
        _summary(report),
        f"{config['model']} of width {config['width']:g}, "
        f"{report.quantization}, for {report.target}: "
        f"{_input_of(report, record)} in, "
        f"{'probabilities' if for_people else 'logits'} of "
        f"{_classes(record)} out."
        + (f" Licence: {licence}." if licence else ""),
        _table(_numbers(report, record, published=licence is not None)),
        "## Training",
        _training(report, record),
        "## Limits",
        _limits(report, record, published=licence is not None),
        "## Make it again",
        commands(report, [*teachers, record]),
        "The weights are the same where backend, versions, processor and the "
        "number of threads are; so is the file then.",
    ]
    return "\n\n".join(parts) + "\n"


def _summary(report):
    """What an engineer asks first."""
    accuracy = "an accuracy that was not measured"
    if report.accuracy is not None:
        accuracy = (
            f"{_percent(report.accuracy)} of {report.evaluated_images:,} test "
            "images right, by LiteRT's XNNPACK on a PC"
        )
    text = f"{accuracy[0].upper()}{accuracy[1:]}; {report.size_bytes:,} bytes"
    if _arena(report):
        text += (
            f", {_arena(report):,} bytes of arena, measured with TensorFlow "
            "Lite Micro on a 64-bit PC"
        )
    budget = find_budget(report.size_bytes, _arena(report))
    if budget and is_int8(report.quantization):
        text += f" (fits {budget})"
    if report.micro_difference_lsb == 0:
        text += "; TensorFlow Lite Micro gives the reference's very integers"
    return text + "."


def _arena(report):
    """Of a file that microcontrollers take; others have uint8 and labels."""
    phone = TARGETS[report.target].probabilities
    return None if phone else report.arena_bytes


def _input_of(report, record):
    kind = _integer(report) or "float32 pixels"  # whatever the weights are
    if kind == "int8":
        kind = "int8 (pixel - 128)"
    colours, size = "RGB", ""
    if record.config.get("channels") == 1:
        colours = "grey"
    if record.config.get("image_size", _SIDE) != _SIDE:
        size = " of {0} x {0} pixels".format(record.config["image_size"])
    parts = (
        f"one {colours} image{size}",
        _SQUARES.get(_aspect(report, record)),
    )
    return ", ".join(filter(None, (*parts, kind)))


def _integer(report):
    """The type of input and output; empty of a file of floats."""
    if report.quantization == "int16x8":
        return "int16"
    integers = is_int8(report.quantization)
    return TARGETS[report.target].input_dtype if integers else ""


def _aspect(report, record):
    """How images become square; an older report does not say."""
    return report.aspect or record.config.get("aspect", USUAL["aspect"])


def _classes(record):
    known = record.images or record.test_predictions
    if known is None:
        return "the classes"
    return ", ".join(known["class_names"])


def _numbers(report, record, published):
    where = f"of {report.evaluated_images:,} test images"
    compared = f"{report.compared_images:,} test images"
    return {
        "data": f"{record.config['data']}, digest `{record.data_digest}`",
        "accuracy on LiteRT": f"{_percent(report.accuracy)} {where}",
        "accuracy before quantisation": (
            f"{_percent(report.float_accuracy)} {where}"
        ),
        "same class as before": f"{_percent(report.agreement)} {where}",
        "TensorFlow Lite Micro": _micro(report, compared),
        "LiteRT's XNNPACK": _xnnpack(report, compared),
        **_smallest_class(report),
        "bytes": f"{report.size_bytes:,}" + _packed(report),
        "parameters": f"{report.parameters:,}",
        "multiply-accumulates": f"{report.macs:,}",
        "operators": ", ".join(
            f"{count} {op}"
            for op, count in sorted(
                report.ops.items(), key=lambda item: (-item[1], item[0])
            )
        ),
        "SHA-256": f"`{report.sha256}`",
        **_left_out(report),
        **_devices(report, _aspect(report, record), published),
        **_ethos_u(report),
    }


def _smallest_class(report):
    if TARGETS[report.target].probabilities:
        return {}
    return {"smallest class of microcontrollers": describe_class(report)}


def _packed(report):
    if report.gzip_bytes is None:  # an older report
        return ""
    how = f", weights {report.compressed}" if report.compressed else ""
    return f", {report.gzip_bytes:,} by gzip{how}"


def _left_out(report):
    found, count = {}, len(report.folded_gates)
    if count:
        found["constant gates left out"] = (
            f"{count}, with the operators before them: they gave every image "
            "the same factors, which the next kernels have"
        )
    if report.head_units is not None:
        found["units of the head left out"] = (
            f"all but the {report.head_units:,} that move the logits most"
        )
    return found


def _devices(report, aspect, published):
    """Where else it runs, and by which command."""
    reading = "" if aspect == USUAL["aspect"] else f" --aspect {aspect}"
    name = shlex.quote(report.path)
    integers = is_int8(report.quantization)
    logits = not TARGETS[report.target].probabilities
    rows = {
        "PC, Raspberry Pi": f"`python run_model.py {name} photo.png "
        f"--labels labels.txt{reading}`, in `tflite/`"
    }
    if report.target == "edgetpu":
        rows["Coral Edge TPU"] = (
            f"`edgetpu_compiler -s {name}`, then `tflite/edgetpu/`"
        )
    if integers and logits:
        rows["Cortex-M"] = f"`gnsmall c-array {name} --out DIR`"
        if not report.ethos_u:
            rows["Arm Ethos-U"] = (
                "by Vela's model, not run: [ethos-u/README.md]"
                "(ethos-u/README.md)"
                if published
                else "ask Arm's compiler: `pip install 'gnsmall-keras[vela]'`, "
                "then export with --target ethos-u"
            )
    if logits:
        rows["browser"] = "export with --target web"
    return rows


def _ethos_u(report):
    """A row an accelerator, of a file for them; a read report has tables."""
    found = [
        EthosUReport(**each) if isinstance(each, dict) else each
        for each in report.ethos_u or []
    ]
    return {each.accelerator: str(each) for each in found}


def _micro(report, compared):
    if report.arena_bytes is None:
        return "does not run it" if report.knows_micro else "unknown"
    parts, steps = [], report.micro_difference_lsb
    if _arena(report):
        parts.append(f"arena (RAM) of {report.arena_bytes:,} bytes")
    if steps == 0:
        parts.append(f"LiteRT's reference integers on {compared}")
    elif steps:  # None of a file that is not of integers
        parts.append(f"{_steps(report, steps)} on {compared}")
    return "; ".join(parts) or "runs it"


def _steps(report, count):
    return (
        f"at most {count} steps of the output's {_integer(report)} scale from "
        "LiteRT's reference kernels"
    )


def _xnnpack(report, compared):
    count = report.xnnpack_partitions
    pieces = f"{count} XNNPACK partition(s)"
    if count > 1:
        pieces += ", other operators between them by LiteRT's own kernels"
    steps = report.xnnpack_difference_lsb
    if steps is None:
        return pieces
    return (
        f"{_steps(report, steps)} on {compared}, the same class on "
        f"{_percent(report.xnnpack_agreement)} of them; {pieces}"
    )


def _percent(value):
    return percent(value, "unknown")


def _table(rows):
    lines = ["| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(lines)


def _training(report, record):
    config, recipe = record.config, record.recipe
    validated = (
        f"Validation accuracy in float: {_percent(record.validation_accuracy)} "
        f"of {record.validation_images:,} images"
    )
    if record.validation_accuracy is None:
        validated = (
            "No images were held out: the test split was monitored after every "
            "epoch, and the weights are of the last one"
        )
    text = (
        f'Run `{record.slug}` (n=1): recipe "{config["recipe"]}", '
        f"{recipe['epochs']} epochs of {record.train_images:,} images, "
        f'protocol "{config["protocol"]}", seed {config["seed"]}. {validated}. '
        f"Trained with {record.backend} on {record.machines}."
    )
    return text + _teachers(record) + _rounding(report)


def _teachers(record):
    strategy = record.config.get("strategy", "baseline")
    if strategy == "baseline":
        return ""
    names = [*record.config["teachers"], record.config.get("cache", "")]
    return (
        f" It learned from {', '.join(filter(None, names))} by the strategy "
        f'"{strategy}".'
    )


def _rounding(report):
    """How it learned its rounding, and what came of it."""
    if not report.qat:
        return ""
    text = (
        f" It then learned its rounding from {_source(report.qat)}, for "
        f"{report.qat['epochs']} pass(es) over {report.qat['images']:,} of the "
        "images"
    )
    losses = report.qat["validation_losses"]
    if losses:
        text += (
            f"; its loss on {report.qat['validation_images']:,} validation "
            f"images was {losses[0]:.4f} before and {min(losses):.4f} after"
        )
    return text + "."


def _source(qat):
    """Who taught; `gnsmall export` gives labels no weight without --teacher."""
    if not qat["teacher"]:
        return "labels"
    return f"{qat['teacher']} and labels" if qat["label_weight"] else "itself"


def _limits(report, record, published):
    others = (
        "; `papermill_runs/index.jsonl` has those with other seeds"
        if published
        else ""
    )
    epochs = record.recipe["epochs"]
    few = (
        f"- {epochs} epochs are a demonstration: longer training gives a "
        "better network.\n"
        if epochs < DEMONSTRATION_EPOCHS
        else ""
    )
    return (
        f"{few}- It knows the classes above alone, gives one of them to any "
        "image, and has seen images of its data set only; other cameras were "
        "not tried.\n"
        f"- Accuracy is that of one run{others}."
        f"{_ranges(report)}{_processors(report)}"
        f"{_crops(_aspect(report, record))}"
    )


def _crops(aspect):
    """What is lost where an example for a device has one way to squares."""
    if aspect not in _SQUARES:
        return ""
    return (
        f"\n- It was trained with --aspect {aspect}. The examples for Android, "
        "browsers, Edge TPU and microcontrollers crop: give them images that "
        "are square already."
    )


def _processors(report):
    if not TARGETS[report.target].for_xnnpack:
        return ""
    return (
        "\n- Whether int8, float16 or float32 is fastest depends on the "
        "processor: docs/verification.md has those measured. No ARM processor "
        "was at hand; `gnsmall benchmark --adb` measures a phone."
    )


def _ranges(report):
    if not report.quantization.startswith("int"):
        return ""
    if report.quantization == "int8-tfmot":
        return "\n- Ranges were learned with its rounding."
    return f"\n- Ranges are of {report.calibration_images:,} training images."
