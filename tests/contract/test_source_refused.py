"""Folders that nearly are models: each is refused in one line that says what is wrong, and says what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from converter.errors import SourceError
from converter.model_folder.load import load_source
from tests.tiny import make_tokenizer, save_tiny

Tiny = Callable[..., Path]


@pytest.fixture
def folder(tiny: Tiny, tmp_path: Path) -> Path:
    """A copy of a tiny BERT classifier of three layers that a test may damage."""
    return Path(shutil.copytree(tiny("bert", "text-classification"), tmp_path / "model"))


def configure(folder: Path, **changes: Any) -> None:
    table = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in (table | changes).items() if v is not None}))


def refused(folder: Path, **options: Any) -> str:
    with pytest.raises(SourceError) as caught:
        load_source(str(folder), **options)
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": "x"}, "num_hidden_layers: expected `int | null`, got `str`"),
        ({"hidden_act": "gloo"}, "'gloo' is not known"),
        ({"num_attention_heads": 5}, "not a multiple of the number of attention heads"),
        ({"model_type": ["bert"]}, "model_type: expected `str | null`, got `array`"),
        ({"model_type": "qwen2"}, "qwen2 is a causal language model, and BertForSequenceClassification is none"),
        ({"model_type": "gpt2"}, "gpt2 is a causal language model"),
        ({"model_type": "t5"}, "t5 is an encoder-decoder"),
        ({"model_type": "vit"}, "vit is no text encoder"),
        (
            {"architectures": ["BertForNextSentencePrediction"]},
            "the task of BertForNextSentencePrediction is not supported",
        ),
        ({"architectures": ["BertLMHeadModel"]}, "the task of BertLMHeadModel is not supported"),
    ],
)
def test_a_config_that_cannot_be_exported_is_named(folder: Path, changes: dict[str, Any], said: str) -> None:
    configure(folder, **changes)
    assert said in refused(folder)


def test_layers_that_the_config_does_not_count_are_refused(folder: Path) -> None:
    """transformers drops them without a word: another model would be proven to be equal to itself."""
    configure(folder, num_hidden_layers=2)
    assert "encoder.layer.2" in refused(folder)
    assert "encoder.layer.2" in refused(folder, task="feature-extraction")


def test_a_head_that_the_task_does_not_use_is_no_loss(folder: Path) -> None:
    """The twin: a classifier's head is left over where the encoder alone is wanted."""
    assert load_source(str(folder), task="feature-extraction").task.name == "feature-extraction"


def test_a_config_without_architectures_leaves_the_task_to_the_user(folder: Path) -> None:
    configure(folder, architectures=None)
    assert load_source(str(folder)).task.name == "feature-extraction"
    assert load_source(str(folder), task="text-classification").task.name == "text-classification"
    assert "the weights lack" in refused(folder, task="question-answering")


def test_a_cut_vocabulary_is_refused(folder: Path) -> None:
    table = json.loads((folder / "tokenizer.json").read_text())
    pieces = table["model"]["vocab"]
    table["model"]["vocab"] = {piece: i for piece, i in pieces.items() if i < len(pieces) // 2}
    (folder / "tokenizer.json").write_text(json.dumps(table))
    assert "the tokenizer has" in refused(folder)


def test_positions_counted_from_the_padding_id_shorten_the_longest_text(tmp_path: Path) -> None:
    """In any encoder that does so, not in those that are known by name."""
    import transformers

    tokenizer = make_tokenizer("roberta")
    tokenizer.model_max_length = 10**9
    config = transformers.Data2VecTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=40,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=2,
    )
    model = load_source(str(save_tiny(tmp_path / "model", config, tokenizer, "text-classification")))
    assert model.max_length == 40 - 1 - tokenizer.pad_token_id


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("sentence_bert_config.json", "[]", "wanted a table, found list"),
        ("1_Pooling/config.json", "[]", "wanted a table, found list"),
        ("2_Normalize/config.json", '{"in_features": 32, "out_features": 8}', "the weights cannot be read"),
    ],
)
def test_a_damaged_sentence_model_is_refused(
    file: str, content: str, said: str, tiny_sentence_transformer: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_sentence_transformer, tmp_path / "model"))
    (folder / file).write_text(content)
    if "weights" in said:  # of a Dense module in the place of the last one
        text = (folder / "modules.json").read_text()
        (folder / "modules.json").write_text(text.replace("models.Normalize", "models.Dense"))
        (folder / "2_Normalize" / "model.safetensors").write_bytes(b"cut")
    assert said in refused(folder)
