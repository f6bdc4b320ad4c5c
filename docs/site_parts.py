"""Parts of the site: pages of public names, commands' help, formulas."""

import contextlib
import html
import inspect
import io
import json
import os
import re
from pathlib import Path

import keras
from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.utils.math import latex2mathml
from sphinx import addnodes
from sphinx.util.inspect import signature as signature_of
from sphinx.util.inspect import stringify_signature

import gnsmall_keras
from gnsmall_keras import cli
from gnsmall_keras.records.run import read_records

TFLITE = Path(__file__).parents[1] / "tflite"

# What a name is for; what is not here stands under the last heading.
GROUPS = {
    "Networks": """
        ghostnetv3_small ghostnetv3_small_nogate ghostnetv3
        create_model list_models to_deploy
        count_parameters count_macs count_blocks load_model save_model
        load_teacher load_torch_weights to_torch_state_dict
    """,
    "Data": "load_data Dataset normalize denormalization calibration_split",
    "Distillation": """
        Distiller FrozenTeacher TeacherEnsemble CachedTeacher FeaturePair
        LabelCrossEntropy DistillationLoss cache_teacher
    """,
    "Training": "train RunConfig RunRecord",
    "Files for devices": """
        export_tflite ExportConfig ExportReport QuantizationTraining LayerError
        TFLiteModel
    """,
    "Many runs": """
        read_sweep SweepConfig read_records read_report Report
    """,
    "More": "",
}


def write_api(folder: Path) -> None:
    """Writes a page for each public name, and their index.

    Args:
        folder: of the pages; made here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    left = set(gnsmall_keras.__all__)
    lines = [
        *("API", "===", ""),
        "Everything is imported from ``gnsmall_keras``; names come on first",
        "use, so that importing the package loads no framework.",
        "",
    ]
    for heading, listed in GROUPS.items():
        names = [name for name in listed.split() if name in left]
        left -= set(names)
        if heading == "More":
            names = sorted(left)
        if names:
            lines += [heading, "-" * len(heading), ""]
            lines += [".. toctree::", "   :hidden:", ""]
            lines += [f"   {name}" for name in names] + [""]
            lines += [".. list-table::", "   :widths: 30 70", ""]
        for name in names:
            lines += [f"   * - :doc:`{name}`", f"     - {_first(name)}"]
            _write_page(folder / f"{name}.rst", name)
        lines.append("")
    (folder / "index.rst").write_text("\n".join(lines), "utf-8")


def _first(name):
    doc = inspect.getdoc(getattr(gnsmall_keras, name)) or ""
    return doc.partition("\n")[0].replace("`", "``")


def _write_page(path, name):
    found = getattr(gnsmall_keras, name)
    kind = "class" if inspect.isclass(found) else "function"
    lines = [name, "=" * len(name), "", f".. auto{kind}:: gnsmall_keras.{name}"]
    if kind == "class":
        lines.append("   :members:")
    path.write_text("\n".join([*lines, ""]), "utf-8")


def escape_names(app, what, name, found, options, lines):
    """Keeps names that end in "_" from being links, and `x`s from errors."""
    for number, line in enumerate(lines):
        parts = re.split(r"(`[^`]*`)", line)
        parts[::2] = [re.sub(r"(\w)_(?!\w)", r"\1\\_", p) for p in parts[::2]]
        text = "".join(parts)
        lines[number] = re.sub(r"(`[^`]+`)(?=\w)", r"\1\\ ", text)


def sign(app, what, name, found, options, signature, returned):
    """Signs Keras models by their `__init__`: `__new__` takes anything."""
    if what != "class" or not issubclass(found, keras.Model):
        return None
    shown = signature_of(found.__init__, bound_method=True)
    return stringify_signature(shown, unqualified_typehints=True), None


class CommandOutput(Directive):
    """What a command of gnsmall prints, as it is."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self):
        """Returns the text as a block."""
        return [_block_of(print_command(self.arguments[0].split()))]


