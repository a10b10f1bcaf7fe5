"""What MediaPipe Tasks reads in a text model: its tokenizer, its labels, and which input is which.

A flatbuffer of its own (`metadata_schema.fbs` of MediaPipe), and files as a zip behind the model, stored unpacked.
"""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAME = "TFLITE_METADATA"
"""The entry of a TFLite file that holds it."""
IDENTIFIER = b"M001"
LEAST_PARSER = "1.1.0"
"""The schema's version that knows how BERT's text is cut."""
VOCABULARY = "vocab.txt"
LABELS = "labels.txt"
INPUTS = ("ids", "mask", "segment_ids")
"""The names that MediaPipe looks for, in the order of the graph's inputs: a wrong order answers garbage."""

# Slots of the schema's tables, and members of its enumerations.
LABELS_OF_AXIS, VOCABULARY_FILE = 2, 5
BERT_TOKENIZER = 4


@dataclass(frozen=True)
class Table:
    """One table of the schema: by slot, a number, a text, a table, or a vector of tables."""

    slots: dict[int, Any] = field(default_factory=dict)
    unions: dict[int, int] = field(default_factory=dict)
    """Slots of one byte."""


def text_model(name: str, output: str, *, labels: bool) -> bytes:
    """Return the metadata of a model of three inputs `INPUTS` and one output; `labels`: it has one score each."""
    import flatbuffers

    vocabulary = Table({0: VOCABULARY}, {2: VOCABULARY_FILE})
    tokenizer = Table({1: Table({0: [vocabulary]})}, {0: BERT_TOKENIZER})
    made: dict[int, Any] = {0: output}
    if labels:
        made[6] = [Table({0: LABELS}, {2: LABELS_OF_AXIS})]
    graph = Table({2: [Table({0: n}) for n in INPUTS], 3: [Table(made)], 5: [tokenizer]})
    root = Table({0: name, 3: [graph], 7: LEAST_PARSER})
    builder = flatbuffers.Builder(1024)
    builder.Finish(_write(builder, root), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def append_files(path: Path, files: Sequence[tuple[str, str]]) -> None:
    """Append files to a model, as a zip that readers find from its end; the same files give the same bytes."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        for name, content in files:
            archive.writestr(zipfile.ZipInfo(name), content.encode())


def _write(builder: Any, table: Table) -> int:
    written = {slot: _value(builder, value) for slot, value in table.slots.items()}
    builder.StartObject(max((*written, *table.unions)) + 1)
    for slot, value in table.unions.items():
        builder.PrependInt8Slot(slot, value, 0)
    for slot, value in written.items():
        builder.PrependUOffsetTRelativeSlot(slot, value, 0)
    return int(builder.EndObject())


def _value(builder: Any, value: Any) -> int:
    if isinstance(value, str):
        return int(builder.CreateString(value))
    if isinstance(value, Table):
        return _write(builder, value)
    made = [_write(builder, t) for t in value]
    builder.StartVector(4, len(made), 4)
    for offset in reversed(made):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())
