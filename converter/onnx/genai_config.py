"""`genai_config.json`: how onnxruntime-genai opens a causal model, the way into C++, C#, Java and phones."""

from typing import Any

from converter.artifact import Bundle, TorchModel
from converter.generate.graphs import PAST_PREFIX, PRESENT_PREFIX
from converter.generate.settings import GenerationSettings
from converter.graphs import MODEL, CacheFacts
from converter.jsonfile import read_json
from converter.validate.checks import Check, Status

CLIENTS = "other clients"
FILE = "genai_config.json"
KIND = "decoder"
"""What onnxruntime-genai calls any causal model with a cache of keys and values; `gpt2` means another file layout."""
BY_DEFAULT = {
    "min_new_tokens": 0,
    "forced_bos_id": None,
    "forced_eos_ids": (),
    "suppressed": (),
    "suppressed_first": (),
    "bad_words": (),
    "min_p": 0.0,
}
"""Settings that it has not, and with which they change nothing."""


def why_not_genai(source: TorchModel) -> str | None:
    """Return why onnxruntime-genai cannot run a model, as the end of a sentence; None where it can."""
    cache = source.cache
    if cache is None:
        return "it runs models that write text"
    if source.task.kind != "decoder":
        return "it has no encoder-decoders of text"
    if len(set(cache.sizes.values())) > 1:
        return "it wants the same heads in every layer, and this model's differ"
    return None


def genai_config(source: TorchModel, file: str) -> dict[str, Any]:
    """Return the table; `file`: the model, relative to the folder that the table lies in."""
    task: Any = source.task
    settings: GenerationSettings = task.settings
    cache, config = source.cache, source.config.get_text_config(decoder=True)
    assert cache is not None
    ends = list(settings.eos_ids)
    first = task.generation_table.get("bos_token_id")
    return {
        "model": {
            "type": KIND,
            "context_length": source.max_length,
            "vocab_size": cache.vocabulary,
            "bos_token_id": first if isinstance(first, int) else settings.fill_id,
            "eos_token_id": ends if len(ends) > 1 else ends[0] if ends else settings.fill_id,
            "pad_token_id": settings.fill_id,
            "decoder": _decoder(
                cache, config, file, source.specs[MODEL].input_names, pruned=source.shape_map is not None
            ),
        },
        "search": _search(settings, source.max_length),
    }


def check_clients(bundle: Bundle) -> list[Check]:
    """Hold what a package tells onnxruntime-genai to the model; no check where it tells nothing."""
    path = bundle.folder / FILE
    if not path.is_file():
        return []
    found, wanted = read_json(path), genai_config(bundle.source, bundle.files[MODEL])
    if found == wanted:
        return [Check(CLIENTS, Status.PASS, detail=f"{FILE} says what the model's own files say")]
    said = {part: found.get(part) if isinstance(found.get(part), dict) else {} for part in wanted}
    wrong = [f"{key} ({part})" for part, own in wanted.items() for key in own if said[part].get(key) != own[key]]
    return [Check(CLIENTS, Status.FAIL, detail=f"{FILE} is not the model's: {', '.join(wrong) or 'it says more'}")]


def ignored_settings(settings: GenerationSettings) -> tuple[str, ...]:
    """Return the settings in force that onnxruntime-genai does not follow."""
    return tuple(name for name, neutral in BY_DEFAULT.items() if getattr(settings, name) != neutral)


def _decoder(cache: CacheFacts, config: Any, file: str, inputs: tuple[str, ...], *, pruned: bool) -> dict[str, Any]:
    heads, size = next(iter(cache.sizes.values()))
    asked = int(getattr(config, "num_attention_heads", heads) or heads)
    if pruned:
        asked = heads * max(1, asked // int(getattr(config, "num_key_value_heads", None) or asked))
    named = {n: n for n in ("input_ids", "attention_mask", "position_ids") if n in inputs}
    return {
        # Threads: 0 lets the runtime choose. It reads them here, and nowhere else.
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": [], "intra_op_num_threads": 0},
        "filename": file,
        "head_size": size,
        "hidden_size": int(getattr(config, "hidden_size", asked * size)),
        "num_attention_heads": asked,
        "num_key_value_heads": heads,
        "num_hidden_layers": len(cache.sizes) // 2,
        "inputs": {**named, "past_key_names": f"{PAST_PREFIX}%d.key", "past_value_names": f"{PAST_PREFIX}%d.value"},
        "outputs": {
            "logits": "logits",
            "present_key_names": f"{PRESENT_PREFIX}%d.key",
            "present_value_names": f"{PRESENT_PREFIX}%d.value",
        },
    }


def _search(settings: GenerationSettings, longest: int) -> dict[str, Any]:
    # A sequence that ends at its last position: this runtime counts the prompt in. Nor does it read a text again.
    longest = min(longest, settings.rope_switches_at or longest)
    limit = longest if settings.max_length is None else min(settings.max_length, longest)
    return {
        "do_sample": settings.sample,
        "num_beams": settings.beams,
        "max_length": longest if settings.max_new_tokens is not None else limit,
        "min_length": settings.min_length,
        "temperature": settings.temperature,
        "top_k": settings.top_k,
        "top_p": settings.top_p,
        "repetition_penalty": settings.repetition_penalty,
        "no_repeat_ngram_size": settings.no_repeat_ngram,
        "length_penalty": settings.length_penalty,
        "early_stopping": settings.early_stopping is True,
        "num_return_sequences": 1,
        "diversity_penalty": 0.0,
        # The graph appends to its cache: a shared buffer needs another attention node.
        "past_present_share_buffer": False,
    }
