"""What a checkpoint holds against what the model takes: nothing missing, nothing of the encoder left over."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import SourceError
from converter.model_folder.causes import refusal

if TYPE_CHECKING:
    import torch

_NUMBER = re.compile(r"\.\d+\.")
HEADS = frozenset(
    {"cls", "classifier", "score", "lm_head", "qa_outputs", "pre_classifier", "pooler", "head", "decoder", "summary"}
    | {"vocab_transform", "vocab_layer_norm", "vocab_projector", "predictions", "sop_classifier", "lm_predictions"}
    | {"mask_predictions", "discriminator_predictions", "generator_predictions", "generator_lm_head", "pred_layer"}
    | {
        "lm_loss",
        "logits_proj",
        "sequence_summary",
        "classification_head",
        "qa_classifier",
        "nsp_classifier",
        "dropout",
    }
    | {"out_proj", "seq_relationship", "start_logits", "end_logits", "answer_class", "transform"}
)
"""First names of heads of other tasks: nobody's loss where they are not exported."""
BUFFERS = ("position_ids", "token_type_ids", "inv_freq", "masked_bias", "num_batches_tracked")
"""Last names of what older versions saved and newer ones make themselves."""


def check_weights(info: Mapping[str, Any], module: "torch.nn.Module", folder: Path, *, has_head: bool) -> None:
    """Refuse weights that are not those of the model: `info` is what transformers tells of loading them.

    Raises:
        SourceError: names a weight and what to do.

    """
    unexpected = sorted(info["unexpected_keys"])
    _refuse_prefix(unexpected, module, folder)
    _refuse_partial(info, folder, has_head=has_head)
    _refuse_left_over(unexpected, module, folder)


def _refuse_prefix(unexpected: list[str], module: "torch.nn.Module", folder: Path) -> None:
    """A name such as `module.bert.…` tells what was wrapped around the model when it was saved."""
    known = set(module.state_dict())
    found = set()
    for name in unexpected:
        parts = name.split(".")
        cut = next((i for i in range(1, len(parts)) if ".".join(parts[i:]) in known), None)
        if cut is None:
            return
        found.add(".".join(parts[:cut]) + ".")
    if len(found) == 1 and len(unexpected) >= len(known) / 2:
        raise refusal("weights-prefixed", folder, {"prefix": found.pop()})


def _refuse_partial(info: Mapping[str, Any], folder: Path, *, has_head: bool) -> None:
    """A weight that was not in the file is random: that is refused, whatever transformers thinks of it.

    Weights that are really tied to others are not among the missing. A pooler is nothing that is exported of a model
    without a head; a head reads it.
    """
    missing = sorted(n for n in info["missing_keys"] if has_head or ".pooler." not in f".{n}")
    wrong = [str(m[0] if isinstance(m, tuple) else m) for m in info.get("mismatched_keys", ())]
    if wrong:
        raise SourceError(
            f"{wrong[0]} has another shape than config.json says",
            where=str(folder),
            hint="the weights must match config.json",
        )
    if missing:
        raise SourceError(
            f"the weights lack {_some(missing)}: the model would answer at random",
            where=str(folder),
            hint="the weights must match config.json, which names more layers than they have"
            if any(_NUMBER.search(name) for name in missing)
            else "is the head trained? use a fine-tuned model, or another --task",
        )


def _refuse_left_over(names: Iterable[str], module: "torch.nn.Module", folder: Path) -> None:
    """Refuse weights of the encoder that it does not take: the model would be another one, and nobody would see.

    Heads that the task does not use are left over too, and are nobody's loss.
    """
    prefix = f"{getattr(module, 'base_model_prefix', '')}."
    known = {_NUMBER.sub(".N.", name).removeprefix(prefix) for name in module.state_dict()}
    # GPT-Neo's masks: made by the class, which does not read what older versions saved of them.
    made = {name.removeprefix(prefix) for name, _ in module.named_buffers()}
    left = [n for n in names if n.rsplit(".", 1)[-1] not in BUFFERS and n.removeprefix(prefix) not in made]
    layers = [n for n in left if _NUMBER.search(n) and _NUMBER.sub(".N.", n).removeprefix(prefix) in known]
    if layers:
        raise SourceError(
            f"the weights hold {_some(layers)}, for which config.json has no layer",
            where=str(folder),
            hint="the weights must match config.json",
        )
    unread = [n for n in left if n.removeprefix(prefix).split(".", 1)[0] not in HEADS]
    if unread:
        raise refusal("weights-unread", folder, {"names": _some(unread), "module": type(module).__name__})


def _some(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
