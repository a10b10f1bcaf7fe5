"""Tiny seeded encoder-decoders that classify, each with a tokenizer that ends its texts as its family does."""

from pathlib import Path
from typing import Any

from tests.tiny import SENTENCES, draw_classifier, make_tokenizer
from tests.tiny_text import text_config

FAMILIES = ("bart", "mbart", "t5", "mt5", "umt5")


def save_classifier(folder: Path, family: str, seed: int = 0, labels: int = 3) -> Path:
    """Save a classifier of `labels` classes, every parameter drawn, each class the answer to some text."""
    import transformers

    tokenizer = make_tokenizer("roberta") if family == "bart" else _with_ends(family)
    config = text_config(family)
    config.vocab_size, config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
    config.eos_token_id = tokenizer.convert_tokens_to_ids("</s>")
    config.decoder_start_token_id = config.eos_token_id if "bart" in family else config.pad_token_id
    config.id2label = {i: f"class {i}" for i in range(labels)}
    config.label2id = {name: i for i, name in config.id2label.items()}
    folder.mkdir(parents=True, exist_ok=True)
    model: Any = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    draw_classifier(model, tokenizer, seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _with_ends(family: str) -> Any:
    """A byte-level tokenizer: `text </s>` (T5), or `text </s> language` (mBART), and the same again for a pair."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    special = ["<pad>", "</s>", "<unk>", *(["en_XX"] if family == "mbart" else [])]
    core: Any = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core.train_from_iterator(
        SENTENCES * 4,
        trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False, initial_alphabet=letters),
    )
    language = " en_XX" if family == "mbart" else ""
    between = "</s> </s>" if language else "</s>"
    core.post_processor = processors.TemplateProcessing(
        single=f"$A </s>{language}",
        pair=f"$A {between} $B </s>{language}",
        special_tokens=[(token, core.token_to_id(token)) for token in special],
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_input_names=["input_ids", "attention_mask"],
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=64,
    )