class CommandHelps(Directive):
    """A section for each command, with its help."""

    def run(self):
        """Returns the sections."""
        sections = []
        for name in cli.COMMANDS:
            section = nodes.section(ids=[f"gnsmall-{name}"])
            section += nodes.title(text=f"gnsmall {name}")
            section += _block_of(print_command([name, "--help-all"]))
            sections.append(section)
        return sections


def _block_of(text):
    return nodes.literal_block(text, text, language="text")


def print_command(command: list[str]) -> str:
    """Returns what a command prints.

    Args:
        command: its words, such as ["train", "--help-all"].

    Raises:
        ValueError: if that is nothing.
    """
    printed = io.StringIO()
    os.environ.update(COLUMNS="80", NO_COLOR="1")
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        cli.main(command)
    text = printed.getvalue().strip()
    if not text:
        raise ValueError(f"gnsmall {' '.join(command)} prints nothing.")
    return text


class PublishedNetworks(Directive):
    """A table of the files in tflite/, each with a link to its card."""

    def run(self):
        """Returns the table, of the reports beside the files."""
        rows = []
        for path in sorted(TFLITE.glob("*.json")):
            report = json.loads(path.read_text("utf-8"))
            rows.append(
                [
                    path.stem,
                    f"{100 * report['accuracy']:.2f} %",
                    f"{report['size_bytes']:,}",
                    f"{report['arena_bytes']:,}"
                    if report["target"] == "micro"
                    else "-",
                    f"{report['macs']:,}",
                    str(_epochs(report)),
                ]
            )
        header = ["card", "accuracy", "bytes", "arena", "MACs", "epochs"]
        return [_table(header, rows, link="/tflite/{}")]


def _epochs(report):
    source = report["source"]
    return next(
        record.recipe["epochs"]
        for record in read_records(TFLITE.parent / "papermill_runs/index.jsonl")
        if (record.digest, record.started_at)
        == (source["digest"], source["started_at"])
    )


def _table(header, rows, *, link):
    """A docutils table; the first cell of a row leads to `link`."""
    group = nodes.tgroup(cols=len(header))
    group += [nodes.colspec(colwidth=1) for _ in header]
    head, body = nodes.thead(), nodes.tbody()
    head += _row([nodes.paragraph(text=text) for text in header])
    for first, *others in rows:
        target = link.format(first)
        reference = addnodes.pending_xref(
            "",
            nodes.inline(text=first),
            refdomain="std",
            reftype="doc",
            reftarget=target,
            refexplicit=True,
            refwarn=True,
        )
        cell = nodes.paragraph("", "", reference)
        body += _row([cell, *(nodes.paragraph(text=t) for t in others)])
    group += [head, body]
    return nodes.table("", group, classes=["networks"])


def _row(cells):
    row = nodes.row()
    row += [nodes.entry("", cell) for cell in cells]
    return row


def _inline(self, node):
    self.body.append(_mathml(node.astext(), display=False))
    raise nodes.SkipNode


def _block(self, node):
    self.body.append(_mathml(node.astext(), display=True))
    raise nodes.SkipNode


def _mathml(latex, *, display):
    # MathML's parentheses grow by themselves.
    plain = re.sub(r"\\[bB]igg?[lr]?(?![a-zA-Z])", "", latex)
    tree = latex2mathml.tex2mathml(plain, as_block=display)
    # What stands below an underbrace, docutils writes as a subscript.
    tree = re.sub(
        r"<msub>(\s*<munder>.*?<mo>⏟</mo>\s*</munder>\s*<mtext>.*?</mtext>\s*)"
        r"</msub>",
        r"<munder>\1</munder>",
        tree,
        flags=re.S,
    )
    label = html.escape(latex, quote=True)
    return tree.replace("<math ", f'<math aria-label="{label}" ', 1)


def setup(app):
    """Registers the directive and the formulas."""
    app.add_directive("gnsmall-output", CommandOutput)
    app.add_directive("gnsmall-helps", CommandHelps)
    app.add_directive("published-networks", PublishedNetworks)
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True}
