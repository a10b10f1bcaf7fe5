"""The shipped model once more, as MediaPipe Tasks opens it: text in, answer out, with its tokenizer inside.

One graph that takes any length, so that MediaPipe sends the tokens that there are; scores instead of logits.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.model_folder.labels import label_line
from converter.task import NoClientForm
from converter.tflite.file import add_buffer, add_tensor, read_flat, shape_of, text, write_flat
from converter.tflite.lengths.stamp import LengthDependent, stamp
from converter.tflite.positions import ANY, operation

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.tflite.schema import Graph, Model, Signature

MEDIAPIPE_FILE = "model-mediapipe.tflite"
SPECIAL = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
ORDER = ("input_ids", "attention_mask", "token_type_ids")


class NotForMediaPipe(Exception):
    """MediaPipe has no form for this model; the text says why."""


def write_mediapipe(model: Path, source: "TorchModel", path: Path) -> None:
    """Write the variant of the TFLite file `model`.

    Raises:
        NotForMediaPipe: the task, the tokenizer, or a graph that cannot take any length.

    """
    from ai_edge_litert.schema_py_generated import MetadataT, TensorMapT

    from converter.tflite.mediapipe.metadata import LABELS, NAME, VOCABULARY, append_files, text_model

    scores = scores_of(source)
    vocabulary = vocabulary_of(source.tokenizer)
    made = read_flat(model)
    try:
        stamp(made, (), "serving")
    except LengthDependent as error:
        raise NotForMediaPipe(f"its graph cannot take every sequence length ({error})") from None
    graph, signature = made.subgraphs[0], made.signatureDefs[0]
    _order_inputs(graph, signature)
    output = "embedding" if scores is None else "probability"
    if scores is not None:
        _append_scores(made, graph, scores)
    graph.tensors[int(graph.outputs[0])].name = output
    signature.outputs = [TensorMapT(output, int(graph.outputs[0]))]
    metadata = text_model(source.provenance.id, output, labels=scores is not None)
    held = add_buffer(made, np.frombuffer(metadata, np.uint8))
    made.metadata = [*(made.metadata or ()), MetadataT(NAME, held)]
    # MediaPipe knows no weights but those in the tables.
    write_flat(made, path, inline=True)
    labels = [] if scores is None else [(LABELS, "".join(f"{label_line(n)}\n" for n in source.task.labels))]
    append_files(path, [(VOCABULARY, "\n".join(vocabulary) + "\n"), *labels])


def scores_of(source: "TorchModel") -> str | None:
    """Return the operation that turns outputs to scores; None for an embedding model."""
    if source.head is not None:
        return None
    try:
        return source.task.mediapipe_scores()
    except NoClientForm as error:
        raise NotForMediaPipe(str(error)) from None


def vocabulary_of(tokenizer: Any) -> list[str]:
    """Return the words by id, where MediaPipe's WordPiece cuts as this tokenizer does.

    Raises:
        NotForMediaPipe: it does not; the text says what differs.

    """
    table = json.loads(tokenizer.backend_tokenizer.to_str())
    model, normalizer = table["model"], table.get("normalizer") or {}
    kind = model.get("type")
    if kind != "WordPiece":
        raise NotForMediaPipe(f"its tokenizer is {kind}, and MediaPipe supports WordPiece")
    if normalizer.get("type") != "BertNormalizer" or not normalizer.get("lowercase"):
        raise NotForMediaPipe("its tokenizer is cased, and MediaPipe's is uncased")
    if normalizer.get("strip_accents") is False or not normalizer.get("handle_chinese_chars"):
        raise NotForMediaPipe("its tokenizer handles accents or Chinese characters differently from MediaPipe's")
    if model.get("continuing_subword_prefix") != "##":
        raise NotForMediaPipe("its subword prefix is not ##")
    for name, wanted in SPECIAL.items():
        if getattr(tokenizer, name) != wanted:
            raise NotForMediaPipe(f"its {name} is {getattr(tokenizer, name)}, and MediaPipe's is {wanted}")
    ids = tokenizer.get_vocab()
    words = sorted(ids, key=lambda word: int(ids[word]))
    if [int(ids[word]) for word in words] != list(range(len(words))):
        raise NotForMediaPipe("its vocabulary has gaps")
    if any(not word.strip() or "\n" in word or "\r" in word for word in words):
        raise NotForMediaPipe("a vocabulary entry contains a line break")
    return words


def _order_inputs(graph: "Graph", signature: "Signature") -> None:
    """Put ids, mask and segments in the order and under the names that MediaPipe knows; it wants all three."""
    from ai_edge_litert.schema_py_generated import TensorMapT, TensorType

    from converter.tflite.mediapipe.metadata import INPUTS

    found = {text(e.name): int(e.tensorIndex) for e in signature.inputs}
    placed = []
    for name, wanted in zip(ORDER, INPUTS, strict=True):
        number = found.get(name)
        if number is None:
            number = add_tensor(graph, wanted, (1, 1), TensorType.INT32)
            graph.tensors[number].shapeSignature = np.array((1, ANY), np.int32)
        graph.tensors[number].name = wanted
        placed.append(number)
    graph.inputs = np.array(placed, np.int32)
    signature.inputs = [TensorMapT(name, tensor) for name, tensor in zip(INPUTS, placed, strict=True)]


def _append_scores(model: "Model", graph: "Graph", kind: str) -> None:
    from ai_edge_litert.schema_py_generated import BuiltinOperator, BuiltinOptions, SoftmaxOptionsT, TensorType

    logits = int(graph.outputs[0])
    made = add_tensor(graph, "probability", shape_of(graph.tensors[logits]), TensorType.FLOAT32)
    options = (BuiltinOptions.SoftmaxOptions, SoftmaxOptionsT(beta=1.0)) if kind == "SOFTMAX" else (0, None)
    graph.operators.append(operation(model, getattr(BuiltinOperator, kind), [logits], made, options))
    graph.outputs = np.array([made], np.int32)
