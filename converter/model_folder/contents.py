"""Closed-world reading: every file and key is used, known to change nothing, or refused by name."""

import dataclasses
import fnmatch
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converter.jsonfile import read_table
from converter.model_folder.causes import refusal

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
BY_NAME = {
    "model_head.pkl": "setfit",
    "config_setfit.json": "setfit",
    "quantize_config.json": "gptq",
    "quant_config.json": "gptq",
    "pytorch_adapter.bin": "adapter-hub",
    "pytorch_model_head.bin": "adapter-hub",
    "head_config.json": "adapter-hub",
}
"""Files that make the model another one, with the row of `causes` that says what to do."""
TELLING = (".json", ".safetensors", ".pkl", ".joblib", ".pickle", ".npz", ".npy")
"""Kinds of files that a model may be read from; whatever else lies in a folder (cards, logs, data) is not."""
KNOWN = (
    *("config.json", WEIGHTS, INDEX, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "modules.json", "config_sentence_transformers.json", "sentence_*_config.json"),
    *("shape_map.json", "stand_ins.json", "adapter_config.json", "adapter_model.safetensors", "entity_vocab.json"),
)
IDLE = (
    *("generation_config.json", "trainer_state.json", "*_args.json", "*results*.json", "*metrics*.json", "*eval*.json"),
    *("data_config.json", "*.index.json", "preprocessor_config.json", "processor_config.json", "chat_template.json"),
    *("ort_config.json", "openvino_config.json", "model.*.safetensors", "package.json", ".*.json", "log*.json"),
    *("training_*.json", "train_*.json", "manifest.json", "golden.safetensors", "model_card.json", "metadata.json"),
)
"""Files that change nothing that the model answers."""
IDLE_KEYS = frozenset(
    {"_name_or_path", "_commit_hash", "_attn_implementation", "attn_implementation", "_num_labels", "num_labels"}
    | {"transformers_version", "torch_dtype", "torchscript", "use_bfloat16", "tf_legacy_loss", "xla_device"}
    | {"pruned_heads", "tie_encoder_decoder", "cross_attention_hidden_size", "finetuning_task", "tokenizer_class"}
    | {"prefix", "sep_token_id", "cls_token_id", "mask_token_id", "unk_token_id", "decoder_start_token_id"}
    | {"task_specific_params", "gradient_checkpointing", "output_past", "use_cache", "use_return_dict"}
    | {"transformers.js_config", "custom_pipelines", "_attn_implementation_autoset", "_flash_attn_2_enabled"}
    | {"directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_type"}
    | {"pooler_size_per_head", "model_max_length", "language", "name", "model_name", "output_pooled", "bos_token_id"}
    | {
        "net_structure_type",
        "gap_size",
        "num_memory_blocks",
        "down_scale_factor",
        "eos_token_ids",
        "summary_activation",
    }
    | {"position_embedding_type", "sentence_transformers", "sbert_ce_default_activation_function", "model_type"}
    | {"tie_word_embeddings", "is_encoder_decoder", "chunk_size_feed_forward", "output_attentions", "return_dict"}
    | {"auto_map", "quantization_config", "is_decoder", "add_cross_attention", "emb_layer_norm_before"}
)
"""Keys of older versions and of tools that change nothing, and those that are looked at here by name."""
OF_GENERATION = frozenset(
    {"max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty"}
    | {"temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size"}
    | {"encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores", "suppress_tokens"}
    | {"return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values"}
    | {"exponential_decay_length_penalty", "begin_suppress_tokens"}
)
OF_WRITERS = frozenset(
    {"n_ctx", "n_positions", "n_special", "predict_special_tokens", "classif_dropout", "classifier_dropout"}
    | {"extra_pos_embeddings", "save_step", "force_bos_token_to_be_generated"}
)
"""Keys of older models that write text, which say nothing that the model's class reads elsewhere."""
SETTLED: Mapping[str, Mapping[str, bool]] = {
    "marian": {
        "static_position_embeddings": True,
        "add_bias_logits": False,
        "add_final_layer_norm": False,
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
OTHER_INPUTS = frozenset(
    {"bbox", "image", "images", "pixel_values", "entity_ids", "entity_position_ids", "xpath_tags_seq", "xpath_subs_seq"}
    | {"input_values", "input_features", "visual_embeds", "langs", "input_shape_ids", "input_pronunciation_ids"}
)


def check_files(folder: Path) -> None:
    """Refuse a file that makes the model another one, or of which nobody knows what it is for.

    Raises:
        SourceError: names the file and what to do.

    """
    names = sorted(f.name for f in folder.iterdir() if f.is_file())
    for name in names:
        if name in BY_NAME:
            raise refusal(BY_NAME[name], folder, {"file": name})
    for name in names:
        if name.endswith(TELLING) and not any(fnmatch.fnmatch(name, pattern) for pattern in KNOWN + IDLE):
            alone = name.endswith(".safetensors") and not {WEIGHTS, INDEX} & set(names)
            if alone and "shape_map.json" not in names:
                raise refusal("weights-misnamed", folder, {"file": name})
            if not _indexed(folder, name):
                raise refusal("file-unknown", folder, {"file": name})


def weight_files(folder: Path) -> list[Path]:
    """Return the files that the weights are read from: `model.safetensors`, else those of its index.

    Raises:
        SourceError: the index names what does not lie in the folder.

    """
    if (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file():
        return sorted(folder.glob(WEIGHTS))
    table = read_table(folder / INDEX).get("weight_map")
    named = sorted({str(v) for v in table.values()}) if isinstance(table, Mapping) else [""]
    for name in named:
        if Path(name).name != name or not (folder / name).is_file():
            raise refusal("weights-outside", folder, {"index": INDEX, "file": name})
    return [folder / name for name in named]


def _indexed(folder: Path, name: str) -> bool:
    return (folder / INDEX).is_file() and name in {f.name for f in weight_files(folder)}


def check_config(raw: Mapping[str, Any], where: Path) -> None:
    """Refuse what config.json says that transformers would read past.

    Raises:
        SourceError: names the key and what to do.

    """
    quantized = raw.get("quantization_config")
    if quantized:
        method = quantized.get("quant_method", "unknown") if isinstance(quantized, Mapping) else quantized
        raise refusal("quantized", where, {"method": method})
    if raw.get("pruned_heads"):
        raise refusal("pruned-heads", where)
    from transformers import CONFIG_MAPPING

    if raw.get("auto_map") and raw.get("model_type") not in CONFIG_MAPPING:
        raise refusal("remote-code", where, {"name": f"model_type {raw.get('model_type')!r}"})


def check_remote_code(raw: Mapping[str, Any], auto_class: str, where: Path) -> None:
    """Refuse code of the model's author where transformers has no class of the same name.

    Raises:
        SourceError: names the code.

    """
    import transformers

    table = raw.get("auto_map")
    if not table:
        return
    named = table if isinstance(table, Mapping) else {}
    architecture = raw.get("architectures") or [None]
    wanted = [
        str(named.get(key) or "").rsplit(".", 1)[-1]
        for key in ("AutoConfig", "AutoModel", auto_class)
        if named.get(key)
    ]
    wanted += [str(architecture if isinstance(architecture, str) else architecture[0])]
    for name in wanted:
        if not hasattr(transformers, name):
            raise refusal("remote-code", where, {"name": name})


def _reads(model_class: Any, key: str) -> bool:
    """Tell whether the code of a model reads a key that its configuration's class does not list, as DeBERTa does."""
    try:
        text = inspect.getsource(inspect.getmodule(model_class)) if model_class is not None else ""  # type: ignore[arg-type]
    except (OSError, TypeError):
        return False
    return re.search(rf"\b{re.escape(key)}\b", text) is not None


def check_keys(raw: Mapping[str, Any], config: Any, model_class: Any, where: Path) -> None:
    """Refuse keys of config.json that neither the configuration's class nor the model's code knows.

    Raises:
        SourceError: names the key.

    """
    cls = type(config)
    fields = {f.name for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
    known = fields | set(inspect.signature(cls.__init__).parameters) | set(getattr(cls, "attribute_map", {}))
    kind = raw.get("position_embedding_type")
    if kind not in {None, "absolute"} and "position_embedding_type" not in known:
        raise refusal("relative-positions", where, {"value": kind})
    settled = SETTLED.get(str(raw.get("model_type")), {})
    for key in (k for k in raw if k not in settled or raw[k] != settled[k]):
        # What the class takes and turns into something else is no attribute any more.
        if (
            key not in known | IDLE_KEYS | OF_GENERATION | OF_WRITERS
            and key in vars(config)
            and not _reads(model_class, key)
        ):
            raise refusal("config-key", where, {"key": key, "config_class": cls.__name__})


def check_inputs(config: Any, forward: Any, where: Path) -> None:
    """Refuse an encoder that reads more than the ids, mask and types that a text tokenizer gives.

    Raises:
        SourceError: names the inputs.

    """
    accepted = inspect.signature(forward).parameters
    beyond = sorted(OTHER_INPUTS & set(accepted))
    if getattr(config, "n_langs", 1) == 1:  # XLM and FlauBERT of one language read no language
        beyond = [name for name in beyond if name != "langs"]
    if getattr(config, "type_vocab_sizes", None):  # TAPAS: rows and columns of a table
        beyond.append("token_type_ids of 7 kinds")
    if beyond:
        raise refusal("other-inputs", where, {"model_type": config.model_type, "inputs": ", ".join(beyond)})
    if "attention_mask" not in accepted:
        raise refusal("no-mask", where, {"model_type": config.model_type})
