"""A tokenizer for models of drawn weights: byte-level BPE of this project's own documents, filled up to any size."""

import json
from pathlib import Path

from _measure import ROOT

END = "<|endoftext|>"
"""Begins and ends a text."""


def write_tokenizer(folder: Path, size: int) -> None:
    """Write a tokenizer of `size` words, the last of which is `END`."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    texts = [p.read_text(encoding="utf-8") for p in sorted((ROOT / "docs").rglob("*.md"))]
    letters = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=20000, initial_alphabet=letters, show_progress=False)
    )
    table = json.loads(core.to_str())
    words = table["model"]["vocab"]
    words |= {f"word{i}": i for i in range(len(words), size - 1)} | {END: size - 1}
    core = Tokenizer.from_str(json.dumps(table))
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=core, bos_token=END, eos_token=END)
    made.save_pretrained(folder)
