"""Sampling: the distribution is transformers', the draws are the seed's."""

import numpy as np
import pytest

from converter.generate.loop import generate
from converter.generate.rules import sampling_rules, softmax
from converter.generate.settings import GenerationSettings
from converter.graphs import BATCH, MODEL, PAST, SEQUENCE, VOCABULARY, GraphSpec, Run, TensorSpec

SPEC = GraphSpec(
    MODEL,
    (TensorSpec("input_ids", "int64", (BATCH, SEQUENCE)), TensorSpec("attention_mask", "int64", (BATCH, PAST))),
    (TensorSpec("logits", "float32", (BATCH, SEQUENCE, VOCABULARY)),),
)


def scores(rows: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, (rows, 60)).astype(np.float32)


def constant(logits: np.ndarray) -> Run:
    """A model that says the same whatever it is asked."""

    def run(graph: str, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows, length = feed["input_ids"].shape
        return {"logits": np.broadcast_to(logits, (rows, length, len(logits)))}

    return run


def draws(settings: GenerationSettings, logits: np.ndarray, rows: int) -> np.ndarray:
    ids = np.ones((rows, 1), dtype=np.int64)
    made = generate(constant(logits), {MODEL: SPEC}, {"input_ids": ids, "attention_mask": ids}, settings)
    return made.sequences[:, 1:]


@pytest.mark.parametrize(
    "values",
    [{"temperature": 0.7}, {"top_k": 5}, {"top_k": 500}, {"top_p": 0.8}, {"top_p": 0.01}, {"min_p": 0.1},
     {"temperature": 1.7, "top_k": 20, "top_p": 0.9, "min_p": 0.02}],
    ids=str,
)  # fmt: skip
def test_the_distribution_is_that_of_transformers(values: dict[str, float]) -> None:
    import torch
    from transformers.generation import logits_process as t

    theirs = {
        "temperature": t.TemperatureLogitsWarper,
        "top_k": t.TopKLogitsWarper,
        "top_p": t.TopPLogitsWarper,
        "min_p": t.MinPLogitsWarper,
    }
    found, right = scores(), torch.from_numpy(scores())
    for rule in sampling_rules(GenerationSettings(**({"top_k": 0} | values))):
        found = rule(np.zeros((5, 1), dtype=np.int64), found)
    for name, value in values.items():
        right = theirs[name](value)(None, right)
    assert np.allclose(softmax(found), right.softmax(-1).numpy(), atol=1e-6)
    assert np.array_equal(np.isneginf(found), np.isneginf(right.numpy()))


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    logits = scores(1)[0]
    settings = GenerationSettings(max_new_tokens=20, sample=True, temperature=1.5, top_p=0.9)
    found = np.bincount(draws(settings, logits, 500).reshape(-1), minlength=60) / 10_000
    shaped = logits[None]
    for rule in sampling_rules(settings):
        shaped = rule(np.zeros((1, 1), dtype=np.int64), shaped)
    right = softmax(shaped)[0]
    # Four standard deviations of a share.
    assert (np.abs(found - right) <= 4 * np.sqrt(right * (1 - right) / 10_000)).all()


def test_a_seed_gives_the_same_text_and_another_seed_another() -> None:
    logits = scores(1)[0]
    one, again, other = (
        draws(GenerationSettings(max_new_tokens=20, sample=True, seed=s), logits, 3) for s in (1, 1, 2)
    )
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one[0], one[1]), "rows of a batch share their random numbers"


def test_a_text_is_drawn_alike_alone_and_first_of_a_batch() -> None:
    logits = scores(1)[0]
    settings = GenerationSettings(max_new_tokens=20, sample=True)
    assert np.array_equal(draws(settings, logits, 1)[0], draws(settings, logits, 4)[0])


def test_a_token_without_probability_is_never_drawn() -> None:
    logits = np.where(np.arange(60) == 59, 0, -np.inf).astype(np.float32)
    assert set(draws(GenerationSettings(max_new_tokens=50, sample=True), logits, 20).reshape(-1)) == {59}
