"""Source and package of different vocabularies, compared from text to answer.

A package with a trimmed vocabulary has its own tokenizer: its ids are others, and rare words have other tokens. The
source keeps its own tokenizer and its own answers; only the table in which they are compared is the package's.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.data.encode import MASK_SPELLINGS
from converter.examples import Encoding
from converter.graphs import MODEL, SEQUENCE, VOCABULARY
from converter.reference import Probe, Reference, at_length, encode_probes, run_probe, torch_run
from converter.task import Judged

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.stage import Progress


def as_seen_by(
    made: "TorchModel", source: "TorchModel", reference: Reference, length: int | None, progress: "Progress"
) -> "tuple[TorchModel, Reference]":
    """Return source and reference in the terms of `made`: texts cut to `length` tokens, encoded as `made` does.

    The returned model's tokenizer is that of `made`, and so are its graphs; its weights are the source's, so it
    serves to encode and judge.
    """
    shown, seen = at_length(source, reference, length, progress)
    if made.cache is not None:
        return writer_as_seen_by(made, shown, seen)
    if made.source_ids is None:
        return shown, seen
    theirs = replace(shown, tokenizer=made.tokenizer)
    new_ids = {old: new for new, old in enumerate(made.source_ids)}
    judged, decisions = [], []
    probes = encode_probes(theirs, [j.example for j in seen.judged])
    for mine, decision, probe in zip(seen.judged, seen.decisions, probes, strict=True):
        own = _asked(shown, made, mine, probe)
        judged.append(_laid_out(shown, made, own, probe))
        found = decision if own is mine else shown.task.decisions([own])[0]
        decisions.append(shown.task.decision_in(found, judged[-1], new_ids))
    scored = encode_probes(theirs, [p.example for p in seen.scored])
    # Words at a mask are other ids there: those of texts that are no probes are not laid out, so not compared.
    score = replace(seen.score, rest=()) if source.specs[MODEL].outputs_along(VOCABULARY) else seen.score
    return theirs, replace(seen, judged=tuple(judged), decisions=tuple(decisions), scored=scored, score=score)


def writer_as_seen_by(made: "TorchModel", source: "TorchModel", reference: Reference) -> "tuple[TorchModel, Reference]":
    """Do the same for models that write text: what the source writes is held to as far as `made` can spell it.

    With a trimmed vocabulary, or a shortlist of what is written, a continuation ends before its first token that is
    gone (a package that writes on there counts as different); only where it would begin with one is the likeliest token
    asked for that is left. Scores of single steps are those of the source for the tokens that are left.
    """
    from converter.surgery.shortlist import shortlist_of, with_shortlist
    from converter.surgery.vocabulary import in_vocabulary_of

    assert source.cache is not None
    listed = shortlist_of(made)
    if made.source_ids is None and listed is None:
        return replace(source, cache=made.cache), reference
    shown = in_vocabulary_of(made, source)
    shown = shown if listed is None else with_shortlist(shown, listed)
    source_ids = made.source_ids or range(source.cache.vocabulary)
    written = None if listed is None else set(listed)
    new_ids = {old: new for new, old in enumerate(source_ids) if written is None or new in written}
    run, judged = torch_run(shown), []
    for mine, probe in zip(reference.judged, encode_probes(shown, [j.example for j in reference.judged]), strict=True):
        answer = mine.encoding.answer
        if not _same_tokens(mine.encoding, probe.encoding, source_ids):
            asked = _back(probe.encoding, source_ids)
            answer = source.task.continued(source.specs, torch_run(source), asked).answer
        kept = list(takewhile(new_ids.__contains__, () if answer is None else answer.tolist()))
        task: Any = shown.task
        if kept:
            encoding = task.with_answer(probe.encoding, np.asarray([new_ids[i] for i in kept], dtype=np.int64))
        else:
            encoding = task.continued(shown.specs, run, probe.encoding)
        judged.append(run_probe(shown, Probe(probe.example, encoding), run))
    scored = encode_probes(shown, [p.example for p in reference.scored])
    seen = replace(
        reference,
        judged=tuple(judged),
        decisions=tuple(shown.task.decisions(judged)),
        scored=scored,
        score=replace(reference.score, rest=()),
    )
    return replace(shown, cache=made.cache), seen


def _back(encoding: Encoding, source_ids: Sequence[int]) -> Encoding:
    """Return a text with the ids that the source has for its tokens."""
    ids = np.asarray([source_ids[i] for i in encoding.inputs["input_ids"]], dtype=np.int64)
    return replace(encoding, inputs={**encoding.inputs, "input_ids": ids})


def vocabulary_facts(made: "TorchModel", source: "TorchModel", before: Reference, seen: Reference) -> dict[str, Any]:
    """Return how many texts a trimmed vocabulary tokenizes differently; empty where it is the source's own."""
    if made.source_ids is None:
        return {}
    pairs = zip((*before.probes, *before.scored), (*seen.probes, *seen.scored), strict=True)
    texts = {old.example: not _same_tokens(old.encoding, new.encoding, made.source_ids) for old, new in pairs}
    return {
        "vocabulary": {
            "tokens": len(made.source_ids),
            "source_tokens": len(source.tokenizer),
            "texts": len(texts),
            "split_otherwise": sum(texts.values()),
        }
    }


