"""Every family in a cache of fixed size: it writes what the source writes, behind windows and to the last position."""

from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converter.artifact import TorchModel
from converter.errors import UsageError
from converter.generate.loop import generate
from converter.generate.modules import torch_graphs_run
from converter.generate.steps import Steps
from converter.stage import Context
from converter.tflite.writing.lower import LowerWriter, layout_of
from tests.fixed_caches import FAMILIES, WINDOW, WINDOWED, family_model, run_in_torch, sizes_of, to_the_end
from tests.tiny_text import batch_for, continue_in_transformers, prompts, settings_of

COMPARED = ("gemma3", "mt5")
"""Of which a file is made: two kinds of layers, and two stacks. `benchmarks/phone.py families` makes all of them."""


Texts = list[tuple[Any, Any]]
"""What is asked, and what the source writes then."""


def texts_of(source: TorchModel, count: int = 3) -> Texts:
    """Let the source continue some prompts until the cache of `sizes_of` is full."""
    feeds = [batch_for(source.module, [prompt]) for prompt in prompts(count, longest=30)]
    return [(feed, continue_in_transformers(source.module, feed, **to_the_end(source))) for feed in feeds]


def writes(source: TorchModel, run: Any, texts: Texts) -> bool:
    """Tell whether `run` writes the same."""
    settings = settings_of(source.module, **({"max_new_tokens": None} | to_the_end(source)))
    return all(np.array_equal(generate(run, source.specs, feed, settings).sequences, t) for feed, t in texts)


@pytest.mark.parametrize("family", FAMILIES)
def test_signatures_write_what_the_source_writes_to_the_end_of_the_cache(family: str) -> None:
    source = family_model(family)
    texts = texts_of(source)
    with run_in_torch(source) as runner:
        assert writes(source, runner.run, texts)


@pytest.mark.parametrize("family", COMPARED)
def test_the_file_of_a_family_writes_what_the_source_writes(family: str, tmp_path: Path) -> None:
    source = family_model(family)
    made = LowerWriter(*sizes_of(source)).run(source, Context(work=tmp_path)).made
    run = made.open_writer(xnnpack=True).run
    assert writes(source, run, texts_of(source))
    # Its cache is written in place, yet a text goes on from any step of it.
    wanted = two_ways(source, torch_graphs_run(source.module))
    assert np.allclose(two_ways(source, run), wanted, atol=1e-4 * np.ptp(wanted))


def two_ways(source: TorchModel, run: Any) -> Any:
    """Return the logits of a text that goes on in two ways, a token of each in turn."""
    one = Steps(run, source.specs, batch_for(source.module, [prompts(2)[1]]))
    prompt = batch_for(source.module, [prompts(2)[1]])["input_ids"] if one.causal else np.array([[3]])
    made = [one.step(prompt, keep=1)]
    other = copy(one)
    for token in (7, 9, 11):
        made += [one.step(np.array([[token]])), other.step(np.array([[token + 20]]))]
    return np.concatenate(made)


def test_texts_that_are_decoded_in_turn_do_not_disturb_each_other() -> None:
    source = family_model("mt5")
    wanted = in_turn(source, torch_graphs_run(source.module))
    with run_in_torch(source) as runner:
        assert np.allclose(in_turn(source, runner.run), wanted, atol=1e-4 * np.ptp(wanted))
    first = Steps(torch_graphs_run(source.module), source.specs, batch_for(source.module, [prompts(1)[0]]))
    first.step(np.array([[3]]))
    wanted = copy(first).step(np.array([[7]]))
    with run_in_torch(source) as runner:
        first._run = runner.run  # a runner that has not seen the text, only its caches
        assert np.allclose(first.step(np.array([[7]])), wanted, atol=1e-4 * np.ptp(wanted))


@pytest.mark.parametrize("family", COMPARED)
def test_a_cache_that_the_next_call_goes_on_from_cannot_be_changed(family: str) -> None:
    source = family_model(family)
    with run_in_torch(source) as runner:
        steps = Steps(runner.run, source.specs, batch_for(source.module, [prompts(1)[0]]))
        steps.step(np.array([[3]]), mask=np.ones((1, 1), dtype=np.int64))
        for cache in steps._cache.values():
            with pytest.raises(ValueError, match="read-only"):
                cache[...] = 0


