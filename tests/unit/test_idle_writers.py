"""Configurations of models that write text, as the Hub has them, are read: only what changes an answer is refused."""

from pathlib import Path
from typing import Any

import pytest

from converter.errors import SourceError
from converter.model_folder.contents import check_files
from tests.configurations import check_config

DECODER: dict[str, Any] = {
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.04,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "rope_theta": 100000,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 300,
}
LLAMA = DECODER | {"model_type": "llama", "attention_bias": False, "mlp_bias": False, "pretraining_tp": 1}
BART: dict[str, Any] = {
    "_num_labels": 3,
    "activation_function": "gelu",
    "add_bias_logits": False,
    "classif_dropout": 0.0,
    "classifier_dropout": 0.0,
    "d_model": 64,
    "early_stopping": True,
    "gradient_checkpointing": False,
    "is_encoder_decoder": True,
    "num_beams": 4,
    "output_past": True,
    "scale_embedding": True,
    "vocab_size": 300,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "HuggingFaceTB/SmolLM2-135M": LLAMA | {"is_llama_config": True, "rope_interleaved": False},
    "unsloth/Llama-3.2-1B": LLAMA | {"unsloth_fixed": True, "unsloth_version": "2025.1"},
    "HuggingFaceTB/SmolLM3-3B": LLAMA
    | {
        "model_type": "smollm3",
        "layer_types": ["full_attention"] * 4,
        "max_window_layers": 28,
        "no_rope_layer_interval": 4,
        "no_rope_layers": [1, 1, 1, 0],
        "pad_token_id": 4,
        "pretraining_tp": 2,
        "sliding_window": None,
        "use_sliding_window": False,
    },
    "Qwen/Qwen2.5-0.5B": DECODER
    | {"model_type": "qwen2", "max_window_layers": 24, "sliding_window": 512, "use_mrope": False},
    "google/gemma-2-2b": DECODER
    | {
        "model_type": "gemma2",
        "attn_logit_softcapping": 50.0,
        "cache_implementation": "hybrid",
        "final_logit_softcapping": 30.0,
        "head_dim": 16,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 16,
        "sliding_window": 64,
        "sliding_window_size": 64,
    },
    "google/gemma-3-1b-it": DECODER
    | {
        "model_type": "gemma3_text",
        "attn_logit_softcapping": None,
        "cache_implementation": "hybrid",
        "eos_token_id": [1, 106],
        "head_dim": 16,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 16,
        "rope_local_base_freq": 10000,
        "sliding_window": 64,
        "sliding_window_pattern": 2,
        "_sliding_window_pattern": 2,
    },
    "microsoft/Phi-4-mini-instruct": DECODER
    | {
        "model_type": "phi3",
        "attention_bias": False,
        "embd_pdrop": 0.0,
        "full_attn_mod": 1,
        "interpolate_factor": 1,
        "lm_head_bias": False,
        "mlp_bias": False,
        "original_max_position_embeddings": 64,
        "partial_rotary_factor": 0.75,
        "resid_pdrop": 0.0,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 6, "long_factor": [2.0] * 6},
        "sliding_window": 262144,
    },
    "facebook/mbart-large-50-many-to-many-mmt": BART
    | {
        "model_type": "mbart",
        "add_final_layer_norm": True,
        "forced_eos_token_id": 2,
        "normalize_before": True,
        "normalize_embedding": True,
        "static_position_embeddings": False,
        "tokenizer_class": "MBart50Tokenizer",
    },
    "google/pegasus-xsum": BART
    | {
        "model_type": "pegasus",
        "add_final_layer_norm": True,
        "extra_pos_embeddings": 1,
        "force_bos_token_to_be_generated": False,
        "length_penalty": 0.6,
        "normalize_before": True,
        "normalize_embedding": False,
        "static_position_embeddings": True,
    },
    "sshleifer/distilbart-cnn-12-6": BART
    | {
        "model_type": "bart",
        "add_final_layer_norm": False,
        "eos_token_ids": [2],
        "extra_pos_embeddings": 2,
        "force_bos_token_to_be_generated": True,
        "normalize_before": False,
        "normalize_embedding": True,
        "replacing_rate": 0,
        "save_step": 58,
        "static_position_embeddings": False,
    },
    "Helsinki-NLP/opus-mt-en-fr": BART
    | {
        "model_type": "marian",
        "add_final_layer_norm": False,
        "bad_words_ids": [[299]],
        "decoder_vocab_size": 300,
        "extra_pos_embeddings": 300,
        "force_bos_token_to_be_generated": False,
        "normalize_before": False,
        "normalize_embedding": False,
        "share_encoder_decoder_embeddings": True,
        "static_position_embeddings": True,
    },
}
"""Keys as these models state them, at sizes that do not matter here."""


def checked(raw: dict[str, Any]) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    check_config(raw, AutoModelForSeq2SeqLM if raw.get("is_encoder_decoder") else AutoModelForCausalLM)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_of_a_popular_writer_is_read(name: str) -> None:
    checked(CONFIGS[name])


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("HuggingFaceTB/SmolLM2-135M", "rope_interleaved", True),
        ("HuggingFaceTB/SmolLM2-135M", "max_window_layers", 28),
        ("google/gemma-2-2b", "hidden_act", "relu"),
        ("google/gemma-2-2b", "sliding_window_size", 32),
        ("microsoft/Phi-4-mini-instruct", "attention_bias", True),
        ("microsoft/Phi-4-mini-instruct", "interpolate_factor", 2),
        ("facebook/mbart-large-50-many-to-many-mmt", "normalize_before", False),
        ("google/pegasus-xsum", "normalize_embedding", True),
        ("Helsinki-NLP/opus-mt-en-fr", "force_bos_token_to_be_generated", True),
    ],
)
def test_a_value_that_would_be_another_model_is_refused_by_name(name: str, key: str, value: object) -> None:
    with pytest.raises(SourceError, match=f"'{key}'"):
        checked(CONFIGS[name] | {key: value})


def test_what_lies_beside_a_writer_in_another_form_is_no_reason_to_refuse(tmp_path: Path) -> None:
    names = ("consolidated.safetensors", "params.json", "tokenizer.model.v3", "original", "configuration_phi3.py")
    for name in ("config.json", "model.safetensors", "tokenizer.json", *names):
        (tmp_path / name).write_text("{}")
    check_files(tmp_path)
