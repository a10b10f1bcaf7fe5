"""transformers' own `generate`: what the owner of a model that writes text calls."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.owner.adapter import load_adapted, tokenizer_folder
from converter.owner.contract import ADAPTER_FILE
from converter.owner.load import load_auto

if TYPE_CHECKING:
    import torch

    from converter.task import Task


class WritingLibrary:
    """A folder, opened by the Auto classes of transformers: tokens in and out of `generate`, greedy."""

    call = "generate"

    def __init__(self, folder: Path, task: "Task") -> None:
        import transformers

        self.name = f"transformers {transformers.__version__}"
        if (folder / ADAPTER_FILE).is_file():
            self.model, _ = load_adapted(folder, task.auto_class)
        else:
            self.model = load_auto(folder, task.auto_class)
        self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
            tokenizer_folder(folder), trust_remote_code=False, local_files_only=True
        )

    def read(self, text: str, limit: int) -> list[int]:
        """Return the ids of a text, of which at most `limit` are read."""
        return list(self.tokenizer(text, truncation=True, max_length=limit)["input_ids"])

    def written(self, ids: list[int], steps: int, asked: Mapping[str, Any]) -> list[int]:
        """Return at most `steps` new tokens that the model writes after (or about) a text; no id: it begins itself.

        `asked`: what `generate` is told beside the model's own settings.
        """
        import torch

        feed = {}
        if ids:
            given = torch.tensor([ids])
            feed = {"input_ids": given, "attention_mask": torch.ones_like(given)}
        first = 1 if self.model.config.is_encoder_decoder else max(1, len(ids))
        return [int(i) for i in self._generate(feed, steps, asked)[0, first:]]

    def written_together(self, texts: Sequence[list[int]], steps: int, asked: Mapping[str, Any]) -> list[list[int]]:
        """Do what `written` does for several texts in one batch, each cut where it ends."""
        import torch

        longest, two = max(map(len, texts)), bool(self.model.config.is_encoder_decoder)
        fill = self._fill()
        given = torch.full((len(texts), longest), 0 if fill is None else fill)
        mask = torch.zeros_like(given)
        for row, ids in enumerate(texts):
            own = slice(0, len(ids)) if two else slice(longest - len(ids), None)
            given[row, own], mask[row, own] = torch.tensor(ids), 1
        made = self._generate({"input_ids": given, "attention_mask": mask}, steps, asked)
        end = self.model.generation_config.eos_token_id
        ends = set(end if isinstance(end, list) else [end])
        answers = []
        for tokens in made[:, 1 if two else longest :].tolist():
            stop = next((i for i, token in enumerate(tokens) if token in ends), len(tokens) - 1)
            answers.append(tokens[: stop + 1])
        return answers

    def _fill(self) -> int | None:
        end = self.model.generation_config.eos_token_id
        fill = self.model.generation_config.pad_token_id
        if fill is None:
            fill = end[0] if isinstance(end, list) else end
        return None if fill is None else int(fill)

    def _generate(self, feed: "Mapping[str, torch.Tensor]", steps: int, asked: Mapping[str, Any]) -> "torch.Tensor":
        import torch

        torch.get_num_threads()  # a thread of ours computes with the number that is set only once it was asked
        with torch.inference_mode():
            made: torch.Tensor = self.model.generate(
                **feed,
                do_sample=False,
                num_beams=1,
                max_new_tokens=steps,
                # Some folders ask for several answers, or for scores beside them: what is written is the same.
                num_return_sequences=1,
                return_dict_in_generate=False,
                **({"pad_token_id": self._fill()} | dict(asked)),
            )
        return made