def _same_tokens(old: Encoding, new: Encoding, source_ids: Sequence[int]) -> bool:
    back = [source_ids[i] for i in new.inputs["input_ids"]]
    return bool(np.array_equal(old.inputs["input_ids"], back))


def _asked(source: "TorchModel", made: "TorchModel", mine: Judged, probe: Probe) -> Judged:
    """Return what the source answered.

    Where masks were put on tokens (the text has none of its own) other tokens are other questions: the source is asked
    about the package's.
    """
    assert made.source_ids is not None
    n_masks = len(mine.encoding.masked), len(probe.encoding.masked)
    if any(s in probe.example.text for s in MASK_SPELLINGS) and n_masks[0] == n_masks[1]:
        return mine
    if not source.specs[MODEL].outputs_along(VOCABULARY) or _same_tokens(
        mine.encoding, probe.encoding, made.source_ids
    ):
        return mine
    return run_probe(source, Probe(probe.example, _back(probe.encoding, made.source_ids)), torch_run(source))


def _laid_out(source: "TorchModel", made: "TorchModel", mine: Judged, probe: Probe) -> Judged:
    """Return the source's answer with a row for every token of the package and a column for every one it knows."""
    assert made.source_ids is not None
    wide, outputs = source.specs[MODEL].outputs_along(VOCABULARY), dict(mine.outputs)
    if not wide and not _same_tokens(mine.encoding, probe.encoding, made.source_ids):
        outputs = _aligned(source, mine, probe.encoding)
    columns = list(made.source_ids)
    return Judged(probe.example, probe.encoding, {n: v[..., columns] if n in wide else v for n, v in outputs.items()})


def _aligned(source: "TorchModel", mine: Judged, new: Encoding) -> dict[str, Any]:
    """Give every token of the package what the source answered at the same place of the text."""
    rows, long = _places(mine.encoding, new), source.specs[MODEL].outputs_along(SEQUENCE)
    return {n: v[rows] if n in long else v for n, v in mine.outputs.items()}


def _places(old: Encoding, new: Encoding) -> list[int]:
    """Return, for each token of `new`, the token of `old` that covers its first character.

    Special tokens cover none: they are paired by their order.
    """
    special = [i for i, s in enumerate(old.sequence_ids) if s is None] or [0]
    rows, seen = [], 0
    for (start, _), sequence in zip(new.offsets, new.sequence_ids, strict=True):
        if sequence is None:
            rows.append(special[min(seen, len(special) - 1)])
            seen += 1
            continue
        own = [i for i, s in enumerate(old.sequence_ids) if s == sequence]
        after = (i for i in own if old.offsets[i][1] > start)
        rows.append(next(after, own[-1] if own else 0))
    return rows
