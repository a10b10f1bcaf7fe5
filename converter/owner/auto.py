"""Folders of transformers: its pipelines and Auto classes, over the tokenizer's own defaults."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.data.encode import MASK_SPELLINGS
from converter.graphs import SEQUENCE, VOCABULARY, names_along
from converter.owner.adapter import load_adapted, tokenizer_folder
from converter.owner.contract import (
    ADAPTER_FILE,
    UNBOUNDED,
    Outputs,
    OwnerLibrary,
    Question,
    array,
    is_real,
    own_tokens,
    without_adapter,
)
from converter.owner.load import load_auto
from converter.owner.sentence import by_name

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from converter.task import Task

PIPELINES = ("text-classification", "token-classification", "feature-extraction")
"""Those that transformers 5 still has and that answer any text; its fill-mask refuses texts without a mask."""
STRIDE = 128
"""Tokens that two windows of a context share, as in transformers' own question-answering pipeline (4.57)."""


class AutoLibrary(OwnerLibrary):
    """A model with a head of transformers, or an encoder without one.

    What the model is fed and returns is watched while the pipeline is called as a user calls it: a pipeline itself
    tells no more than labels and probabilities.
    """

    def __init__(self, folder: Path, task: "Task", max_length: int) -> None:
        import transformers

        self.folder, self.task, self.max_length = folder, task, max_length
        self.name = f"transformers {transformers.__version__}"
        if (folder / ADAPTER_FILE).is_file():
            self.model, peft = load_adapted(folder, task.auto_class)
            self.name += f" with {peft}"
        else:
            self.model = load_auto(folder, task.auto_class)
        self.encoder = self.model
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(
            tokenizer_folder(folder), trust_remote_code=False, local_files_only=True
        )
        # What the model does not take no user can give it, whatever the tokenizer makes (DistilBERT has no types).
        accepted = _accepted(self.model)
        self.tokenizer.model_input_names = [n for n in self.tokenizer.model_input_names if n in accepted]
        if self.tokenizer.model_max_length > UNBOUNDED:
            self.tokenizer.model_max_length = max_length
        self.pipe: Any = self._pipeline() if task.name in PIPELINES else None

    @property
    def call(self) -> str:  # type: ignore[override]
        return f'pipeline("{self.task.name}")' if self.task.name in PIPELINES else self.task.auto_class

    def _pipeline(self) -> Any:
        from transformers import pipeline

        return pipeline(self.task.name, model=self.model, tokenizer=self.tokenizer, device="cpu")

    def alone(self, questions: Sequence[Question]) -> Iterator[Outputs]:
        for question in questions:
            try:
                found = self._ask([question])
            except (IndexError, RuntimeError):
                found = self._ask_cut([question])
            yield from found

    def together(self, questions: Sequence[Question]) -> Iterator[Outputs]:
        found: dict[int, Outputs] = {}
        for places in self._batches(questions):
            asked = [questions[place] for place in places]
            try:
                answers = self._ask(asked)
            except (IndexError, RuntimeError):
                answers = self._ask_cut(asked)
            found |= dict(zip(places, answers, strict=True))
        yield from (found[place] for place in range(len(questions)))

    def _batches(self, questions: Sequence[Question]) -> list[list[int]]:
        """Return the places of the texts to ask about together.

        An encoder-decoder that classifies (BART, T5) takes texts with as many end tokens as each other, and no others.
        """
        if not getattr(self.encoder.config, "is_encoder_decoder", False):
            return [list(range(len(questions)))]
        by_ends: dict[int, list[int]] = {}
        for place, question in enumerate(questions):
            ends = int((self.fed(question)["input_ids"] == self.encoder.config.eos_token_id).sum())
            by_ends.setdefault(ends, []).append(place)
        return list(by_ends.values())

    def _ask_cut(self, questions: Sequence[Question]) -> list[Outputs]:
        """Ask about texts that the tokenizer lets grow beyond the model's positions: there the library only fails."""
        stated = self.tokenizer.model_max_length
        self.tokenizer.model_max_length = min(stated, self.max_length)
        try:
            return self._ask(questions)
        finally:
            self.tokenizer.model_max_length = stated

    def _ask(self, questions: Sequence[Question]) -> list[Outputs]:
        if self.pipe is None:
            fed = self._tokenized(questions)
            return self._outputs(fed, self._forward(fed), len(questions))
        fed, made, said = self._watched(questions)
        found = self._outputs(fed, made, len(questions))
        if self.task.name == "text-classification":
            return [self._named(row, rows) for row, rows in zip(found, said, strict=True)]
        return found

    def _watched(self, questions: Sequence[Question]) -> tuple[dict[str, "torch.Tensor"], Any, Any]:
        """Call the pipeline; returns what it fed its model, what that returned, and what the pipeline made of it."""
        calls: list[tuple[dict[str, torch.Tensor], Any]] = []
        hook = self.model.register_forward_hook(
            lambda _module, _given, named, made: calls.append((named, made)), with_kwargs=True
        )
        options: dict[str, dict[str, Any]] = {
            "text-classification": {"top_k": None, "function_to_apply": "none", "truncation": True},
            "feature-extraction": {"truncation": True, "return_tensors": True},
            "token-classification": {},
        }
        try:
            said = self.pipe([self._input(q) for q in questions], batch_size=len(questions), **options[self.task.name])
        finally:
            hook.remove()
        ((fed, made),) = calls
        return fed, made, said

    def _input(self, question: Question) -> Any:
        example = question.example
        if self.task.reads_pairs and example.pair is not None:
            return {"text": example.text, "text_pair": example.pair}
        return " ".join(example.words) if example.words is not None else example.text

    def _named(self, found: Outputs, said: Sequence[dict[str, Any]]) -> Outputs:
        """Order the scores by the names that the pipeline gives them: names in another order are other answers."""
        import numpy as np

        scores = {row["label"]: row["score"] for row in said}
        if len(scores) != len(found["logits"]) or set(scores) != set(self.task.labels):
            return {"logits": by_name(found["logits"], self.labels, self.task.labels)}
        return {"logits": np.asarray([scores[name] for name in self.task.labels], dtype=np.float32)}

    def _tokenized(self, questions: Sequence[Question]) -> dict[str, "torch.Tensor"]:
        pairs = [q.example.pair if self.task.reads_pairs else None for q in questions]
        rows = [self.tokenizer(self._masked_text(q), p, truncation=True) for q, p in zip(questions, pairs, strict=True)]
        fed = dict(self.tokenizer.pad(rows, padding=True, return_tensors="pt"))
        if names_along(self.task.outputs, VOCABULARY):
            for row, question in enumerate(questions):
                first = int(is_real(fed, row).argmax())
                hidden = [first + place for place in question.hidden if first + place < fed["input_ids"].shape[1]]
                fed["input_ids"][row, hidden] = self.tokenizer.mask_token_id
        return fed

    def _masked_text(self, question: Question) -> str:
        text: str = question.example.text if question.example.words is None else " ".join(question.example.words)
        if names_along(self.task.outputs, VOCABULARY):
            for spelling in MASK_SPELLINGS:
                text = text.replace(spelling, self.tokenizer.mask_token)
        return text

    def _forward(self, fed: dict[str, "torch.Tensor"]) -> Any:
        import torch

        with torch.inference_mode():
            return self.model(**fed)

    def _outputs(self, fed: dict[str, "torch.Tensor"], made: Any, n: int) -> list[Outputs]:
        rows: list[Outputs] = []
        for row in range(n):
            real = is_real(fed, row)
            values = {name: array(made[name][row].float()) for name in (t.name for t in self.task.outputs)}
            rows.append({k: v[real] if k in names_along(self.task.outputs, SEQUENCE) else v for k, v in values.items()})
        return rows

    def fed(self, question: Question) -> "dict[str, NDArray[Any]]":
        return own_tokens(self._tokenized([question]), 0)

    def variants(self, question: Question) -> Iterator[tuple[str, Outputs]]:
        import torch

        fed = self._tokenized([question])
        if "token_type_ids" in fed:
            plain = fed | {"token_type_ids": torch.zeros_like(fed["token_type_ids"])}
            yield "token_type_ids, which tell the second text from the first, do not reach the model", self._one(plain)
        if hasattr(self.model, "disable_adapter"):
            with self.model.disable_adapter():
                yield f"{ADAPTER_FILE}: the adapter is not applied", self._one(fed)

    def _one(self, fed: dict[str, "torch.Tensor"]) -> Outputs:
        found = self._outputs(fed, self._forward(fed), 1)[0]
        if self.task.name == "text-classification":
            return {"logits": by_name(found["logits"], self.labels, self.task.labels)}
        return found


