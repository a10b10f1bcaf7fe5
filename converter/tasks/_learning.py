"""What a model that writes text learns from: an answer that it is fed as it is, and what it says at each step of it."""

from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.data.encode import encode_text
from converter.errors import DataError
from converter.examples import Encoding, Example, References
from converter.generate.settings import GenerationSettings
from converter.task import Task

if TYPE_CHECKING:
    import torch

UNREADABLE = "unreadable"
"""In place of a tokenizer: a folder that this project saved has what reads texts alone."""
NO_LOSS = -100
"""The label of a step that nothing is learned from."""


class LearningToWrite(Task, ABC):
    """The training side of `Writing`: every step of an answer is learned, whoever gave the answer."""

    settings: GenerationSettings
    _tokenizer: Any = None
    _answers: Any = None
    """Reads answers where another tokenizer than that of the texts does: always with the source's ids."""
    _new_ids: Mapping[int, int] | None = None
    """Of a trimmed vocabulary: the id of each of the source's tokens that is left."""

    def learned(self, tokenizer: Any, example: Example, max_length: int) -> Encoding:
        """Encode a text with its first right answer; a text alone, of a causal model, is an answer to its first token.

        Raises:
            DataError: an encoder-decoder's text has no right answer, or there is nothing to learn.

        """
        texts = example.label.texts if isinstance(example.label, References) else ()
        if texts:
            asked = self._asked(tokenizer, example, max_length)
            room = max_length - (len(asked.inputs["input_ids"]) if self.kind == "decoder" else 0)
            return self.with_answer(asked, self.answer_ids(texts[0], room))
        if self.kind != "decoder":
            raise DataError(
                "the text has no right answer to learn",
                where=example.where,
                hint="give pairs (columns source and target), or let the teacher write them: distill.sequence",
            )
        return self._alone(tokenizer, example, max_length)

    def _asked(self, tokenizer: Any, example: Example, max_length: int) -> Encoding:
        limit = max(1, max_length // 2) if self.kind == "decoder" else max_length
        return self.encode(tokenizer, replace(example, label=None), limit)

    def _alone(self, tokenizer: Any, example: Example, max_length: int) -> Encoding:
        made = encode_text(tokenizer, replace(example, pair=None), max_length, self.prompt)
        ids = np.concatenate([made.inputs["input_ids"], np.asarray(self.settings.eos_ids[:1], dtype=np.int64)])
        if len(ids) < 2:
            raise DataError("a text of one token has nothing to learn", where=example.where)
        first = {"input_ids": ids[:1], "attention_mask": np.ones(1, dtype=np.int64)}
        return self.with_answer(Encoding(first, truncated=made.truncated), ids[1:][:max_length])

    def answer_ids(self, text: str, max_length: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
        """Return the ids of an answer as the model writes them: what it must begin with, the text, and the end.

        Raises:
            DataError: nothing in the model's folder tells how answers are split into tokens.

        """
        if self._answers is UNREADABLE:
            raise DataError(
                "the folder lacks target.spm, by which right answers are read",
                hint="let the teacher write the answers: distill.sequence",
            )
        reads = self._tokenizer if self._answers is None else self._answers
        given = text if self.kind != "decoder" or text[:1].isspace() else f" {text}"
        ids = list(reads(given, add_special_tokens=False, verbose=False)["input_ids"])
        whole = list(reads(given, verbose=False)["input_ids"])
        if self._answers is not None and self._new_ids is not None:
            ids = [self._new_ids[i] for i in ids if i in self._new_ids]
        first = [] if self.settings.forced_bos_id is None else [self.settings.forced_bos_id]
        if not first and self.kind != "decoder" and whole[:1] == [reads.bos_token_id]:
            first = whole[:1]  # BART begins its answers as it begins texts
        end = list(self.settings.eos_ids[:1])
        return np.asarray([*first, *ids[: max(1, max_length - len(first) - len(end))], *end], dtype=np.int64)

    def with_answer(self, encoding: Encoding, answer: Any) -> Encoding:
        raise NotImplementedError

    def learned_steps(self, feed: "Mapping[str, torch.Tensor]", encodings: Sequence[Encoding]) -> "torch.Tensor":
        """Return 1 `[batch, length]` at each step of an answer."""
        import torch

        shape = feed["input_ids" if self.kind == "decoder" else "decoder_input_ids"].shape
        made = torch.zeros(shape, dtype=torch.int64, device=feed["input_ids"].device)
        for row, encoding in zip(made, encodings, strict=True):
            row[self._places(len(row), 1 if encoding.answer is None else len(encoding.answer))] = 1
        return made

    def _places(self, length: int, steps: int) -> slice:
        """Return where so many steps of an answer stand: a causal text is padded on the left."""
        return slice(length - steps, None) if self.kind == "decoder" else slice(0, steps)

    def soft_loss(
        self,
        student: "Mapping[str, torch.Tensor]",
        teacher: "Mapping[str, torch.Tensor]",
        attention_mask: "torch.Tensor",
        temperature: float,
    ) -> "torch.Tensor":
        """Return the divergence of the next token, mean over the steps of the answers (Kim and Rush, 1606.07947)."""
        from converter.training.losses import softened_kl_of_tokens

        return softened_kl_of_tokens(student["logits"], teacher["logits"], attention_mask, temperature)

    def hard_loss(
        self, outputs: "Mapping[str, torch.Tensor]", batch: Sequence[tuple[Example, Encoding]]
    ) -> "torch.Tensor | None":
        """Return the cross-entropy of the answers themselves, mean over their steps."""
        import torch

        logits = outputs["logits"]
        wanted = torch.full(logits.shape[:2], NO_LOSS, dtype=torch.int64, device=logits.device)
        for row, (_, encoding) in zip(wanted, batch, strict=True):
            if encoding.answer is not None:
                row[self._places(len(row), len(encoding.answer))] = torch.from_numpy(encoding.answer)
        if not bool((wanted != NO_LOSS).any()):
            return None
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=NO_LOSS)


def answer_tokenizer(folder: Path, model_type: str) -> Any:
    """Return what reads answers where that is not what reads texts: Marian has a SentencePiece file for either side."""
    if model_type != "marian":
        return None
    if not (folder / "target.spm").is_file() or not (folder / "vocab.json").is_file():
        return UNREADABLE
    import transformers

    from converter.model_folder.sentencepiece_tokenizer import TARGET_SIDE, marian_tokenizer

    core = marian_tokenizer(folder, TARGET_SIDE)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="<unk>")  # noqa: S106
