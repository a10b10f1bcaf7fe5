"""The one forward that is measured, exported and lowered."""

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping, MutableSet
from typing import TYPE_CHECKING, Any

import torch

from converter.generate.positions import is_changing, kinds_of
from converter.graphs import VOCABULARY, names_along
from converter.resources import LARGE_BYTES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from converter.artifact import TorchModel


class Forward(torch.nn.Module):
    """Named integer inputs `[batch, length]` to a dict of named float32 outputs.

    Outputs are those of the task: `logits`, or `start_logits` and `end_logits`, or `last_hidden_state` (and
    `sentence_embedding` where the model has a sentence head). A model that writes text is given its answer too
    (`decoder_input_ids`, or behind the text) and says at every step of it what comes next; no cache is made.
    """

    def __init__(self, model: "TorchModel") -> None:
        super().__init__()
        self.model = model.module
        self.head = model.head
        self.decides_at_end = decides_at_end(model.module)
        self.leaves_early = model.leaves_early
        self.writes = model.cache is not None
        self.takes_positions = model.cache is not None and model.cache.position_ids
        self.outputs = tuple(t.name for t in model.task.outputs)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        if self.decides_at_end:
            return {"logits": logits_at_end(self.model, input_ids, attention_mask)}
        given = {"token_type_ids": token_type_ids, "decoder_input_ids": decoder_input_ids}
        feed = {"input_ids": input_ids, "attention_mask": attention_mask}
        return self.named_outputs(self.call(feed | {n: t for n, t in given.items() if t is not None}), attention_mask)

    def call(self, feed: Mapping[str, torch.Tensor], *, hidden: bool = False) -> Mapping[str, Any]:
        """Return what the transformers model itself returns; `hidden`: with the states of all layers."""
        more: dict[str, Any] = {"use_cache": False} if self.writes else {}
        if hidden or self.leaves_early:
            more["output_hidden_states"] = True
        if self.takes_positions:
            # Texts are padded on the left: the first token of each is at position 0.
            more["position_ids"] = (feed["attention_mask"].cumsum(dim=-1) - 1).clamp(min=0)
        made: Mapping[str, Any] = self.model(**feed, **more, return_dict=True)
        return made

    def named_outputs(self, made: Mapping[str, Any], attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Take the task's outputs out of what the transformers model returned."""
        outputs = {name: made[name] for name in self.outputs}
        if self.leaves_early:
            exits: Any = self.model.exits
            outputs["logits"] = exits(made["hidden_states"], outputs["logits"])
        if self.head is not None:
            outputs["sentence_embedding"] = self.head(outputs["last_hidden_state"], attention_mask)
        return outputs


class Graphs:
    """The graphs of a model in PyTorch, run on numpy's arrays."""

    def __init__(self, model: "TorchModel") -> None:
        self.model = model
        self.graphs = {name: graph.eval() for name, graph in model.graphs().items()}

    @property
    def side_by_side(self) -> bool:
        """Whether several threads may call `run` at once: each computes alike then, and two batches are little."""
        if not side_by_side(self.model):
            return False
        wide = bool(names_along(self.model.task.outputs, VOCABULARY))
        return not wide and self.model.size_bytes <= LARGE_BYTES

    def run(self, graph: str, feed: "Mapping[str, NDArray[np.int64]]") -> "dict[str, NDArray[np.float32]]":
        torch.get_num_threads()  # a thread of ours computes with the number that is set only once it was asked
        with torch.inference_mode():
            made = self.graphs[graph](**{name: torch.from_numpy(rows) for name, rows in feed.items()})
        return {name: value.numpy() for name, value in made.items()}


def side_by_side(model: "TorchModel") -> bool:
    """Tell whether several threads may call a model at once, and gain by it: each computes as it would alone."""
    # Weights on disk come and go with the layer that runs, and states of layers may be collected in the module.
    if torch.get_num_threads() > 1 or model.offloaded or model.leaves_early:
        return False
    return not turns_by_length(model.module)


def turns_by_length(module: torch.nn.Module) -> bool:
    """Tell whether a rotary embedding writes the frequencies for the length of the text that is read into itself."""
    return any(is_changing(kind) for part in module.modules() for kind in kinds_of(part).values())


def decides_at_end(module: torch.nn.Module) -> bool:
    """Tell whether this is an encoder-decoder that classifies a text by its decoder's state at the end token."""
    config: Any = module.config
    return bool(getattr(config, "is_encoder_decoder", False)) and hasattr(module, "classification_head")


def logits_at_end(model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Return `[batch, classes]` of a BART or T5 that classifies: encoder and decoder both read the text.

    transformers selects the states at the end tokens by a mask, whose result has a shape that only the data tells, and
    refuses batches of texts with unequal numbers of them. Here the state at the last end token of each row is chosen by
    a product: the same logits, in a graph of any batch and length, each row as if it were alone.
    """
    made = model.base_model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        decoder_input_ids=_shifted_right(model.config, input_ids),
        use_cache=False,
        return_dict=True,
    )
    hidden = made["last_hidden_state"]
    place = torch.arange(1, hidden.shape[1] + 1, device=hidden.device).to(hidden.dtype).unsqueeze(0)
    ends = input_ids.eq(model.config.eos_token_id).to(hidden.dtype)
    # Any text has an end token. Made-up ids may have none: then the last token is taken, whatever padding follows.
    without = 1.0 - ends.amax(dim=1, keepdim=True)
    rank = (ends + without * attention_mask.to(hidden.dtype)) * place
    last = (rank == rank.amax(dim=1, keepdim=True)).to(hidden.dtype)
    logits: torch.Tensor = model.classification_head((hidden * last.unsqueeze(-1)).sum(dim=1))
    return logits


def _shifted_right(config: Any, input_ids: torch.Tensor) -> torch.Tensor:
    """Return what the decoder reads: the text behind a start token, which for mBART is the text's last, a language."""
    if config.model_type == "mbart":
        last = (input_ids.ne(config.pad_token_id).sum(dim=1, keepdim=True) - 1).clamp(min=0)
        start = input_ids.gather(1, last)
    else:
        start = torch.full_like(input_ids[:, :1], config.decoder_start_token_id)
    return torch.cat([start, input_ids[:, :-1]], dim=1)


class InOrder(MutableSet[Any]):
    """A set that gives its members in the order in which they came, whatever their hashes."""

    def __init__(self, members: Iterable[Any] = ()) -> None:
        self._members = dict.fromkeys(members)

    def __contains__(self, member: object) -> bool:
        return member in self._members

    def __iter__(self) -> Iterator[Any]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def add(self, value: Any) -> None:
        self._members[value] = None

    def discard(self, value: Any) -> None:
        self._members.pop(value, None)


@contextlib.contextmanager
def traced_in_order(module: torch.nn.Module) -> Iterator[None]:
    """Let the code of a transformers model meet its sets in one order while it is traced.

    `for layer_type in set(config.layer_types)` (ModernBERT, Gemma 3 and others) goes by the hashes of strings, which
    are others in every process: the graph's operators changed places from run to run. Their modules are given a `set`
    of their own for that long.
    """
    names = {type(part).__module__ for part in module.modules()}
    ours = [vars(sys.modules[n]) for n in sorted(names) if n.startswith("transformers.models.") and n in sys.modules]
    known = [space for space in ours if "set" not in space]
    for space in known:
        space["set"] = InOrder
    try:
        yield
    finally:
        for space in known:
            del space["set"]
