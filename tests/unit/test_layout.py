"""Files that loaders look for beside the model."""

from collections.abc import Callable
from pathlib import Path

from converter.model_folder.files import write_model_files
from converter.model_folder.load import load_source
from converter.validate.interface import load_tokenizer
from tests.tiny import save_tiny


def test_every_class_has_one_line_in_labels_txt(tiny: Callable[..., Path], tmp_path: Path) -> None:
    """An app reads the class of a logit by its line: a name that breaks the line would shift all that follow."""
    names = {0: "good, very", 1: "two\nlines", 2: "ünd"}
    source = load_source(str(tiny(layers=1, id2label=names, label2id={v: k for k, v in names.items()})))
    write_model_files(source, tmp_path, {})
    assert (tmp_path / "labels.txt").read_text(encoding="utf-8").splitlines() == ["good, very", "two\\nlines", "ünd"]


def test_no_class_of_tokenizer_adds_a_token_that_the_model_has_no_row_for(tmp_path: Path) -> None:
    """`BertTokenizer` adds a mask token where there is none: texts get the same ids, and the vocabulary is larger."""
    import tokenizers
    import transformers

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "old", "town"]
    core = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]")  # type: ignore[call-arg]
    )
    core.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)  # type: ignore[assignment]
    core.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    core.post_processor = tokenizers.processors.TemplateProcessing(  # type: ignore[assignment]
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{f"{kind.lower()}_token": f"[{kind}]" for kind in ("PAD", "UNK", "CLS", "SEP")},
    )
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64
    )
    source = load_source(str(save_tiny(tmp_path / "model", config, tokenizer, "text-classification")))
    package = tmp_path / "package"
    package.mkdir()
    write_model_files(source, package, {})
    assert load_tokenizer(package).get_vocab() == source.tokenizer.get_vocab()