class QuestionLibrary(AutoLibrary):
    """Question answering: the context in overlapping windows of the tokenizer's own making, each a call of its own.

    Windows share as many tokens as those of transformers' pipeline (4.57), and fewer where a long question leaves
    little room for the context, on which the pipeline fails.
    """

    def _tokenized(self, questions: Sequence[Question]) -> dict[str, "torch.Tensor"]:
        windows = [self._window(q.example.text, q.example.pair or "", q.example.window) for q in questions]
        kept = {name: [window[name] for window in windows] for name in self.tokenizer.model_input_names}
        return dict(self.tokenizer.pad(kept, padding=True, return_tensors="pt"))

    def _window(self, text: str, context: str, number: int) -> dict[str, list[int]]:
        limit = min(self.tokenizer.model_max_length, self.max_length)
        asked = len(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        room = limit - self.tokenizer.num_special_tokens_to_add(pair=True) - asked
        if room <= 0:
            # A question that alone fills the window leaves none for the context.
            return dict(self.tokenizer(text, context, max_length=limit, truncation="longest_first"))
        stride = min(STRIDE, limit // 2)
        made = self.tokenizer(
            text,
            context,
            max_length=limit,
            truncation="only_second",
            stride=stride if stride < room * 3 // 4 else room // 2,
            return_overflowing_tokens=True,
        )
        last = len(made[self.tokenizer.model_input_names[0]]) - 1
        return {name: made[name][min(number, last)] for name in self.tokenizer.model_input_names}


def _accepted(model: Any) -> set[str]:
    import inspect

    return set(inspect.signature(without_adapter(model).forward).parameters)
