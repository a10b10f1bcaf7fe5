"""Models that write text with a cache of fixed size: every family, and its signatures run in PyTorch."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from converter.artifact import Provenance, TorchModel
from converter.registry import task_class
from tests.tiny_text import make_text_model, pad_of, settings_of

WINDOW = 8
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {},
    "gemma": {},
    "gemma2": {},
    "gemma3": {"layer_types": ["sliding_attention", "full_attention"]},
    "smollm3": {},
    "phi3": {"sliding_window": WINDOW},
    "qwen2_moe": {},
    "marian": {},
    "t5": {},
    "mt5": {},
    "umt5": {},
    "bart": {},
    "mbart": {},
    "m2m_100": {},
}
"""What a tiny model of each family is asked for beyond its usual configuration: a window, and layers without one."""
WINDOWED = ("mistral", "gemma2", "gemma3", "phi3")
CAUSAL_CACHE, PAIR_CACHE = 40, 32
"""Positions: five windows, and an encoder-decoder's."""
CAUSAL_LENGTHS, PAIR_LENGTHS = (4,), (6,)


class Tokenizer:
    """All that graphs ask of one."""

    model_input_names = ("input_ids",)

    def __init__(self, model: Any) -> None:
        self.pad_token_id, self.words = pad_of(model), int(model.config.vocab_size)
        self.padding_side = "right" if model.config.is_encoder_decoder else "left"

    def __len__(self) -> int:
        return self.words


def torch_model(model: Any) -> TorchModel:
    """Return a tiny model as stages take it."""
    from converter.generate.modules import cache_facts

    causal = not model.config.is_encoder_decoder
    task: Any = task_class("text-generation" if causal else "translation")(model.config)
    task.settings = settings_of(model)
    names = ("input_ids", "attention_mask")
    facts = cache_facts(model)
    return TorchModel(model, task, Tokenizer(model), names, 96, Provenance("tiny"), Path(), cache=facts)


def family_model(family: str, **more: Any) -> TorchModel:
    return torch_model(make_text_model(family, **(FAMILIES[family] | more)))


def sizes_of(source: TorchModel) -> tuple[int, tuple[int, ...]]:
    """Return the cache and the lengths of a tiny model's file."""
    pair = source.module.config.is_encoder_decoder
    return (PAIR_CACHE, PAIR_LENGTHS) if pair else (CAUSAL_CACHE, CAUSAL_LENGTHS)


def to_the_end(source: TorchModel) -> dict[str, int]:
    """Return what lets a model write until its cache is full: the last token is never fed back."""
    most = CAUSAL_CACHE + 1
    if source.module.config.is_encoder_decoder:
        return {"max_new_tokens": PAIR_CACHE}
    return {"max_length": most, "min_length": most}


@contextmanager
def run_in_torch(source: TorchModel) -> Iterator[Any]:
    """The runner of a file, but with the modules that a file is traced from: what is theirs is tried without one."""
    import torch

    from converter.tflite.writing.callers import CarriedCaches
    from converter.tflite.writing.graphs import fixed_attention, step_modules
    from converter.tflite.writing.lower import layout_of
    from converter.tflite.writing.runner import FixedCacheRunner

    layout = layout_of(source, *sizes_of(source))
    assert source.cache is not None

    def call(name: str, given: Any) -> Any:
        with torch.no_grad():
            made = modules[name](**{n: torch.from_numpy(np.array(value)) for n, value in given.items()})
        return {n: value.numpy() for n, value in made.items()}

    with fixed_attention(source.module):
        modules = step_modules(source.module, layout, source.cache)
        yield FixedCacheRunner(layout, source.specs, CarriedCaches(call), "PyTorch")
