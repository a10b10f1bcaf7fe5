"""What lies in the folders and configurations of real models and changes nothing that they answer."""

import fnmatch
from collections.abc import Mapping
from typing import Any

FILES = (
    # Of training and judging
    *("trainer_state.json", "*_args.json", "*results*.json", "*metrics*.json", "*eval*.json", "log*.json"),
    *("training_*.json", "train_*.json", "data_config.json", "*predictions*.json", "*hyperparam*.json", "wandb*.json"),
    *("optimizer*.safetensors", "scheduler*.json", "dataset*.json", "sample*.json", "example*.json", "benchmark*.json"),
    # Of labels, which config.json holds for everybody
    *("label*.json", "*label2id*.json", "*id2label*.json", "*id_to_label*.json", "*label_map*.json", "classes*.json"),
    *("class_names.json", "tag*.json"),
    # Of other runtimes and forms of the same model
    *("generation_config.json", "*.index.json", "ort_config.json", "openvino_config.json", "nncf_config.json"),
    *(
        "consolidated*.safetensors",
        "params.json",
        "model.*.safetensors",
        "ggml*.json",
        "coreml*.json",
        "tokenizer.*.json",
        "onnx_config.json",
        "mlc*.json",
    ),
    *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json", "chat_template.json"),
    # Of places where models are kept, and of this project's own folders
    *("package.json", ".*.json", "model_card*.json", "metadata*.json", "manifest.json", "golden.safetensors"),
    *("model_index.json", "model_info*.json", "handler*.json", "inference*.json", "requirements*.json"),
    *("citation*.json", "croissant.json"),
)
"""Patterns of the names of files that no library reads a model from."""
KEYS = frozenset(
    {"_name_or_path", "_commit_hash", "_attn_implementation", "attn_implementation", "_num_labels", "num_labels"}
    | {"transformers_version", "torch_dtype", "torchscript", "use_bfloat16", "tf_legacy_loss", "xla_device"}
    | {"pruned_heads", "tie_encoder_decoder", "cross_attention_hidden_size", "finetuning_task", "tokenizer_class"}
    | {"prefix", "sep_token_id", "cls_token_id", "mask_token_id", "unk_token_id", "decoder_start_token_id"}
    | {"task_specific_params", "gradient_checkpointing", "output_past", "use_cache", "use_return_dict"}
    | {"transformers.js_config", "custom_pipelines", "_attn_implementation_autoset", "_flash_attn_2_enabled"}
    | {"cache_implementation"}
    | {"directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_type"}
    | {"pooler_size_per_head", "model_max_length", "language", "name", "model_name", "output_pooled", "bos_token_id"}
    | {"position_embedding_type", "sentence_transformers", "sbert_ce_default_activation_function", "model_type"}
    | {"tie_word_embeddings", "is_encoder_decoder", "chunk_size_feed_forward", "output_attentions", "return_dict"}
    | {"auto_map", "quantization_config", "is_decoder", "add_cross_attention", "emb_layer_norm_before"}
    | {"output_hidden_states", "eos_token_ids", "n_ctx", "max_seq_length", "max_seq_len", "seq_length", "num_choices"}
    | {"keys_to_ignore_at_inference", "export_model_type", "license", "author", "base_model", "base_model_name"}
    | {"fp16", "bf16", "use_memory_efficient_attention", "unpad_inputs", "reference_compile", "vocab_file"}
    | {"problem_type", "thresholds", "threshold", "num_classes", "labels", "label_names", "pipeline_tag"}
)
"""Keys of older versions and of tools, and those that are looked at elsewhere by name."""
PATTERNS = (
    # Nothing of training is at work once a model answers.
    *("*dropout*", "*learning_rate*", "*epoch*", "*batch_size*", "*loss*", "*seed*", "*warmup*", "*weight_decay*"),
    *("train_*", "training_*", "eval_*", "*dataset*", "optimizer*", "initializer_*", "mask_*_prob", "mlm_*"),
    # What older versions wrote into every configuration: a head that only XLM, XLNet and Electra have.
    "summary_*",
    # Of the runtimes that transformers.js, Optimum and others export to.
    *("onnx*", "openvino*", "transformers.js*"),
    # Of tools that train and convert.
    *("unsloth*", "neftune*"),
)
"""Patterns of keys, whatever the family."""
OF_FAMILY: Mapping[str, frozenset[str]] = {
    # Of the TensorFlow original, unread since.
    "albert": frozenset({"net_structure_type", "gap_size", "num_memory_blocks", "down_scale_factor", "layers_to_keep"}),
    # Of transformers before 3: weights are tied as the class says.
    "distilbert": frozenset({"tie_weights_"}),
    # Size of the generator that trained it.
    "electra": frozenset({"generator_size", "generator_hidden_size", "generator_layers", "disc_weight", "gen_weight"}),
    # Without token types there is nothing to count; the norms have `norm_eps`, how tensors are packed is no matter.
    "mpnet": frozenset({"type_vocab_size"}),
    "modernbert": frozenset({"layer_norm_eps", "repad_logits_with_grad", "unpad_no_grad"}),
    # Of models that write text, in versions of transformers before 4: unread since.
    "gpt2": frozenset({"n_special", "predict_special_tokens"}),
    "t5": frozenset({"n_positions"}),
    "mt5": frozenset({"n_positions"}),
    "bart": frozenset({"extra_pos_embeddings", "force_bos_token_to_be_generated", "replacing_rate", "save_step"}),
    "marian": frozenset({"extra_pos_embeddings", "save_step"}),
    "mbart": frozenset({"extra_pos_embeddings", "save_step"}),
    "pegasus": frozenset({"extra_pos_embeddings"}),
    # How its training was split over machines; a window's layers where it has no window.
    "smollm3": frozenset({"max_window_layers", "pretraining_tp"}),
    # The precision and the form of operators, which are computed in float32 here.
    "bloom": frozenset(
        {"attention_softmax_in_fp32", "masked_softmax_fusion", "offset_alibi", "skip_bias_add", "skip_bias_add_qkv"}
    ),
}
"""Keys that are idle in one family alone, and might not be in another."""
OF_GENERATION = frozenset(
    {"max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty"}
    | {"temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size"}
    | {"encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores", "suppress_tokens"}
    | {"return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values"}
    | {"exponential_decay_length_penalty", "begin_suppress_tokens", "renormalize_logits", "padding"}
)


