"""Labels inside a .tflite file, as MediaPipe and Android apps read them.

The file gets a flatbuffer of its own (metadata_schema.fbs of MediaPipe, root
ModelMetadata) and a zip archive with the labels at its end. mediapipe has a
writer; it takes half a gigabyte to install, so that this one stands here and
mediapipe reads what it writes in a test.
"""

import io
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path

from gnsmall_keras.data.files.layout import check_label
from gnsmall_keras.export.graph import Graph
from gnsmall_keras.writing import UNFINISHED, replacing

LABELS_FILE = "labels.txt"
_METADATA_NAME = b"TFLITE_METADATA"
_PARSER_VERSION = "1.0.0"  # the oldest that knows all that is used here
# Numbers in metadata_schema.fbs: kinds of unions, then places of fields.
_TENSOR_AXIS_LABELS, _IMAGE_PROPERTIES, _NORMALIZATION = 2, 2, 1
_COLOURS = {3: 1, 1: 2}  # RGB and grey, by their channels


def check_labels(labels: Sequence[str], classes: int) -> None:
    """Checks names of classes.

    Raises:
        ValueError: unless there is one for each class, each of which
            `check_label` takes.
    """
    if len(labels) != classes:
        raise ValueError(
            f"`labels` must be one a class, {classes}. Received: {len(labels)}."
        )
    for label in labels:
        check_label(label)


def check_beside(path: Path, labels: Sequence[str] | None) -> None:
    """Checks that `labels.txt` in a folder may become that of a new file.

    Warns where there is one and the new file has no names of its own.

    Raises:
        ValueError: if it names the classes of another file there.
    """
    file = path.with_name(LABELS_FILE)
    others = [
        other
        for other in path.parent.glob("*.tflite")
        if other != path and not other.name.startswith(UNFINISHED)
    ]
    if not file.is_file():
        return
    known = file.read_text(encoding="utf-8").splitlines()
    if not labels:
        warnings.warn(
            f"{file} will be taken for the classes of {path.name}, which has "
            f"no `class_names`: {known}. Give `class_names`, or remove it.",
            stacklevel=3,
        )
    elif others and known != [*labels]:
        raise ValueError(
            f"{file} names the classes of other files in its folder: {known}. "
            f"Received: {[*labels]}. Write to a folder of its own."
        )


def write_beside(path: Path, labels: Sequence[str] | None) -> None:
    """Writes `labels.txt` beside a file, one class a line."""
    if labels:
        with replacing(path.with_name(LABELS_FILE)) as unfinished:
            text = "".join(f"{label}\n" for label in labels)
            unfinished.write_text(text, encoding="utf-8")


def read_labels(data: bytes) -> list[str]:
    """Returns the labels in a file; an empty list if it has none."""
    file = io.BytesIO(data)
    if not zipfile.is_zipfile(file):
        return []
    with zipfile.ZipFile(file) as archive:
        if LABELS_FILE not in archive.namelist():  # another maker's
            return []
        return archive.read(LABELS_FILE).decode().splitlines()


def with_labels(data: bytes, labels: Sequence[str]) -> bytes:
    """Returns a classifier's file with labels as metadata.

    MediaPipe's ImageClassifier and tflite/run_model.py find them there. Images
    are declared as raw pixels, mean 0 and deviation 1: the normalisation is in
    the file.

    Args:
        data: a .tflite file without metadata; MediaPipe takes uint8 or float32.
        labels: of the classes.

    Raises:
        ValueError: if the labels are not one a class, or the file has metadata.
    """
    graph = Graph(data)
    schema, model = graph.schema, graph.model
    check_labels(labels, graph.shape(graph.outputs[0])[-1])
    if any(entry.name == _METADATA_NAME for entry in model.metadata or ()):
        raise ValueError(
            "The file must be without metadata. Received: one that has labels. "
            "Give the file they were added to."
        )
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = _metadata(graph.shape(graph.inputs[0])[-1])
    entry.name, entry.buffer = _METADATA_NAME, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or ()), entry]
    return _append_labels(graph.to_bytes(), labels)


def _append_labels(data, labels):
    """Adds a zip archive; readers look for it at a file's end."""
    file = io.BytesIO(data)
    with zipfile.ZipFile(file, "a") as archive:
        # Without today's date: the same labels give the same bytes.
        entry = zipfile.ZipInfo(LABELS_FILE)
        archive.writestr(entry, "\n".join(labels) + "\n")
    return file.getvalue()


def _metadata(channels):
    """The flatbuffer ModelMetadata; numbers are its fields' places."""
    write = _Writer()
    labels = write.table({0: write.text(LABELS_FILE), 2: _TENSOR_AXIS_LABELS})
    content = write.table(
        {
            0: _IMAGE_PROPERTIES,
            1: _Offset(write.table({0: _COLOURS.get(channels, 0)})),
        }
    )
    raw_pixels = write.table(
        {
            0: write.numbers(*[0.0] * channels),
            1: write.numbers(*[1.0] * channels),
        }
    )
    unit = write.table({0: _NORMALIZATION, 1: _Offset(raw_pixels)})
    image = write.table(
        {
            0: write.text("image"),
            3: _Offset(content),
            4: write.tables(unit),
        }
    )
    classes = write.table({0: write.text("class"), 6: write.tables(labels)})
    graph = write.table({2: write.tables(image), 3: write.tables(classes)})
    root = write.table(
        {
            0: write.text("GhostNetV3-Small"),
            1: write.text("Classifies small images."),
            3: write.tables(graph),
            7: write.text(_PARSER_VERSION),
        }
    )
    return write.finish(root, b"M001")


class _Offset(int):
    """Where in the buffer a field's value is; else a field is a number."""


class _Writer:
    """Writes tables from their fields."""

    def __init__(self):
        import flatbuffers

        self._builder = flatbuffers.Builder(1024)

    def table(self, fields):
        """Writes a table of place -> value; returns where it is."""
        self._builder.StartObject(max(fields) + 1)
        for place, value in fields.items():
            if isinstance(value, _Offset):
                self._builder.PrependUOffsetTRelativeSlot(place, value, 0)
            else:
                self._builder.PrependInt8Slot(place, value, 0)
        return self._builder.EndObject()

    def text(self, value):
        return _Offset(self._builder.CreateString(value))

    def tables(self, *values):
        return self._vector(values, self._builder.PrependUOffsetTRelative)

    def numbers(self, *values):
        return self._vector(values, self._builder.PrependFloat32)

    def finish(self, root, identifier):
        self._builder.Finish(root, identifier)
        return bytes(self._builder.Output())

    def _vector(self, values, prepend):
        self._builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            prepend(value)
        return _Offset(self._builder.EndVector())
