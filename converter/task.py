"""What a model is for: how its text is encoded, what its outputs decide, how decisions are scored and trained."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from converter.examples import Encoding, Example, Label, pad_batch
from converter.graphs import GraphSpec, Kind, ModelFacts, Run, TensorSpec, encoder_graph, run_graphs

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from converter.data.probes import BuiltinText

Outputs = Mapping[str, "NDArray[np.float32]"]
"""Outputs of one example, by name, without the batch axis and cut to its own tokens."""


class NoClientForm(Exception):
    """A client has no form for this model; the text says why."""


@dataclass(frozen=True)
class Judged:
    """An example, how it was fed, and what came out."""

    example: Example
    encoding: Encoding
    outputs: Outputs


class Task(ABC):
    """One task; `converter/tasks/<name with underscores>.py` holds it. Instances know the labels of one model."""

    name: ClassVar[str]
    architecture: ClassVar[str]
    """The end of the transformers class that carries this task's head, such as `ForSequenceClassification`."""
    auto_class: ClassVar[str]
    """The transformers `Auto…` class that loads it."""
    kind: ClassVar[Kind] = "encoder"
    """What a model with this head is run as."""
    reads_pairs: ClassVar[bool] = True
    """The second text of an example is read with the first."""
    cuts_second: ClassVar[bool] = False
    """Of a pair that is too long, the second text alone is cut, as a question's context is."""
    usual_length: ClassVar[int | None] = None
    """Tokens that are read at once where the user says nothing; None: as many as the model takes."""
    windowed: ClassVar[bool] = False
    """A text that is longer is read in overlapping windows, whose answers are put together."""
    has_labels: ClassVar[bool] = False
    """Its logits are classes that the configuration names."""
    bare_columns: ClassVar[tuple[str, ...]] = ()
    """What the columns of a tab-separated file are that names none of them."""
    scored_apart: ClassVar[bool] = False
    """It is scored by what it does on its own, as `scored_outputs` asks for it, not by outputs that are compared."""
    lower_is_better: ClassVar[bool] = False
    """Of `metric_name`, as of perplexity."""
    most_texts: ClassVar[int | None] = None
    """Texts that are compared at most where their values decide, not bounds; None: as many as the recipe says."""

    def __init__(self, config: Any, prompt: str = "") -> None:
        self.config = config
        self.prompt = prompt  # stands before every text, as the owner's library puts it there; the first of a pair

    @property
    @abstractmethod
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs of the transformers model that its graph keeps, in order."""

    def graphs(self, facts: ModelFacts) -> Mapping[str, GraphSpec]:
        """Declare the graphs of a model of this configuration, in the order in which they run: an encoder has one."""
        return encoder_graph(facts, self.outputs)

    def read_folder(self, folder: Path, tokenizer: Any, max_length: int) -> None:  # noqa: B027 - most need nothing
        """Read what a model's folder, or a package, says beside its configuration.

        Raises:
            SourceError: it says what cannot be followed.

        """

    def feed(
        self, specs: Mapping[str, GraphSpec], encodings: Sequence[Encoding], lengths: Mapping[str, int] | None = None
    ) -> "dict[str, NDArray[np.int64]]":
        """Stack texts into what `answer` takes, as long as the longest of them, or as `lengths` says by axis."""
        made: dict[str, NDArray[np.int64]] = {}
        for spec in specs.values():
            made |= pad_batch(encodings, spec, lengths)
        return made

    def answer(self, specs: Mapping[str, GraphSpec], run: Run, feed: "Mapping[str, NDArray[np.int64]]") -> Outputs:
        """Run a model on a batch that `feed` made; returns its outputs, batch axis and padding still there."""
        return run_graphs(specs, run, feed)

    def continued(self, specs: Mapping[str, GraphSpec], run: Run, encoding: Encoding) -> Encoding:
        """Return a text with what the model writes after it, where it writes text: that is what others are held to."""
        return encoding

    def idle(self, decisions: Sequence[Any]) -> str | None:
        """Return why agreement with these decisions would prove nothing, where their number does not tell; or None."""
        return None

    @property
    def client_class(self) -> str:
        """Optimum's class that opens an ONNX package."""
        return f"ORTModel{self.architecture}"

    @property
    def sample_kind(self) -> str:
        """How the samples for apps read the outputs, one of `device.facts.CLASS_NAMES`; empty: they do not know how."""
        return ""

    def mediapipe_scores(self) -> str:
        """Return the TFLite operation that makes scores of the outputs, as a task of MediaPipe's wants them.

        Raises:
            NoClientForm: MediaPipe has no such task.

        """
        raise NoClientForm(f"MediaPipe has no task for {self.name}")

    def builtin_text(self, text: "BuiltinText") -> tuple[Example, ...]:
        """Choose, of the text that comes with the tool, what has the shape of this task; edge cases last."""
        return (*text.texts(), *text.text_edges())

    def asked_of(self, examples: "Sequence[Example]") -> "tuple[Example, ...]":
        """Return what a model is asked of texts as a file has them."""
        return tuple(examples)

    def row_of(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a row of an evaluation file with all of its columns: some hold tables of more."""
        return row

    def drop(self, before: float, after: float) -> float:
        """Return how much worse `metric_name` came out: what it lost; where lower is better, the share it grew by."""
        return after / before - 1 if self.lower_is_better else before - after

    def scored_outputs(
        self, specs: Mapping[str, GraphSpec], run: Run, one: Example, encoding: Encoding
    ) -> Mapping[str, "NDArray[Any]"]:
        """Return what one example is scored by, where the task is `scored_apart`."""
        raise NotImplementedError(f"{self.name} is scored by the outputs that are compared")

    def knows_column(self, name: str) -> bool:
        """Tell whether this task reads columns of that name which others do not."""
        return False

    @property
    @abstractmethod
    def metric_name(self) -> str:
        """The metric that stands in the table and that `--max-drop` limits; it may depend on the model's head."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits; empty where the task has none."""
        return ()

    @property
    def label_kind(self) -> str:
        """How the rows of data are labelled: `class`, `classes` (several a text), `tags`; empty: by no class names."""
        return ""

    def column_names(self, roles: Collection[str]) -> dict[str, str]:
        """Return the names under which a row's `text`, `pair` and `label` are read, where a user named `roles`."""
        first = "sentence1" if "pair" in roles else "text"
        return {"text": first, "pair": "sentence2", "label": "label"}

    def examples_of(self, row: Mapping[str, Any], where: str) -> tuple[Example, ...]:
        """Read one row of an evaluation file: one example, or the texts of one row that are encoded apart.

        Raises:
            DataError: a column is missing or holds what it cannot; `where` names file and line.

        """
        from converter.data.columns import text_example

        return (text_example(row, where, self.label_of),)

    def label_of(self, row: Mapping[str, Any]) -> Label:
        """Return the row's label as this task keeps it, None where it has none; `ValueError` says what is wrong."""
        return None

    @abstractmethod
    def encode(self, tokenizer: Any, example: Example, max_length: int) -> Encoding:
        """Tokenize as a user would, truncated to `max_length` tokens."""

    def needed_ids(self) -> set[int]:
        """Return the tokens without which no answer can be written."""
        return set()

    def renumbered(self, config: Any, tokenizer: Any, new_ids: Mapping[int, int]) -> "Task":
        """Return the task of the same model with fewer tokens; `new_ids` has the new id of each that is left."""
        return type(self)(config, self.prompt)

    def learned(self, tokenizer: Any, example: Example, max_length: int) -> Encoding:
        """Tokenize a text to learn from; with a right answer behind it, where the task writes answers.

        Raises:
            DataError: there is nothing to learn from it.

        """
        return self.encode(tokenizer, example, max_length)

    def learned_steps(self, feed: Mapping[str, "torch.Tensor"], encodings: Sequence[Encoding]) -> "torch.Tensor":
        """Return 1 `[batch, length]` where outputs are learned, 0 where not: at the text's own tokens."""
        return feed["attention_mask"]

    def windows(self, tokenizer: Any, example: Example, max_length: int) -> tuple[Example, ...]:
        """Return what of an example is read: itself, cut where it is too long; or all windows of its text, in order.

        Each window is an example of its own, so that one example is one encoding and one call. `decisions` and
        `metric` put together those that are there.
        """
        return (example,)

    def compared(self, outputs: Outputs, encoding: Encoding) -> Outputs:
        """Return what of one text's outputs is kept and compared: all of it, unless that would fill the memory.

        A task whose outputs are as wide as a vocabulary keeps the positions that matter; `decisions` and `metric` get
        what this returns.
        """
        return outputs

    def describe(self, decision: Any, example: Example) -> str:
        """Return a decision in words for people: label names where it is made of classes."""
        if isinstance(decision, (tuple, list)):
            return " ".join(self.describe(part, example) for part in decision)
        if isinstance(decision, (int, np.integer)) and 0 <= decision < len(self.labels):
            return self.labels[int(decision)]
        return f"{decision:.4g}" if isinstance(decision, (float, np.floating)) else str(decision)

    @abstractmethod
    def decisions(self, judged: Sequence[Judged]) -> list[Any]:
        """Return what each output decides: a label, tags, a span, the nearest neighbours among `judged`."""

    def agreement(self, wanted: Sequence[Any], found: Sequence[Any]) -> float:
        """Return the share (0..1) of equal decisions; the mean share of equal parts where a decision has parts."""
        if not wanted:
            raise ValueError("agreement of nothing: there are no decisions")
        return float(np.mean([self.same(a, b) for a, b in zip(wanted, found, strict=True)]))

    def same(self, wanted: Any, found: Any) -> float:
        """Return 1 where two decisions are equal, the share of equal parts where they have parts."""
        return float(wanted == found)

    def decision_in(self, decision: Any, laid_out: Judged, new_ids: Mapping[int, int]) -> Any:
        """Return a decision of the source as a model with a trimmed vocabulary would write it.

        `laid_out` is the source's answer by that model's tokens, `new_ids` the id there of each token it has.
        """
        return decision

    def distinct(self, decisions: Sequence[Any]) -> int:
        """Count different decisions; 1 says that the probes cannot tell a good model from a constant one."""
        return len(set(decisions))

    @abstractmethod
    def metric(self, judged: Sequence[Judged]) -> dict[str, float]:
        """Score labelled examples; the first key is `metric_name`. Empty where no example has a label."""

    def metric_notes(self, judged: Sequence[Judged]) -> list[str]:
        """Return what a reader of the metric must know of these labels, a sentence each: why it may mislead."""
        return []

    @abstractmethod
    def chance(self, examples: Sequence[Example]) -> float:
        """Return what a model that ignores its input would score on `metric_name`."""

    def check_labels(self, examples: Sequence[Example]) -> None:  # noqa: B027 - most tasks have nothing to refuse
        """Raise `DataError`, naming file and line, for a label that this model's head cannot have."""

    @abstractmethod
    def soft_loss(
        self,
        student: Mapping[str, "torch.Tensor"],
        teacher: Mapping[str, "torch.Tensor"],
        attention_mask: "torch.Tensor",
        temperature: float,
    ) -> "torch.Tensor":
        """Distance of the student's outputs to the teacher's, padding excluded (Hinton et al., arXiv 1503.02531)."""

    @abstractmethod
    def hard_loss(
        self, outputs: Mapping[str, "torch.Tensor"], batch: Sequence[tuple[Example, Encoding]]
    ) -> "torch.Tensor | None":
        """Loss against the data's own labels; None where the batch has none."""
