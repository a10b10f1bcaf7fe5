"""A source that loads is asked a few texts once: what fails, or remembers, shows before any work is done."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from converter.graphs import MODEL
from converter.model_folder.causes import refusal
from converter.model_folder.said import first_line

if TYPE_CHECKING:
    import torch

    from converter.artifact import TorchModel

LONGEST_TRIED = 8192
MOST_KEPT = 1 << 16
"""Values of one output that are kept to compare: logits of a large vocabulary would take gigabytes."""
SAME = 1e-3
"""Part of the largest value that two answers to one text may differ by: float32 rounds by less."""


def try_texts(source: "TorchModel", longest: int | None = None) -> None:
    """Ask about a longest, an empty and a short text: what fails here fails anywhere, and would be nobody's fault.

    A model whose settings were changed by these texts is asked again: where it answers otherwise, a package gives the
    answers of one of its states, and its owner gets those of another.

    Raises:
        SourceError: the model does not run on one of them, or answers by what it was asked before.

    """
    limit = min(source.max_length, LONGEST_TRIED, longest or LONGEST_TRIED)
    texts = ("a " * limit, "", "a b c")
    made = [dict(source.tokenizer(text, truncation=True, max_length=limit)) for text in texts]
    asked = [m for m in made if m["input_ids"]]  # there are tokenizers that add no token of their own
    before = _settings(source)
    answers = [_answered(source, one) for one in asked]
    after = _settings(source)
    changed = next((name for name, value in before.items() if after.get(name, value) != value), None)
    if changed is None or all(_alike(a, _answered(source, one)) for a, one in zip(answers, asked, strict=True)):
        return
    said = {"key": changed.rpartition(".")[2], "before": before[changed], "after": after[changed]}
    raise refusal("remembers", source.folder, said)


def _answered(source: "TorchModel", made: Mapping[str, list[int]]) -> "dict[str, torch.Tensor]":
    """Return the values of each output, evenly spread over it where there are many."""
    import torch

    try:
        with torch.inference_mode():
            found = source.graphs()[MODEL](**{name: torch.tensor([made[name]]) for name in source.input_names})
            # Cloned: a part of a tensor would hold all of it.
            return {name: v.flatten()[:: -(-v.numel() // MOST_KEPT) or 1].clone() for name, v in found.items()}
    except Exception as error:  # noqa: BLE001 - models raise what they like
        said = {"length": len(made["input_ids"]), "detail": first_line(error)}
        raise refusal("not-run", source.folder, said) from None


def _settings(source: "TorchModel") -> dict[str, str | bool]:
    """Return what the parts of a model hold beside weights and counts, by the names of part and attribute."""
    return {
        f"{name}.{key}": value
        for name, part in source.module.named_modules()
        for key, value in vars(part).items()
        if isinstance(value, (str, bool))
    }


def _alike(one: "Mapping[str, torch.Tensor]", other: "Mapping[str, torch.Tensor]") -> bool:
    return all(
        float((value - other[name]).abs().max()) <= SAME * max(1.0, float(value.abs().max()))
        for name, value in one.items()
    )