SETTLED: Mapping[str, Mapping[str, Any]] = {
    "llama": {"is_llama_config": True, "rope_interleaved": False},
    "qwen2": {"use_mrope": False},
    "phi3": {
        "attention_bias": False,
        "full_attn_mod": 1,
        "interpolate_factor": 1,
        "lm_head_bias": False,
        "mlp_bias": False,
    },
    "falcon": {"apply_residual_connection_post_layernorm": False},
    "mbart": {
        "static_position_embeddings": False,
        "add_bias_logits": False,
        "add_final_layer_norm": True,
        "force_bos_token_to_be_generated": False,
        "normalize_before": True,
        "normalize_embedding": True,
    },
    "pegasus": {
        "static_position_embeddings": True,
        "add_bias_logits": False,
        "add_final_layer_norm": True,
        "force_bos_token_to_be_generated": False,
        "normalize_before": True,
        "normalize_embedding": False,
    },
    "marian": {
        "static_position_embeddings": True,
        "add_bias_logits": False,
        "add_final_layer_norm": False,
        "force_bos_token_to_be_generated": False,
        "normalize_before": False,
        "normalize_embedding": False,
    },
    "bart": {
        "static_position_embeddings": False,
        "add_bias_logits": False,
        "add_final_layer_norm": False,
        "normalize_before": False,
        "normalize_embedding": True,
    },
}
"""What older configurations could choose, and how the class of today is built: any other value is another model."""
ALIASES: Mapping[str, Mapping[str, str]] = {
    "gemma2": {"hidden_act": "hidden_activation", "sliding_window_size": "sliding_window"},
    "gemma3_text": {"hidden_act": "hidden_activation"},
    "stablelm": {"rope_pct": "partial_rotary_factor"},
}
"""Keys that say once more what another one says, which is the one that is read."""


def is_idle_file(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in FILES)


def is_idle_key(key: str, value: Any, table: Mapping[str, Any]) -> bool:
    """Tell whether a key of config.json, which holds `table`, changes nothing; without a value it says nothing."""
    family = str(table.get("model_type"))
    if value is None or value in ({}, [], ""):
        return True
    if key in KEYS | OF_GENERATION | OF_FAMILY.get(family, frozenset()):
        return True
    settled = SETTLED.get(family, {}).get(key)
    if type(settled) is type(value) and settled == value:
        return True
    if table.get(ALIASES.get(family, {}).get(key, "")) == value:
        return True
    return any(fnmatch.fnmatch(key, pattern) for pattern in PATTERNS)
