"""A model with fewer tokens: rows of embeddings, of tied and untied output layers, and the ids in its configuration.

Ids are numbered anew in the old order. `TorchModel.source_ids` says which id each has in the source, so that a source
with its own tokenizer and a trimmed model can still be compared, and can still be teacher and student.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from converter.artifact import TorchModel
from converter.errors import StageFailed, UsageError
from converter.surgery.resize import with_own_cache

if TYPE_CHECKING:
    import torch


BIAS = "final_logits_bias"
"""What BART and its kin add to the output layer: no parameter, and a number a token."""


def with_vocabulary(model: TorchModel, tokenizer: Any, kept: Sequence[int]) -> TorchModel:
    """Return a copy that knows the tokens `kept` alone, ascending ids of `model`; `tokenizer` numbers them anew.

    Weights stay the same to the last bit, so answers to the same tokens do but for what kernels round.

    Raises:
        StageFailed: the padding id moves in a model that counts positions from it.

    """
    module = copy.deepcopy(model.module)
    cut_vocabulary(module, kept)
    before = model.source_ids
    made = replace(
        model,
        module=module,
        task=model.task.renumbered(module.config, tokenizer, {old: new for new, old in enumerate(kept)}),
        tokenizer=tokenizer,
        source_ids=tuple(kept) if before is None else tuple(before[i] for i in kept),
    )
    return with_own_cache(made)


def in_vocabulary_of(given: TorchModel, teacher: TorchModel) -> TorchModel:
    """Return `teacher`, which has the source's vocabulary, as one that reads the ids of `given`.

    A token of a trimmed model is a token of its source: the teacher answers to it as it always did.
    """
    if given.source_ids is None or teacher.source_ids == given.source_ids:
        return teacher
    if teacher.offloaded:
        raise UsageError(
            "the teacher's weights are on disk, where its vocabulary cannot be trimmed like the student's",
            where="trim",
            hint="leave trim out, or allow more with --max-memory",
        )
    return with_vocabulary(teacher, given.tokenizer, given.source_ids)


def cut_vocabulary(module: "torch.nn.Module", kept: Sequence[int]) -> None:
    """Keep these rows of everything that has one row a token, in place; configuration included."""
    import torch

    embedding: Any = module.get_input_embeddings()  # type: ignore[operator]
    n_before = embedding.weight.shape[0]
    new = {old: i for i, old in enumerate(kept)}
    _check_padding(module, new)
    index = torch.as_tensor(list(kept), device=embedding.weight.device)
    made = {id(p): _rows(p, index) for p in _token_parameters(module, n_before)}
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False, remove_duplicate=False):
            if id(parameter) in made:
                setattr(part, name, made[id(parameter)])
        for name, buffer in part.named_buffers(recurse=False):
            if name == BIAS and buffer.shape[-1] == n_before:
                setattr(part, name, buffer.index_select(-1, index).contiguous())
        _note_size(part, n_before, len(kept), new)
    for config in {id(c): c for part in module.modules() if (c := getattr(part, "config", None)) is not None}.values():
        _renumber_config(config, new, len(kept))
    generation = getattr(module, "generation_config", None)
    if generation is not None:
        _renumber_generation(generation, new)


def _token_parameters(module: "torch.nn.Module", n_tokens: int) -> "list[torch.Tensor]":
    """Return embeddings, output layer and its biases: outside of the encoder whatever counts tokens is the head's."""
    output: Any = module.get_output_embeddings()  # type: ignore[operator]
    found = [module.get_input_embeddings().weight]  # type: ignore[operator]
    if output is None:
        return found
    base = {id(p) for p in module.base_model.parameters()}  # type: ignore[union-attr]
    found.append(output.weight)
    found += [p for p in module.parameters() if p.dim() == 1 and len(p) == n_tokens and id(p) not in base]
    return found


def _rows(parameter: "torch.Tensor", index: "torch.Tensor") -> "torch.nn.Parameter":
    import torch

    made = parameter.detach().index_select(0, index).contiguous()
    return torch.nn.Parameter(made, requires_grad=parameter.requires_grad)


def _note_size(part: "torch.nn.Module", n_before: int, n_after: int, new: dict[int, int]) -> None:
    """Tell a layer how many rows it has now."""
    import torch

    if isinstance(part, torch.nn.Embedding) and part.num_embeddings == n_before and len(part.weight) == n_after:
        part.num_embeddings = n_after
        part.padding_idx = None if part.padding_idx is None else new[part.padding_idx]
    if isinstance(part, torch.nn.Linear) and part.out_features == n_before and len(part.weight) == n_after:
        part.out_features = n_after


def _check_padding(module: "torch.nn.Module", new: dict[int, int]) -> None:
    """RoBERTa and its kin count positions from the padding id on: it must stay what it is."""
    pad = counted_padding(module)
    if pad is not None and new.get(pad) != pad:
        raise StageFailed(f"positions are counted from the padding id {pad}: all ids up to it must be kept")


def counted_padding(module: "torch.nn.Module") -> int | None:
    """Return the padding id where positions are counted from it, else None."""
    import torch

    for name, part in module.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, torch.nn.Embedding):
            return part.padding_idx
        # M2M100's positions are computed, and counted in the same way.
        if name.endswith("embed_positions") and isinstance(getattr(part, "padding_idx", None), int):
            return int(part.padding_idx)
    return None


def _renumber_config(config: Any, new: dict[int, int], n_after: int) -> None:
    """Every `…_token_id` is an id of the vocabulary; one that the tokenizer never makes may be gone."""
    config.vocab_size = n_after
    if getattr(config, "decoder_vocab_size", None) is not None:
        config.decoder_vocab_size = n_after
    for name, value in config.to_dict().items():
        if name.endswith("_token_id") and isinstance(value, int):
            setattr(config, name, new.get(value))


def _renumber_generation(generation: Any, new: dict[int, int]) -> None:
    """Give the ids in a generation configuration their new numbers; what is gone cannot be written anyway."""
    for name, value in generation.to_dict().items():
        if name.endswith("_token_id") and value is not None:
            ids = [new[i] for i in (value if isinstance(value, list) else [value]) if i in new]
            setattr(generation, name, (ids if isinstance(value, list) else ids[0]) if ids else None)
        elif name in {"suppress_tokens", "begin_suppress_tokens"} and value:
            setattr(generation, name, [new[i] for i in value if i in new] or None)
        elif name == "bad_words_ids" and value:
            kept = [[new[i] for i in word] for word in value if all(i in new for i in word)]
            setattr(generation, name, kept or None)
