"""Text that transformers tidies after the tokenizer: streamed whole, and tidied in a package only where it is."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, Unigram
from transformers import PreTrainedTokenizerFast

from converter.data.encode import tidies_text
from converter.generate.graphs import causal_graphs
from converter.generate.settings import GenerationSettings
from converter.model_folder.files import write_model_files
from converter.package.answer import Opened

PIECES = ("<unk>", "\u2581", "\u2581a", "a", ".", "n", "'t", "\u2581do", "\u2581'", "\u2581b", "s")


def unigram(*, tidy: bool = True) -> PreTrainedTokenizerFast:
    backend = Tokenizer(Unigram([(piece, -1.0) for piece in PIECES], unk_id=0))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", clean_up_tokenization_spaces=tidy)


def streamed(tokenizer: Any, pieces: list[str]) -> tuple[str, list[str]]:
    """Let a package write these pieces; returns what it wrote, and what it showed of it at each step."""
    ids = [PIECES.index(piece) for piece in pieces]
    specs = causal_graphs({"0.key": (1, 1), "0.value": (1, 1)}, len(PIECES), 0)

    def run(_: str, feed: Mapping[str, Any]) -> dict[str, Any]:
        place = feed["attention_mask"].shape[1] - 1
        logits = np.zeros((1, feed["input_ids"].shape[1], len(PIECES)), np.float32)
        logits[0, -1, ids[place]] = 1
        cache = np.zeros((1, 1, place + 1, 1), np.float32)
        return {"logits": logits, "present.0.key": cache, "present.0.value": cache}

    shown: list[str] = []
    opened = Opened(SimpleNamespace(kind="decoder"), tokenizer, specs, SimpleNamespace(run=run), 64)  # type: ignore[arg-type]
    whole = opened.write([2], GenerationSettings(max_new_tokens=len(ids)), shown.append)
    return whole, shown


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["\u2581a", "\u2581", ".", "\u2581b"], "a. b"),
        (["\u2581do", "\u2581", "n", "'t", "\u2581a"], "don't a"),
        (["\u2581a", "\u2581'", "\u2581b", "\u2581a"], "a'b a"),
        (["\u2581a", "\u2581"], "a "),
    ],
)
def test_all_of_a_text_is_shown_that_is_tidied_as_it_grows(pieces: list[str], text: str) -> None:
    whole, shown = streamed(unigram(), pieces)
    assert whole == text == "".join(shown)


def test_a_text_that_nobody_tidies_is_shown_as_soon_as_it_is_there() -> None:
    whole, shown = streamed(unigram(tidy=False), ["\u2581a", "\u2581", ".", "\u2581b"])
    assert whole == "".join(shown) == "a . b"
    assert shown[:2] == ["a", " "]


def bpe() -> PreTrainedTokenizerFast:
    backend = Tokenizer(BPE({c: i for i, c in enumerate("\u0120abdefimnorstuvw'.?!,")}, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="a", pad_token="a", clean_up_tokenization_spaces=True
    )


@pytest.mark.parametrize(("tokenizer", "tidied"), [(bpe(), False), (unigram(), True)], ids=["llama 3", "t5"])
def test_a_package_asks_clients_to_tidy_where_the_source_is_tidied(
    tokenizer: Any, tidied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers passes over the wish of Llama 3's files, and transformers.js would follow it."""
    from converter.model_folder import files

    assert tidies_text(tokenizer) is tidied
    source: Any = SimpleNamespace(
        tokenizer=tokenizer,
        cache=object(),
        max_length=64,
        input_names=("input_ids",),
        config=SimpleNamespace(model_type="llama"),
        task=SimpleNamespace(labels=()),
        sentence=None,
    )
    monkeypatch.setattr(files, "_config", lambda _: {"model_type": "llama"})
    write_model_files(source, tmp_path, {})
    table = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert table["clean_up_tokenization_spaces"] is tidied
