"""The one forward that is measured, exported and lowered."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from converter.artifact import TorchModel


class Forward(torch.nn.Module):
    """Named integer inputs `[batch, length]` to a dict of named float32 outputs.

    Outputs are those of the task: `logits`, or `start_logits` and `end_logits`, or `last_hidden_state` (and
    `sentence_embedding` where the model has a sentence head).
    """

    def __init__(self, model: "TorchModel") -> None:
        super().__init__()
        self.model = model.module
        self.head = model.head
        self.outputs = tuple(t.name for t in model.task.outputs)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        made = self.model(input_ids=input_ids, attention_mask=attention_mask, **types, return_dict=True)
        return self.named_outputs(made, attention_mask)

    def named_outputs(self, made: Mapping[str, Any], attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Take the task's outputs out of what the transformers model returned."""
        outputs = {name: made[name] for name in self.outputs}
        if self.head is not None:
            outputs["sentence_embedding"] = self.head(outputs["last_hidden_state"], attention_mask)
        return outputs
