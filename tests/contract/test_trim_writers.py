"""Vocabularies of models that write text, cut to what a text takes: what is kept is written as before."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.artifact import TorchModel
from converter.errors import ExportError, UsageError
from converter.examples import Example, References
from converter.model_folder.load import load_source
from converter.model_folder.save import save_model
from converter.reference import capture_reference, torch_run
from converter.stage import SILENT, Context, check_stage, run_stage
from converter.trim.shortlist import OutputShortlist
from converter.trim.vocabulary import VocabularyTrimming
from tests.tiny import SENTENCES
from tests.tiny_text import save_causal, save_m2m100, save_marian, save_t5
from tests.writers import loaded_once

KINDS: dict[str, Callable[[Path], Path]] = {"marian": save_marian, "t5": save_t5, "gpt2": save_causal}
FEW = SENTENCES[:4]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TorchModel]:
    return loaded_once(KINDS, tmp_path_factory)


def trimmed(model: TorchModel, work: Path, **options: Any) -> tuple[TorchModel, dict[str, Any]]:
    answers = [" ".join(word[::-1] for word in text.split()) for text in FEW]
    labels = [References(() if model.task.kind == "decoder" else (text,)) for text in answers]
    calibration = tuple(Example(t, label=label) for t, label in zip(FEW, labels, strict=True))
    made, record = run_stage(VocabularyTrimming(**options), model, Context(work, calibration=calibration))
    return made, record.facts


def written(model: TorchModel, text: str) -> list[str]:
    """Return what the model writes after a text, greedily, as pieces."""
    task: Any = model.task
    encoding = task.encode(model.tokenizer, Example(text), model.max_length)
    answer = task.continued(model.specs, torch_run(model), encoding).answer
    pieces: list[str] = model.tokenizer.convert_ids_to_tokens(answer.tolist())
    return pieces


@pytest.mark.parametrize("kind", KINDS)
def test_kept_text_is_read_and_continued_as_before(
    kind: str, source: Callable[[str], TorchModel], tmp_path: Path
) -> None:
    whole = source(kind)
    made, facts = trimmed(whole, tmp_path)
    assert facts["tokens_after"] < facts["tokens_before"]
    assert facts["kept_text"]["split_otherwise"] == 0
    assert facts["kept_text"]["answers_compared"] == len(FEW)
    for text in FEW:
        assert written(made, text) == written(whole, text)
    assert made.cache is not None
    assert made.cache.vocabulary == facts["tokens_after"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_trimmed_model_comes_back_from_its_folder(
    kind: str, source: Callable[[str], TorchModel], tmp_path: Path
) -> None:
    made, _ = trimmed(source(kind), tmp_path)
    save_model(made, tmp_path / "made")
    again = load_source(str(tmp_path / "made"))
    assert again.digest == made.digest
    for text in FEW:
        assert written(again, text) == written(made, text)
    mine, theirs = (model.task.settings for model in (made, again))  # type: ignore[attr-defined]
    assert (mine.eos_ids, mine.pad_id, mine.start_id, mine.bad_words) == (
        theirs.eos_ids,
        theirs.pad_id,
        theirs.start_id,
        theirs.bad_words,
    )


def test_right_answers_keep_their_tokens_on_the_target_side(
    source: Callable[[str], TorchModel], tmp_path: Path
) -> None:
    whole = source("marian")
    made, _ = trimmed(whole, tmp_path)
    other, _ = trimmed(whole, tmp_path / "bare", least=1)
    assert made.source_ids == other.source_ids
    task: Any = whole.task
    wanted = set(task.answer_ids(" ".join(w[::-1] for w in FEW[0].split()), 200).tolist())
    assert made.source_ids is not None
    assert wanted <= set(made.source_ids)
    new: Any = made.task
    mine = new.answer_ids(" ".join(w[::-1] for w in FEW[0].split()), 200).tolist()
    assert [made.source_ids[i] for i in mine] == task.answer_ids(
        " ".join(w[::-1] for w in FEW[0].split()), 200
    ).tolist()


def test_without_text_there_is_nothing_to_trim_to(source: Callable[[str], TorchModel]) -> None:
    with pytest.raises(UsageError, match="no text"):
        check_stage(VocabularyTrimming(), source("marian"), has_text=False)


def test_a_list_without_the_token_that_ends_answers_is_refused(
    source: Callable[[str], TorchModel], tmp_path: Path
) -> None:
    whole = source("t5")
    (tmp_path / "list.txt").write_text("a\nb\n")
    with pytest.raises(ExportError, match="special token"):
        check_stage(VocabularyTrimming(tokens=str(tmp_path / "list.txt")), whole, has_text=True)


@pytest.mark.parametrize("kind", ["marian", "gpt2"])
def test_the_source_is_asked_in_the_terms_of_what_is_left(
    kind: str, source: Callable[[str], TorchModel], tmp_path: Path
) -> None:
    """An answer that needs a token that is gone ends before it: what a package writes there counts as different."""
    from converter.validate.vocabulary import as_seen_by

    whole = source(kind)
    made, _ = trimmed(whole, tmp_path)
    reference = capture_reference(whole, [Example(t) for t in SENTENCES[:10]], SILENT)
    shown, seen = as_seen_by(made, whole, reference, None, SILENT)
    assert shown.tokenizer is made.tokenizer
    assert made.source_ids is not None
    cut = 0
    for mine, theirs in zip(reference.judged, seen.judged, strict=True):
        assert mine.encoding.answer is not None
        assert theirs.encoding.answer is not None
        back = [made.source_ids[i] for i in theirs.encoding.answer]
        own = mine.encoding.answer.tolist()
        if theirs.example.text in FEW:
            assert back == own
            kept = mine.outputs["logits"][:, list(made.source_ids)]
            assert np.abs(theirs.outputs["logits"] - kept).max() < 1e-4 * np.ptp(kept)
        cut += back != own
    assert cut  # or nothing was tried


def test_positions_that_are_counted_from_the_padding_id_stay_where_they_are(tmp_path: Path) -> None:
    folder = save_m2m100(tmp_path / "model")
    whole = load_source(str(folder), language="de")
    made, facts = trimmed(whole, tmp_path)
    assert facts["tokens_after"] < facts["tokens_before"]
    assert made.tokenizer.pad_token_id == whole.tokenizer.pad_token_id
    assert written(made, FEW[0]) == written(whole, FEW[0])
    task: Any = made.task
    assert made.tokenizer.convert_ids_to_tokens(task.settings.forced_bos_id) == "__de__"


def test_a_trimmed_model_learns_from_its_whole_source(source: Callable[[str], TorchModel], tmp_path: Path) -> None:
    from converter.distill.soft import SoftLabels

    whole = source("marian")
    made, _ = trimmed(whole, tmp_path)
    examples = tuple(Example(t, label=References((t[::-1],))) for t in FEW)
    ctx = replace(Context(tmp_path, calibration=examples), teacher=whole)
    _, record = run_stage(SoftLabels(steps=2, hidden_weight=0.0), made, ctx)
    # The student is its teacher, but for tokens that nobody asks for: there is nothing to learn.
    assert record.facts["first_loss"] < 0.05


def listed(model: TorchModel, work: Path, **options: Any) -> tuple[TorchModel, dict[str, Any]]:
    labels = [References(() if model.task.kind == "decoder" else (text[::-1],)) for text in FEW]
    calibration = tuple(Example(t, label=label) for t, label in zip(FEW, labels, strict=True))
    made, record = run_stage(OutputShortlist(**options), model, Context(work, calibration=calibration))
    return made, record.facts


@pytest.mark.parametrize("kind", KINDS)
def test_a_shortlist_is_exact_for_what_it_keeps_and_never_chooses_another(
    kind: str, source: Callable[[str], TorchModel], tmp_path: Path
) -> None:
    import torch

    from converter.reference import feed_of
    from converter.surgery.shortlist import shortlist_of

    whole = source(kind)
    made, facts = listed(whole, tmp_path)
    kept = shortlist_of(made)
    assert kept is not None
    assert facts["kept"] == len(kept) < facts["tokens"]
    for text in (*FEW, *SENTENCES[10:14]):
        encoding = whole.task.continued(
            whole.specs, torch_run(whole), whole.task.encode(whole.tokenizer, Example(text), whole.max_length)
        )
        feed = {n: torch.from_numpy(rows) for n, rows in feed_of(whole, [encoding]).items()}
        with torch.no_grad():
            before, after = (model.whole()(**feed)["logits"] for model in (whole, made))
        wanted = before[..., list(kept)]
        assert float((after[..., list(kept)] - wanted).abs().max()) <= 1e-5 * float(np.ptp(before.numpy()))
        gone = sorted(set(range(before.shape[-1])) - set(kept))
        assert bool((after[..., gone].amax(-1) < after[..., list(kept)].amin(-1)).all())
        if text in FEW:
            assert written(made, text) == written(whole, text)


def test_a_model_with_a_shortlist_comes_back_from_its_folder(
    source: Callable[[str], TorchModel], tmp_path: Path
) -> None:
    for kind in ("t5", "gpt2"):
        made, _ = listed(source(kind), tmp_path)
        save_model(made, tmp_path / kind)
        again = load_source(str(tmp_path / kind))
        assert again.digest == made.digest
        assert [written(again, text) for text in FEW] == [written(made, text) for text in FEW]


def test_a_shortlist_without_text_is_refused(source: Callable[[str], TorchModel]) -> None:
    with pytest.raises(UsageError, match="no text to find the written tokens in"):
        check_stage(OutputShortlist(), source("marian"), has_text=False)
    with pytest.raises(ExportError, match="must be kept"):
        check_stage(OutputShortlist(top=3), source("marian"), has_text=True)
    check_stage(OutputShortlist(), source("marian"), has_text=True)


def test_the_source_is_held_to_the_shortlist_too(source: Callable[[str], TorchModel], tmp_path: Path) -> None:
    from converter.surgery.shortlist import shortlist_of
    from converter.validate.vocabulary import as_seen_by

    whole = source("gpt2")
    made, _ = listed(whole, tmp_path)
    reference = capture_reference(whole, [Example(t) for t in SENTENCES[:10]], SILENT)
    shown, seen = as_seen_by(made, whole, reference, None, SILENT)
    assert shortlist_of(shown) == shortlist_of(made) is not None
    answers = [j.encoding.answer.tolist() for j in seen.judged if j.encoding.answer is not None]
    own = [j.encoding.answer.tolist() for j in reference.judged if j.encoding.answer is not None]
    assert any(a != b for a, b in zip(answers, own, strict=True))
    assert set().union(*answers) <= set(shortlist_of(made) or ())
