"""What the samples of models that write text take over: where an answer ends, and what an empty text begins with."""

from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast

from converter.data.encode import first_token
from converter.device.tables import NoTables
from converter.device.writing.facts import WriterFacts
from converter.device.writing.files import writer_tables
from converter.errors import UsageError
from converter.generate.settings import GenerationSettings, with_usual_length


def facts(settings: GenerationSettings, *, causal: bool, cache: int) -> WriterFacts:
    task = "text-generation" if causal else "translation"
    return WriterFacts("m", task, causal, (8,), cache, 9, (1, 1), (), settings, None, "", "BPE")


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("settings", [{}, {"max_new_tokens": 7}, {"max_length": 20}, {"max_length": 500}])
@pytest.mark.parametrize("prompt", [1, 3, 19, 20, 40])
def test_samples_write_as_many_tokens_as_the_package(causal: bool, settings: dict[str, int], prompt: int) -> None:
    own, cache = GenerationSettings(**settings), 48
    table = facts(own, causal=causal, cache=cache)
    begun = prompt if causal else 1
    most = table.whole - begun if table.most is None else table.most
    try:
        wanted = with_usual_length(GenerationSettings(**settings, context=cache)).total(begun, begun) - begun
    except UsageError:
        wanted = 0
    assert max(0, min(most, cache + 1 - begun)) == min(wanted, cache)


@pytest.mark.parametrize(("bos", "eos", "first"), [(1, 2, 1), (0, 2, 0), (None, 2, 2), (None, None, None)])
def test_an_empty_text_begins_with_the_tokenizers_own_token(bos: Any, eos: Any, first: int | None) -> None:
    assert first_token(SimpleNamespace(bos_token_id=bos, eos_token_id=eos)) == first


@pytest.mark.parametrize("tidy", [True, False])
def test_a_tokenizer_whose_library_tidies_its_text_brings_no_tables_and_says_why(tidy: bool) -> None:
    vocabulary = [("<unk>", 0.0), ("\u2581", -1.0), ("a", -1.0), (".", -1.0), ("\u2581a", -1.0)]
    backend = Tokenizer(Unigram(vocabulary, unk_id=0))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", clean_up_tokenization_spaces=tidy)
    ids = made("a .")["input_ids"]
    assert made.decode(ids) == ("a." if tidy else "a .")
    source: Any = SimpleNamespace(tokenizer=made)
    if tidy:
        with pytest.raises(NoTables, match="takes out spaces before punctuation"):
            writer_tables(source)
    else:
        assert writer_tables(source).decoder
