"""That kept text is answered as before; and what becomes of other text."""

from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.data.probes import even_sample, is_edge
from converter.errors import StageFailed
from converter.examples import Example
from converter.graphs import MODEL, VOCABULARY
from converter.reference import encode_probes, feed_of, run_probe, torch_run
from converter.scoring.relative_error import relative_error
from converter.surgery.token_usage import pieces, split_otherwise, texts_of
from converter.validate.answers import shorten

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.stage import Context

ANSWERED = 32
"""Kept texts that both models are asked."""
NEARLY = 1e-5
"""Over the output range: what a product may round differently where it has fewer columns (outputs as wide as the
vocabulary), or where its numbers have another memory layout (MKL on AMD: 1e-7 was measured, Intel the same bits)."""


def prove_kept(
    given: "TorchModel", made: "TorchModel", texts: Sequence[str], ctx: "Context", *, lossless: bool
) -> dict[str, Any]:
    """Count the kept texts that are tokenized differently, and compare answers to some that are not.

    Raises:
        StageFailed: the trimming is to be lossless, and a kept text has other tokens; or the same tokens got another
            answer.

    """
    if not texts:
        return {"texts": 0}
    with ctx.progress.task("Tokenizing the kept text again", total=len(texts)) as ticker:
        other = set(split_otherwise(given.tokenizer, made.tokenizer, texts, ticker))
    if lossless and other:
        text = texts[min(other)]
        raise StageFailed(
            f"{len(other)} kept texts are tokenized differently, such as {shorten(text)!r}: "
            f"{pieces(made.tokenizer, text)[:8]}, were {pieces(given.tokenizer, text)[:8]}",
            where="trim.vocabulary",
        )
    same = [Example(t) for i, t in enumerate(texts) if i not in other]
    asked = even_sample(same, ANSWERED) if same else ()
    _compare_answers(given, made, asked)
    return {"texts": len(texts), "split_otherwise": len(other), "answers_compared": len(asked)}


def _compare_written(given: "TorchModel", made: "TorchModel", examples: Sequence[Example]) -> None:
    """Compare the scores of what the model writes about texts, as far as its tokens are kept."""
    import torch

    assert made.source_ids is not None
    columns = _columns(given, made)
    new = {old: i for i, old in enumerate(columns)}
    run, task = torch_run(given), made.task
    for example in examples:
        bare = Example(example.text)
        old = given.task.continued(given.specs, run, given.task.encode(given.tokenizer, bare, given.max_length))
        answer = [] if old.answer is None else old.answer.tolist()
        kept = list(takewhile(new.__contains__, answer)) or sorted(given.task.needed_ids())[:1]
        ids = np.asarray([new[i] for i in kept], dtype=np.int64)
        asked = (
            given.task.with_answer(old, np.asarray(kept, dtype=np.int64)),  # type: ignore[attr-defined]
            task.with_answer(task.encode(made.tokenizer, bare, made.max_length), ids),  # type: ignore[attr-defined]
        )
        with torch.inference_mode():
            before, after = (
                model.whole()(**{n: torch.from_numpy(rows) for n, rows in feed_of(model, [one]).items()})["logits"]
                for model, one in zip((given, made), asked, strict=True)
            )
        value, found = before[..., columns].numpy(), after.numpy()
        if not relative_error(found, value, float(np.ptp(value))) <= NEARLY:
            raise StageFailed(f"what follows {shorten(example.text)!r} changed after trimming", where="trim.vocabulary")


def _compare_answers(given: "TorchModel", made: "TorchModel", examples: Sequence[Example]) -> None:
    if given.cache is not None:
        _compare_written(given, made, examples)
        return
    before, after = torch_run(given), torch_run(made)
    wide = given.specs[MODEL].outputs_along(VOCABULARY)
    assert made.source_ids is not None
    for old, new in zip(encode_probes(given, examples), encode_probes(made, examples), strict=True):
        wanted, found = run_probe(given, old, before).outputs, run_probe(made, new, after).outputs
        for name, value in wanted.items():
            kept = value[..., _columns(given, made)] if name in wide else value
            # Written so that NaN is another answer.
            if not relative_error(found[name], kept, float(np.ptp(value))) <= NEARLY:
                raise StageFailed(
                    f"{name} of {shorten(old.example.text)!r} changed after trimming", where="trim.vocabulary"
                )


def _columns(given: "TorchModel", made: "TorchModel") -> list[int]:
    """Return the ids in `given` of the tokens of `made`."""
    assert made.source_ids is not None
    if given.source_ids is None:
        return list(made.source_ids)
    place = {source: i for i, source in enumerate(given.source_ids)}
    return [place[source] for source in made.source_ids]


def held_out(given: "TorchModel", made: "TorchModel", kept: set[str], ctx: "Context", n_shown: int) -> dict[str, Any]:
    """Count, on evaluation text that was not kept, what is tokenized differently now, and show some of it."""
    if not ctx.held_out:
        return {"texts": 0}
    judged = [e for e in ctx.held_out if not is_edge(e)]
    texts = [t for t in dict.fromkeys(texts_of(judged, given.tokenizer.mask_token, given.task.prompt)) if t not in kept]
    with ctx.progress.task("Tokenizing held-out text", total=len(texts)) as ticker:
        other = split_otherwise(given.tokenizer, made.tokenizer, texts, ticker)
    return {
        "texts": len(texts),
        "split_otherwise": len(other),
        "share": round(len(other) / max(1, len(texts)), 4),
        "examples": [
            {
                "text": shorten(texts[i], 200),
                "was": _changed(pieces(given.tokenizer, texts[i]), pieces(made.tokenizer, texts[i])),
                "is": _changed(pieces(made.tokenizer, texts[i]), pieces(given.tokenizer, texts[i])),
            }
            for i in other[:n_shown]
        ],
    }


def _changed(mine: list[str], other: list[str]) -> str:
    """Return the tokens of `mine` that `other` does not have."""
    left = set(other)
    return " ".join(p for p in mine if p not in left)
