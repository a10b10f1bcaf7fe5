"""`plm-export run` on packages of encoders: each task answers in its own words."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from converter.artifact import TorchModel
from converter.errors import UsageError
from converter.package.answer import Opened
from tests.contract.device_packages import OfTorch

Tiny = Callable[..., Path]


def opened(folder: Path) -> tuple[Opened, TorchModel]:
    """Return the model in PyTorch where a package has its files."""
    from converter.model_folder.load import load_source

    source = load_source(str(folder))
    return Opened(source.task, source.tokenizer, source.specs, OfTorch(source), source.max_length), source


def test_a_classifier_says_its_label_and_the_logits_behind_it(tiny: Tiny) -> None:
    asked, source = opened(tiny("bert", "text-classification", layers=1))
    found = asked.answer("a dull and lifeless story")
    assert set(found["logits"]) == set(source.task.labels)
    assert found["answer"] == max(found["logits"], key=found["logits"].get)


def test_a_tagger_says_a_tag_for_each_word(tiny: Tiny) -> None:
    asked, _ = opened(tiny("bert", "token-classification", layers=1, num_labels=7))
    assert [word for word, _ in asked.answer("Anna Miller moved from Berlin")["tags"]] == [
        *("Anna", "Miller", "moved", "from", "Berlin")
    ]


def test_a_question_is_answered_from_the_context_that_it_needs(tiny: Tiny) -> None:
    asked, _ = opened(tiny("bert", "question-answering", layers=1))
    context = "The letter was written by his sister Clara."
    answer = asked.answer("Who wrote the letter?", context)["answer"]
    assert answer == "no answer" or answer.rpartition(" (")[0] in context
    with pytest.raises(UsageError, match="needs the text that answers it"):
        asked.answer("Who wrote the letter?")


def test_a_masked_word_is_said_as_a_word(tiny: Tiny) -> None:
    asked, source = opened(tiny("bert", "fill-mask", layers=1))
    answer = asked.answer("water boils at one [MASK] degrees")["answer"]
    assert answer in source.tokenizer.get_vocab() or f"##{answer}" in source.tokenizer.get_vocab()


def test_a_vector_is_shown_by_its_first_numbers(tiny_sentence_transformer: Path) -> None:
    asked, _ = opened(tiny_sentence_transformer)
    found = asked.answer("the old town")
    assert found["answer"].startswith("sentence_embedding [32]: ")
    assert len(found["sentence_embedding"]) == 32


def test_the_mark_that_editors_begin_files_with_is_no_part_of_a_second_text(
    plain_package: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from converter.commands.cli import run

    rows = []
    for pair in ("the old town", "\ufeffthe old town"):
        assert run(["run", str(plain_package), "about 4000 people", "--pair", pair, "--json"]) == 0
        rows.append(json.loads(capfd.readouterr().out))
    assert rows[0]["pair"] == "the old town"
    assert rows[0] == rows[1]
