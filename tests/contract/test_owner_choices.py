"""What a user chooses (a prompt, a limit) and what is read in windows is held to the owner's library as well."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from converter.artifact import TorchModel
from converter.data import encode
from converter.errors import SourceError
from converter.examples import Example
from converter.model_folder.given import at_max_length
from converter.model_folder.load import load_source
from converter.reference import capture_reference
from converter.stage import SILENT
from converter.validate.checks import Status
from converter.validate.owner import OwnerVerdict, check_owner
from tests.owner import PAIRS, TEXTS, sentence_folder
from tests.owner_folders import FOLDERS, pooling
from tests.tiny import SENTENCES

Tiny = Callable[..., Path]
LONG = tuple(replace(e, text=f"{e.text} {' '.join(SENTENCES[:8])}") for e in TEXTS[:6])
QUESTIONS = tuple(Example("who wrote the letter?", " ".join((*SENTENCES[i:], *SENTENCES[:i]))) for i in range(4))


def verdict(
    source: TorchModel, examples: tuple[Example, ...], prompt: str | None = None, max_length: int | None = None
) -> OwnerVerdict:
    return check_owner(source, capture_reference(source, examples, SILENT), SILENT, prompt, max_length)


@pytest.fixture(scope="module")
def prompted(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sentence_folder(
        tmp_path_factory.mktemp("prompted") / "m",
        tiny("bert", "feature-extraction", layers=2),
        [pooling("mean", include_prompt=False)],
        prompts={"query": "query: ", "passage": "the passage: "},
        default_prompt_name="query",
    )


def test_a_chosen_prompt_is_chosen_in_the_library_too(prompted: Path) -> None:
    chosen = load_source(str(prompted), prompt="passage")
    assert verdict(chosen, TEXTS, "passage").check.status is Status.PASS
    with pytest.raises(SourceError, match="does not answer like"):
        verdict(chosen, TEXTS)


@pytest.mark.parametrize("task", ["text-classification", "token-classification", "feature-extraction"])
def test_a_chosen_limit_is_one_of_the_library_too(task: str, tiny: Tiny) -> None:
    source = at_max_length(load_source(str(tiny("bert", task, layers=2))), 16)
    assert verdict(source, LONG, max_length=16).check.status is Status.PASS
    with pytest.raises(SourceError, match="does not answer like"):
        verdict(source, LONG)


def test_a_chosen_limit_is_one_of_sentence_transformers_too(prompted: Path, tmp_path: Path) -> None:
    source = at_max_length(load_source(str(prompted)), 16)
    assert verdict(source, LONG, max_length=16).check.status is Status.PASS
    scores = at_max_length(load_source(str(FOLDERS["cross-encoder"](tmp_path))), 16)
    assert verdict(scores, PAIRS, max_length=16).check.status is Status.PASS


def test_every_window_of_a_long_context_is_held_to_the_library(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(tiny("bert", "question-answering", layers=2))
    found = verdict(load_source(folder), QUESTIONS)
    assert found.check.status is Status.PASS
    assert found.n_texts > 2 * len(QUESTIONS)
    assert verdict(at_max_length(load_source(folder), 40), QUESTIONS, max_length=40).check.status is Status.PASS
    monkeypatch.setattr(encode, "question_stride", lambda _limit, _room: 5)
    with pytest.raises(SourceError, match="does not answer like"):
        verdict(load_source(folder), QUESTIONS)
