"""What the samples are generated from: everything that an app must know of one model, in one frozen table."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from converter.data.encode import STRIDE
from converter.graphs import ENCODER_INPUTS, MODEL
from converter.tasks.question_answering import MAX_ANSWER_TOKENS
from converter.tflite.model import ANY_SIGNATURE, BATCH, DEFAULT_LENGTHS, SIGNATURE

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.target import Runner

CLASS_NAMES = {
    "classes": "TextClassifier",
    "multi": "TextClassifier",
    "score": "TextScorer",
    "embedding": "TextEmbedder",
    "tokens": "TextEmbedder",
    "tags": "TokenTagger",
    "span": "QuestionAnswerer",
    "mask": "MaskFiller",
}
SUMMARIES = {
    "classes": "text in, a label and its probability out",
    "multi": "text in, all matching labels out",
    "score": "text in, a score out",
    "embedding": "text in, its embedding out",
    "tokens": "text in, the mean of its token vectors out",
    "tags": "text in, a tag for each word out",
    "span": "question and context in, the answer out",
    "mask": "text with masks in, the most likely tokens out",
}
MOST_MEASURED = 6
"""Lengths at which a phone is measured; of more, a few stand for all."""


@dataclass(frozen=True)
class DeviceFacts:
    """One model, as its samples see it."""

    model: str
    kind: str
    """How outputs become an answer: one of `CLASS_NAMES`."""
    lengths: tuple[int, ...]
    """Of signatures, ascending; none where one takes any length."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    width: int
    """The last dimension of the (first) output: classes, hidden size or vocabulary."""
    labels: tuple[str, ...]
    pad: Mapping[str, int]
    tokenizer: str
    """What `tokenizer.json` holds: WordPiece, Unigram, BPE."""
    own_tokenizer: bool
    """The samples bring their own tokenizer; else the app needs a library."""
    why_not: str = ""
    """Why they do not."""
    normalized: bool = False
    """The embedding has length 1."""
    prompt: str = ""
    """Words that the samples put before every text."""
    mask_id: int = -1
    mask_token: str = ""
    n_differing: int = 0
    """Hard texts to which the samples' tokenizer gives other ids than the original."""
    runtime: Mapping[str, str] = field(default_factory=dict)
    """Least versions: of the file, and those that the samples were written for."""
    graph_inputs: tuple[str, ...] = ()
    """The inputs in the order of the graph."""
    any_up_to: int = 0
    """The longest text in tokens of the one signature that takes any length; 0 where there is none."""
    batch: int = 1
    """Texts that a second signature of each length takes."""
    signature: str = SIGNATURE
    any_signature: str = ANY_SIGNATURE
    batch_signature: str = BATCH
    max_answer_tokens: int = MAX_ANSWER_TOKENS
    stride: int = STRIDE

    @property
    def max_length(self) -> int:
        """Longest text in tokens; the samples cut what is longer."""
        return self.any_up_to or self.lengths[-1]

    @property
    def measured_lengths(self) -> tuple[int, ...]:
        """Lengths in tokens at which a device is measured: those of the signatures, or a few that stand for many."""
        if 0 < len(self.lengths) <= MOST_MEASURED:
            return self.lengths
        few = (n for n in DEFAULT_LENGTHS if n in self.lengths or n < self.any_up_to)
        return tuple(sorted({*few, *self.lengths[:1], self.max_length}))

    def benchmark_flags(self, length: int) -> str:
        """Return what `benchmark_model` must be told of the signature and its inputs.

        It takes inputs in the graph's order, and fills those of which nothing is said with numbers up to 99: no model
        has so many kinds of text.
        """
        signature = f"{self.any_signature}{self.any_up_to}" if self.any_up_to else f"{self.signature}{length}"
        ranges = {n: f"{t.draw[0]},{t.draw[1]}" for n, t in ENCODER_INPUTS.items() if n != "input_ids"}
        told = {
            "signature_to_run_for": signature,
            "input_layer": ",".join(self.graph_inputs),
            "input_layer_shape": ":".join([f"1,{length}"] * len(self.graph_inputs)),
            "input_layer_value_range": ":".join(f"{n},{ranges[n]}" for n in self.graph_inputs if n in ranges),
        }
        return " ".join(f"--{name}={value}" for name, value in told.items())

    @property
    def numbers_a_token(self) -> int:
        """Numbers in an output for each token; 0 where there is one row for the whole text."""
        return {"span": 1}.get(self.kind, self.width if self.kind in {"tags", "tokens", "mask"} else 0)

    @property
    def class_name(self) -> str:
        return CLASS_NAMES[self.kind]

    @property
    def summary(self) -> str:
        return SUMMARIES[self.kind]


def kind_of(source: "TorchModel") -> str:
    """Return how the outputs of a model become an answer, one of `CLASS_NAMES`; empty where no sample knows how."""
    return "embedding" if source.head is not None else source.task.sample_kind


def facts_of(
    source: "TorchModel",
    runner: "Runner",
    *,
    why_not: str = "",
    n_differing: int = 0,
    runtime: Mapping[str, str],
    graph_inputs: tuple[str, ...],
) -> DeviceFacts:
    """Gather what the samples need; `why_not` says why they bring no tokenizer, empty where they do."""
    import json

    tokenizer, graph = source.tokenizer, runner.graphs[MODEL]
    mask = getattr(tokenizer, "mask_token_id", None)
    return DeviceFacts(
        model=source.provenance.id,
        kind=kind_of(source),
        lengths=runner.lengths,
        inputs=tuple(s.name for s in graph.inputs),
        outputs=tuple(s.name for s in graph.outputs),
        width=int(graph.outputs[0].shape[-1] or 0),
        labels=source.task.labels,
        # Of inputs that the model has not, too: samples are written for all.
        pad={t.name: t.fill for t in (*ENCODER_INPUTS.values(), *source.specs[MODEL].inputs)},
        tokenizer=str(json.loads(tokenizer.backend_tokenizer.to_str())["model"].get("type")),
        own_tokenizer=not why_not,
        why_not=why_not,
        normalized=source.head is not None and source.head.normalized,
        prompt=source.task.prompt,
        mask_id=-1 if mask is None else int(mask),
        mask_token=str(tokenizer.mask_token or ""),
        n_differing=n_differing,
        runtime=runtime,
        graph_inputs=graph_inputs,
        any_up_to=0 if runner.lengths else runner.max_length or 0,
        batch=runner.max_batch or 1,
    )
