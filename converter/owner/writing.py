"""transformers' own `generate`: what the owner of a model that writes text calls."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.owner.adapter import load_adapted, tokenizer_folder
from converter.owner.contract import ADAPTER_FILE
from converter.owner.load import load_auto

if TYPE_CHECKING:
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
        end = self.model.generation_config.eos_token_id
        fill = self.model.generation_config.pad_token_id
        if fill is None:
            fill = end[0] if isinstance(end, list) else end
        with torch.inference_mode():
            made = self.model.generate(
                **feed, do_sample=False, num_beams=1, max_new_tokens=steps, **({"pad_token_id": fill} | dict(asked))
            )
        first = 1 if self.model.config.is_encoder_decoder else max(1, len(ids))
        return [int(i) for i in made[0, first:]]