def in_turn(source: TorchModel, run: Any) -> Any:
    """Return the logits of two texts, of which the second is encoded in the middle of the first, each begun twice."""
    one, other = prompts(2)
    first = Steps(run, source.specs, batch_for(source.module, [one]))
    again = copy(first)
    made = [first.step(np.array([[3]]))]
    second = Steps(run, source.specs, batch_for(source.module, [other]))
    made += [second.step(np.array([[3]])), again.step(np.array([[2]]))]
    for token in (7, 9):
        made += [steps.step(np.array([[token]])) for steps in (first, second, again)]
    return np.concatenate(made)


@pytest.mark.parametrize("interrupted", ["put", "encode"])
def test_cross_keys_are_put_once_more_after_a_call_that_raised(
    interrupted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = family_model("mt5")
    one, other = (batch_for(source.module, [p]) for p in prompts(2))
    with run_in_torch(source) as runner:
        first, second = (Steps(runner.run, source.specs, feed) for feed in (one, other))
        first.step(np.array([[3]]))
        wanted = copy(first).step(np.array([[7]]))
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            if interrupted == "put":
                stop_behind_cross_keys(runner._call, patch)
                second.step(np.array([[3]]))
            else:
                stop_behind_encoder(runner._call, patch)
                Steps(runner.run, source.specs, other)
        assert np.array_equal(first.step(np.array([[7]])), wanted)


def stop_behind_cross_keys(caller: Any, patch: pytest.MonkeyPatch) -> None:
    put = caller.put

    def stopped(caches: Any) -> None:
        put(caches)
        if any(name.startswith("cross") for name in caches):
            raise KeyboardInterrupt

    patch.setattr(caller, "put", stopped)


def stop_behind_encoder(caller: Any, patch: pytest.MonkeyPatch) -> None:
    call = caller._call

    def stopped(name: str, given: Any) -> Any:
        made = call(name, given)
        if not name.startswith("encode"):
            return made
        # LiteRT writes cross keys where the decoder reads them.
        caller.put({n: v for n, v in made.items() if n.startswith("cross")})
        raise KeyboardInterrupt

    patch.setattr(caller, "_call", stopped)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_positions_that_change_with_the_length_are_refused_beyond_it_and_right_within(kind: str) -> None:
    within, beyond = (changing(kind, learned) for learned in (40, 39))
    said = f"positions of {kind} are computed otherwise .* more than 39 tokens"
    with pytest.raises(UsageError, match=said) as caught:
        layout_of(beyond, *sizes_of(beyond))
    assert "cache=39" in caught.value.hint
    within.module(**{n: torch.ones(1, 60, dtype=torch.long) for n in ("input_ids", "attention_mask")})  # a long one
    texts = texts_of(within)
    with run_in_torch(within) as runner:
        assert writes(within, runner.run, texts)
    assert any(getattr(m, "rope_type", "") == kind for m in within.module.modules()), "only while it is traced"


def changing(kind: str, learned: int) -> TorchModel:
    """Return a model whose positions change for texts of more than `learned` tokens."""
    table: dict[str, Any] = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0}
    if kind == "longrope":
        halves = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
        # What the configuration itself says goes before what its table does.
        return family_model("phi3", rope_parameters=table | halves, original_max_position_embeddings=learned)
    return family_model("llama", rope_parameters=table, max_position_embeddings=learned)


# What a signature does wrong must be seen.


@pytest.mark.parametrize("family", WINDOWED)
def test_a_window_one_too_wide_is_seen(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from converter.tflite.writing import graphs

    source = family_model(family)
    right = graphs._masks

    def wider(config: Any, mask: Any, positions: Any) -> Any:
        monkeypatch.setattr(config, "sliding_window", WINDOW + 1)
        made = right(config, mask, positions)
        monkeypatch.setattr(config, "sliding_window", WINDOW)
        return made

    monkeypatch.setattr(graphs, "_masks", wider)
    texts = texts_of(source)
    with run_in_torch(source) as runner:
        assert not writes(source, runner.run, texts)
