"""Folders and configurations as the Hub has them are read: only what would change an answer is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from converter.errors import SourceError
from converter.model_folder.contents import check_files
from tests.configurations import check_config

BERT = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 128,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "vocab_size": 300,
}
DEBERTA = BERT | {
    "model_type": "deberta-v2",
    "attention_head_size": 16,
    "conv_act": "gelu",
    "conv_kernel_size": 3,
    "max_relative_positions": -1,
    "norm_rel_ebd": "layer_norm",
    "pooler_dropout": 0,
    "pooler_hidden_act": "gelu",
    "pooler_hidden_size": 64,
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
    "position_buckets": 256,
    "relative_attention": True,
    "share_att_key": True,
    "type_vocab_size": 0,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "distilbert/distilbert-base-uncased-finetuned-sst-2-english": {
        "activation": "gelu",
        "attention_dropout": 0.1,
        "dim": 64,
        "dropout": 0.1,
        "finetuning_task": "sst-2",
        "hidden_dim": 128,
        "max_position_embeddings": 512,
        "model_type": "distilbert",
        "n_heads": 4,
        "n_layers": 2,
        "output_past": True,
        "qa_dropout": 0.1,
        "seq_classif_dropout": 0.2,
        "sinusoidal_pos_embds": False,
        "tie_weights_": True,
        "vocab_size": 300,
    },
    "google-bert/bert-base-multilingual-cased": BERT
    | {
        "directionality": "bidi",
        "pooler_fc_size": 768,
        "pooler_num_attention_heads": 12,
        "pooler_num_fc_layers": 3,
        "pooler_size_per_head": 128,
        "pooler_type": "first_token_transform",
    },
    "of transformers 4.3, by simpletransformers": BERT
    | {
        "_num_labels": 2,
        "gradient_checkpointing": False,
        "keys_to_ignore_at_inference": None,
        "num_choices": 2,
        "position_embedding_type": "absolute",
        "pruned_heads": {},
        "summary_proj_to_labels": True,
        "summary_type": "first",
        "task_specific_params": None,
        "torchscript": False,
        "xla_device": None,
    },
    "of a trainer": BERT | {"problem_type": "multi_label_classification", "epochs": 3, "max_seq_length": 128},
    "FacebookAI/roberta-base": BERT | {"model_type": "roberta", "bos_token_id": 0, "eos_token_id": 2},
    "almanach/camembert-base": BERT | {"model_type": "camembert", "output_past": True},
    "sentence-transformers/all-mpnet-base-v2": BERT | {"model_type": "mpnet", "relative_attention_num_buckets": 32},
    "albert/albert-base-v2": BERT
    | {
        "model_type": "albert",
        "classifier_dropout_prob": 0.1,
        "down_scale_factor": 1,
        "embedding_size": 16,
        "gap_size": 0,
        "inner_group_num": 1,
        "layers_to_keep": [],
        "net_structure_type": 0,
        "num_hidden_groups": 1,
        "num_memory_blocks": 0,
    },
    "google/electra-small-generator": BERT
    | {
        "model_type": "electra",
        "embedding_size": 16,
        "generator_size": "0.25",
        "summary_activation": "gelu",
        "summary_last_dropout": 0.1,
        "summary_type": "first",
        "summary_use_proj": True,
    },
    "microsoft/deberta-v3-base": DEBERTA,
    "answerdotai/ModernBERT-base": {
        "classifier_pooling": "mean",
        "decoder_bias": True,
        "deterministic_flash_attn": False,
        "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0,
        "hidden_activation": "gelu",
        "hidden_size": 64,
        "initializer_cutoff_factor": 2.0,
        "intermediate_size": 128,
        "layer_norm_eps": 1e-05,
        "local_attention": 128,
        "local_rope_theta": 10000.0,
        "model_type": "modernbert",
        "norm_eps": 1e-05,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "position_embedding_type": "absolute",
        "reference_compile": False,
        "repad_logits_with_grad": False,
        "sparse_pred_ignore_index": -100,
        "sparse_prediction": False,
        "vocab_size": 300,
    },
    "cross-encoder/ms-marco-MiniLM-L6-v2": BERT
    | {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity", "version": "4.1.0.dev0"}},
}
"""Keys as these models state them, at sizes that do not matter here."""
BESIDE = (
    *("README.md", ".gitattributes", "vocab.txt", "merges.txt", "special_tokens_map.json", "added_tokens.json"),
    *("pytorch_model.bin", "tf_model.h5", "rust_model.ot", "flax_model.msgpack", "model.onnx", "training_args.bin"),
    *("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "all_results.json", "eval_results.json"),
    *("train_results.json", "similarity_evaluation_sts-dev_results.csv", "data_config.json", "train_script.py"),
    *("label2id.json", "id2label.json", "labels.json", "predictions.json", "generation_config.json", "vocab.json"),
    *("openvino_model.xml", "nncf_config.json", "quantize_config.json", "handler.py", "model_card.json", "dict.txt"),
    *("model.fp16.safetensors", "pytorch_model.bin.index.json", "tf_model.h5.index.json", "spiece.model"),
)


def checked(raw: dict[str, Any]) -> None:
    from transformers import AutoModel

    check_config(raw, AutoModel)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_of_a_popular_model_is_read(name: str) -> None:
    checked(CONFIGS[name])


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("FacebookAI/roberta-base", "window_size", 5),
        ("FacebookAI/roberta-base", "tie_weights_", True),
        ("microsoft/deberta-v3-base", "embedding_scale", 2.0),
        ("answerdotai/ModernBERT-base", "position_buckets", 32),
        ("albert/albert-base-v2", "use_bias", False),
    ],
)
def test_a_key_that_its_family_does_not_know_is_refused_by_name(name: str, key: str, value: object) -> None:
    with pytest.raises(SourceError, match=f"'{key}'"):
        checked(CONFIGS[name] | {key: value})


def test_files_that_lie_beside_popular_models_are_no_reason_to_refuse(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json", *BESIDE):
        (tmp_path / name).write_text("{}")
    for name in ("onnx", "openvino", "coreml", "runs", "checkpoint-500", "1_Pooling"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"anything": 1}')
    check_files(tmp_path)


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("quantize_config.json", {"bits": 4, "group_size": 128}),
        ("model_head.pkl", {}),
        ("fusion_weights.json", {"a": 1}),
        ("extra.safetensors", {}),
    ],
)
def test_a_file_that_may_make_it_another_model_is_refused_by_name(
    name: str, table: dict[str, Any], tmp_path: Path
) -> None:
    for file in ("config.json", "model.safetensors", name):
        (tmp_path / file).write_text(json.dumps(table))
    with pytest.raises(SourceError, match=name):
        check_files(tmp_path)
